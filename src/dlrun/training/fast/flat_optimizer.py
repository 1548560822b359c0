"""One small group's weights in one buffer, and an optimizer's step on it in a few calls.

A small network's step is mostly the cost of calling torch. The state stays where the torch
optimizer keeps it: its tensors are views. Several members, whose weights are stacked, are updated
together, each with its own hyperparameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from dlrun.core.errors import UserError
from dlrun.training.optimizers import (
    STATE_NAMES,
    UNSUPPORTED_OPTIONS,
    Group,
    OptimizerStateView,
    call_kernel,
    find_fused_kernel,
    get_torch_optimizer_class,
    is_any_nonzero,
    match_strides,
)

MAX_FLAT_PARAMETERS = (
    1 << 18
)  # numbers; from about there on reading and writing them costs more than the calls
PER_MEMBER_SETTINGS = (
    "lr",
    "weight_decay",
)  # of these hyperparameters each member may have its own, as a tensor (members, 1)
State = dict[str, Tensor]
UpdateRule = Callable[[Group, Tensor, Tensor, State, Any], None]  # of weights and state, in place


def rmsprop(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    """RMSprop as torch has it, not centered (Tieleman & Hinton 2012)."""
    gradient = add_weight_decay(group, weights, gradient)
    square = (
        state["square_avg"]
        .mul_(group["alpha"])
        .addcmul_(gradient, gradient, value=1 - group["alpha"])
    )
    root = square.sqrt().add_(group["eps"])
    if "momentum_buffer" in state:
        apply_update(
            weights,
            state["momentum_buffer"].mul_(group["momentum"]).addcdiv_(gradient, root),
            group["lr"],
        )
    elif isinstance(group["lr"], Tensor):
        apply_update(weights, gradient / root, group["lr"])
    else:
        weights.addcdiv_(gradient, root, value=-group["lr"])


def sgd(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    """Gradient descent as torch has it, with momentum if wanted.

    The first gradient is taken whole.
    """
    gradient = add_weight_decay(group, weights, gradient)
    if "momentum_buffer" in state:
        momentum, buffer = group["momentum"], state["momentum_buffer"]
        buffer.mul_(momentum).add_(gradient)
        gradient = gradient + buffer * momentum if group["nesterov"] else buffer
    apply_update(weights, gradient, group["lr"])


def adam(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    """Adam (Kingma & Ba 2015), with the decay in the gradient."""
    _adam(group, weights, add_weight_decay(group, weights, gradient), state, step)


def adamw(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    """Adam with decoupled decay (Loshchilov & Hutter 2019)."""
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    _adam(group, weights, gradient, state, step)


def _adam(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    first, second = group["betas"]
    mean = state["exp_avg"].lerp_(gradient, 1 - first)
    square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    root = (square.sqrt() / (1 - second**step) ** 0.5).add_(group["eps"])
    apply_update(weights, mean / root, group["lr"] / (1 - first**step))


def add_weight_decay(group: Group, weights: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the loss with half the squared weights times weight_decay on top."""
    decay = group["weight_decay"]
    # Each member's own decay (members, 1): `alpha` takes only a number.
    if isinstance(decay, Tensor):
        return gradient + weights * decay
    return gradient.add(weights, alpha=decay) if decay else gradient


def apply_update(weights: Tensor, direction: Tensor, rate: Any) -> None:
    """Move weights (members, P) against a direction.

    The rate may be each member's own, (members, 1).
    """
    if isinstance(rate, Tensor):
        weights.sub_(direction * rate)
    else:
        weights.add_(direction, alpha=-rate)


UPDATE_RULES: dict[type[Optimizer], UpdateRule] = {
    RMSprop: rmsprop,
    SGD: sgd,
    Adam: adam,
    AdamW: adamw,
}


class FlatOptimizer:
    """One group's weights in a buffer (members, P), and the state of their optimizer beside it.

    Args:
        parameters: Of shape (…), or with several members (members, …). They become views of the
            buffer. What can be here, `supports_flat_step` says.
        compile_: The change is compiled at the first step; of the hyperparameters only the rate is
            free then.
    """

    # A buffer has no holes: where a weight has no gradient, torch's own step is taken.
    needs_all_gradients = True

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: Optimizer,
        members: int = 1,
        compile_: bool = False,
    ) -> None:
        self.parameters, self.optimizer, self.members = list(parameters), optimizer, members
        group: Group = optimizer.param_groups[0]
        self.change, self.call = (
            UPDATE_RULES[get_torch_optimizer_class(optimizer)],
            find_fused_kernel(parameters, optimizer),
        )
        names = STATE_NAMES[get_torch_optimizer_class(optimizer)] + (
            ("momentum_buffer",) if is_any_nonzero(group.get("momentum", 0)) else ()
        )
        self.weights = torch.cat([p.detach().reshape(members, -1) for p in parameters], 1)
        self.state = {name: torch.zeros_like(self.weights) for name in names}
        self.compile = compile_
        self.run: Callable[[list[Any]], list[Tensor]] | None = None
        self.rate, self.count = (
            torch.zeros((), dtype=torch.float64),
            torch.zeros((), dtype=torch.float64),
        )
        for parameter, view in zip(parameters, self.views(self.weights), strict=True):
            # The parameters are views from now on: one write to the buffer updates them all.
            parameter.data = view
        state_views = lambda: {name: self.views(buffer) for name, buffer in self.state.items()}  # noqa: E731
        self.state_view = OptimizerStateView(parameters, optimizer, state_views)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take one step of the optimizer.

        Args:
            gradients: One for each parameter, of its shape. Call under no_grad.
        """
        group = self.state_view.count_step()
        if self.compile:
            self._update_fast(group, gradients)
            return
        gradient = torch.cat(
            [gradient_part.reshape(self.members, -1) for gradient_part in gradients], 1
        )
        if self.call is not None:
            self._kernel_step(group, gradient)
        else:
            self.change(group, self.weights, gradient, self.state, self.state_view.steps_taken)

    def _kernel_step(self, group: Group, gradient: Tensor) -> None:
        """One call for all members; where they differ in rate or decay, it finds the directions to
        go in.
        """
        differs = [name for name in PER_MEMBER_SETTINGS if isinstance(group[name], Tensor)]
        weights, call = self.weights, self.call
        if differs:
            weights, call = torch.zeros_like(self.weights), torch._fused_adam_
            if get_torch_optimizer_class(self.optimizer) is AdamW:
                self.weights.mul_(1 - group["lr"] * group["weight_decay"])
            else:
                gradient = add_weight_decay(group, self.weights, gradient)
        numbers = group | ({"lr": 1.0, "weight_decay": 0.0} if differs else {})
        state = {name: [buffer] for name, buffer in self.state.items()}
        call_kernel(call, numbers, self.state_view.steps_taken, [weights], [gradient], state)
        if differs:
            # The kernel ran at rate 1 on zeros, so `weights` holds the directions.
            self.weights.addcmul_(weights, torch.as_tensor(group["lr"]))

    def _update_fast(self, group: Group, gradients: Sequence[Tensor]) -> None:
        names = list(self.state)

        def change(weights: Tensor, rate: Tensor, step: Tensor, *tensors: Tensor) -> list[Tensor]:
            state, gradient = (
                dict(zip(names, tensors, strict=False)),
                [flat_gradient.reshape(-1) for flat_gradient in tensors[len(names) :]],
            )
            self.change({**group, "lr": rate}, weights, torch.cat(gradient)[None], state, step)
            return []

        # As tensors: numbers would be compiled in as constants.
        self.rate.fill_(group["lr"])
        self.count.fill_(self.state_view.steps_taken)
        inputs = [
            self.weights,
            self.rate,
            self.count,
            *self.state.values(),
            *map(match_strides, gradients, self.parameters),
        ]
        if self.run is not None:
            self.run(inputs)
            return
        from dlrun.training.fast import aot_inductor

        compiled = aot_inductor.compile_function(change, inputs, "the optimizer's step")
        self.run = aot_inductor.verify_compiled(change, compiled, inputs)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The parts of a buffer (members, P), each in the shape of its parameter."""
        slices = buffer.split(
            [parameter.numel() // self.members for parameter in self.parameters], 1
        )
        return [
            piece.view(parameter.shape)
            for piece, parameter in zip(slices, self.parameters, strict=True)
        ]


def supports_flat_step(
    parameters: Sequence[Tensor], optimizer: Optimizer, members: int = 1, compile_: bool = False
) -> bool:
    """Whether an optimizer's step on these can, and should, be done here.

    One group of a few plain numbers.
    """
    return (
        get_torch_optimizer_class(optimizer) in UPDATE_RULES
        and len(optimizer.param_groups) == 1
        and {(p.dtype, p.device, p.is_contiguous()) for p in parameters}
        == {(torch.float32, parameters[0].device, True)}
        and not any(
            is_any_nonzero(optimizer.param_groups[0].get(name, False))
            for name in UNSUPPORTED_OPTIONS
        )
        and (members > 1 or compile_ or sum(map(torch.numel, parameters)) <= MAX_FLAT_PARAMETERS)
    )


def check_optimizer_compile(parameters: Sequence[Tensor], optimizer: Optimizer) -> None:
    """Raise UserError where the step of an optimizer cannot be compiled."""
    if supports_flat_step(parameters, optimizer, compile_=True):
        return
    from dlrun.training.fast.aot_inductor import DISABLE_HINT

    raise UserError(
        f"engine.compile=step: the step of {type(optimizer).__name__} cannot be compiled "
        "for these weights "
        "(those of SGD, RMSprop, Adam and AdamW can, at one rate for all, on weights in "
        "row order, as dense "
        f"layers have them and convolutions here do not); {DISABLE_HINT}"
    )
