"""Optimizers as torch has them, stepped without detours; and schedules.

Functions of what has happened so far.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from dlrun.config.constraints import Positive
from dlrun.training.fast.fused_optimizer import call_kernel, match_strides, supports_fused_kernel


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
