"""Optimizers, stepped without detours: many weights in one call of torch's fused kernel.

RMSprop has no kernel of its own in torch: it is what Adam's does with no running mean and a bias
that is long gone, in half the time of its own five passes; and torch's square root of many zeros,
which weights have that learn nothing, takes up to ten times that of other numbers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import SGD, Adam, AdamW, Optimizer

from dlrun.config.annotations import Positive

Group = dict[str, Any]  # hyperparameters
GetStateTensors = Callable[[], Mapping[str, Sequence[Tensor]]]
UNSUPPORTED_OPTIONS = (
    "centered",
    "amsgrad",
    "maximize",
    "capturable",
    "differentiable",
    "dampening",
)  # torch's own step does it
INFINITE_STEP = torch.tensor(math.inf)
KERNELS: dict[type[Optimizer], Any] = {
    Adam: torch._fused_adam_,
    AdamW: torch._fused_adamw_,
    optim.RMSprop: torch._fused_adam_,
}
STATE_NAMES: dict[
    type[Optimizer], tuple[str, ...]
] = {  # what an optimizer keeps of a weight, momentum apart
    optim.RMSprop: ("square_avg",),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
    SGD: (),
}


class OptimizerStateView:
    """The state of a torch optimizer in tensors of ours, for a step that is taken in its place.

    Args:
        parameters: Of one group.
        optimizer: Whose state it is.
        parts: Returns state name → its tensors now, one for each parameter.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], optimizer: Optimizer, get_tensors: GetStateTensors
    ) -> None:
        self.parameters, self.optimizer, self.get_tensors = list(parameters), optimizer, get_tensors
        self.load()

    def load(self) -> None:
        """Take all over from the optimizer, as after its state was loaded.

        What it does not have begins at 0.
        """
        for name, tensors in self.get_tensors().items():
            for parameter, tensor in zip(self.parameters, tensors, strict=True):
                stored = self.optimizer.state.get(parameter, {}).get(name)
                # A torch optimizer creates its state lazily, as zeros.
                tensor.zero_() if stored is None else tensor.copy_(stored)
        steps = [
            int(self.optimizer.state.get(parameter, {}).get("step", 0))
            for parameter in self.parameters
        ]
        self.steps_taken, self.shown = max(steps), False
        self.missed = [
            self.steps_taken - count for count in steps
        ]  # steps in which a parameter had no gradient

    def expose(self) -> None:
        """Let the optimizer see our tensors from now on."""
        for name, tensors in self.get_tensors().items():
            for parameter, tensor in zip(self.parameters, tensors, strict=True):
                self.optimizer.state[parameter][name] = tensor
        self.shown = True

    def write_step_counts(self) -> None:
        """Write the number of steps to where the optimizer keeps it, once there was one.

        SGD keeps none.
        """
        if self.shown and not isinstance(self.optimizer, SGD):
            for parameter, missed in zip(self.parameters, self.missed, strict=True):
                self.optimizer.state[parameter]["step"] = torch.tensor(
                    float(self.steps_taken - missed)
                )

    def count_step(self) -> Group:
        """Count one more step; answers with its hyperparameters, which are another mapping after a
        state was loaded.
        """
        if not self.shown:
            self.expose()
        self.steps_taken += 1
        return self.optimizer.param_groups[0]


class FusedOptimizer:
    """One group's weights, wherever they lie, as far as they have gradients.

    What can be here, `find_fused_kernel` says.
    """

    needs_all_gradients = False

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer) -> None:
        self.parameters, self.call = list(parameters), KERNELS[get_torch_optimizer_class(optimizer)]
        self.state = {
            name: [torch.zeros_like(parameter) for parameter in parameters]
            for name in STATE_NAMES[get_torch_optimizer_class(optimizer)]
        }
        self.state_view = OptimizerStateView(parameters, optimizer, lambda: self.state)

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Take one step of the optimizer.

        Args:
            gradients: One for each parameter, of its shape. Call under no_grad.
        """
        group, by_step_count = (
            self.state_view.count_step(),
            dict[int, list[int]](),
        )  # steps taken → which parameters took so many
        for number, gradient in enumerate(gradients):
            if gradient is None:
                self.state_view.missed[number] += 1
            else:
                by_step_count.setdefault(
                    self.state_view.steps_taken - self.state_view.missed[number], []
                ).append(number)
        # Adam's bias correction depends on the count: parameters that missed steps differ.
        for count, numbers in by_step_count.items():
            weights = [self.parameters[n] for n in numbers]
            aligned = [match_strides(gradients[n], self.parameters[n]) for n in numbers]  # type: ignore[arg-type]
            state = {name: [tensors[n] for n in numbers] for name, tensors in self.state.items()}
            call_kernel(self.call, group, count, weights, aligned, state)


def call_kernel(
    call: Any,
    group: Group,
    taken: int,
    weights: Sequence[Tensor],
    gradients: list[Tensor],
    state: Mapping[str, list[Tensor]],
) -> None:
    """Let a kernel change weights and state.

    Args:
        taken: Steps, this one included.
    """
    if not weights:
        return
    if "square_avg" in state:  # RMSprop; its mean is the gradient itself, with the decay
        means = list(map(torch.zeros_like, gradients)) if group["weight_decay"] else gradients
        squares, count, betas = state["square_avg"], INFINITE_STEP, (0.0, group["alpha"])
    else:
        means, squares, count = state["exp_avg"], state["exp_avg_sq"], torch.tensor(float(taken))
        betas = group["betas"]
    numbers = {name: group[name] for name in ("lr", "weight_decay", "eps")}
    lists: Any = weights, gradients, means, squares, [], [count] * len(gradients)
    call(*lists, beta1=betas[0], beta2=betas[1], amsgrad=False, maximize=False, **numbers)


def match_strides(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The same gradient, in memory as its parameter is: a kernel takes them number by number as
    they lie there.

    A sparse one stays as it is.
    """
    if gradient.layout is not torch.strided:
        return gradient
    return (
        gradient
        if gradient.stride() == parameter.stride()
        else torch.empty_like(parameter).copy_(gradient)
    )


def find_fused_kernel(parameters: Sequence[Tensor], optimizer: Optimizer) -> Any:
    """The kernel that does an optimizer's step on these, None where none does.

    One group of a few plain numbers.
    """
    is_supported = len(optimizer.param_groups) == 1 and supports_fused_kernel(
        optimizer.param_groups[0], parameters
    )
    return KERNELS.get(get_torch_optimizer_class(optimizer)) if is_supported else None


def supports_fused_kernel(group: Group, parameters: Sequence[Tensor]) -> bool:
    """Whether a kernel can, and is asked to, do a step with these options on these weights."""
    all_dense_cpu = all(
        (p.dtype, p.device.type, is_dense_in_memory(p)) == (torch.float32, "cpu", True)
        for p in parameters
    )
    needs_torch_step = (
        is_any_nonzero(group.get("momentum", 0))
        or group.get("alpha", 0) >= 1
        or any(map(group.get, UNSUPPORTED_OPTIONS))
    )
    return bool(group.get("fused")) and all_dense_cpu and not needs_torch_step


def get_torch_optimizer_class(optimizer: Optimizer) -> type[Optimizer]:
    """Which of torch's optimizers it is; dlrun's own RMSprop is torch's with `fused`, and Adam may
    be AdamW.
    """
    if isinstance(optimizer, optim.RMSprop) and "fused" in optimizer.defaults:
        return optim.RMSprop
    decoupled = type(optimizer) is Adam and optimizer.param_groups[0].get("decoupled_weight_decay")
    return AdamW if decoupled else type(optimizer)


def is_any_nonzero(value: Any) -> bool:
    """Whether a hyperparameter, a number or one for each member, is not 0 for all."""
    return bool(value.any()) if isinstance(value, Tensor) else bool(value)


def is_dense_in_memory(tensor: Tensor) -> bool:
    """Whether numbers lie one after the other, in whatever order of axes."""
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def avoid_dynamo_import() -> None:
    """Keep torch.optim from importing torch's compiler (2 s of CPU) for decorators that matter only
    under it.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        inner = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            setattr(inner, "__dynamo_disable", inner)  # noqa: B010  (the attribute that the decorator looks up)


def get_unwrapped_step(optimizer: Optimizer) -> Callable[[], Any]:
    """The optimizer's own step, without the profiler's and the compiler's wrappers around it.

    Call under no_grad.
    """
    step = inspect.unwrap(type(optimizer).step)
    return lambda: step(optimizer)


MIN_NORM = 1e-12


class NormalizedGradientDescent(Optimizer):
    """Gradient descent whose step on each row of a parameter has the length `lr`, whatever the
    gradient's (book §5.4).

    Each row's gradient is divided by its root mean square. A row moves among others as it would
    alone, though the loss is a mean over them all. What the book adds so as not to divide by 0,
    1e-5, is as large as many a gradient here.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in (
                parameter for parameter in group["params"] if parameter.grad is not None
            ):
                gradient = parameter.grad * len(parameter)
                length = (
                    gradient.square().mean(tuple(range(1, gradient.dim())), keepdim=True).sqrt()
                )
                parameter.sub_(group["lr"] * gradient / (length + MIN_NORM))


class MeanNormalizedGradientDescent(Optimizer):
    """Gradient descent by the gradient over the mean of its absolute values, or over `eps` where
    that is larger.

    A step so moves the numbers of a parameter by `lr` on average, whatever the gradient's scale
    (book §8.2).
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: Positive, eps: Positive) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in (
                parameter for parameter in group["params"] if parameter.grad is not None
            ):
                parameter.sub_(
                    group["lr"]
                    * parameter.grad
                    / parameter.grad.abs().mean().clamp(min=group["eps"])
                )


class RMSprop(torch.optim.RMSprop):
    """torch's RMSprop.

    That rounds otherwise than torch does, in the last digit. Its state is torch's own.

    Args:
        fused: On the CPU, and without momentum, all weights are updated in one call.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__(params, lr, alpha, eps, weight_decay, momentum, centered, foreach=True)
        for group in (self.defaults, *self.param_groups):
            group["fused"] = fused

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """Take one step with the gradients that are there."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            # Whatever the kernel cannot do, torch's own step does.
            if closure or not supports_fused_kernel(group, parameters):
                return inspect.unwrap(torch.optim.RMSprop.step)(self, closure)
        for group in self.param_groups:
            self._step(
                group, [parameter for parameter in group["params"] if parameter.grad is not None]
            )
        return None

    def _step(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state.update(step=torch.tensor(0.0), square_avg=torch.zeros_like(parameter))
            state["step"] += 1
        gradients = [match_strides(parameter.grad, parameter) for parameter in parameters]  # type: ignore[arg-type]
        squares = [self.state[parameter]["square_avg"] for parameter in parameters]
        # See `fused_optimizer`: RMSprop is Adam without a running mean.
        call_kernel(torch._fused_adam_, group, 0, parameters, gradients, {"square_avg": squares})


def update_hyperparameters(optimizer: Optimizer, requested: list[dict[str, Any]]) -> None:
    """Give an optimizer that goes on from a state the learning rate and the weight decay that it is
    to have now.

    wanted: its groups as it was made. Where the state was made with the same, nothing is changed
        here.
    """
    for group, requested_group in zip(optimizer.param_groups, requested, strict=True):
        if group.get("initial_lr", group["lr"]) != requested_group["lr"]:
            group["lr"] = requested_group["lr"]
            if "initial_lr" in group:
                group["initial_lr"] = float(requested_group["lr"])
        if "weight_decay" in requested_group:
            group["weight_decay"] = requested_group["weight_decay"]


def validate_optimizer(build_optimizer: Callable[[list[torch.Tensor]], Optimizer]) -> None:
    """Build the optimizer once over a number, so that settings it refuses are refused before any
    data are read.
    """
    build_optimizer([torch.zeros(1, requires_grad=True)])
