"""The weights of one small group side by side in one buffer, and an optimizer's step on it in a few calls.

A small network's step is mostly the cost of calling torch. The state stays where the torch optimizer keeps it: its
tensors are views. Several members, whose weights are stacked, are updated together, each with its own hyperparameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from dlrun.training.fast.aot_inductor import Run, compiled, proved
from dlrun.training.fast.fused_optimizer import ELSEWHERE, STATES, Group, Kept, anything, kernel, kind, laid_as, take

SMALL = 1 << 18  # numbers; from about there on reading and writing them costs more than the calls
OWN = ("lr", "weight_decay")  # of these hyperparameters each member may have its own, as a tensor (members, 1)
State = dict[str, Tensor]
Change = Callable[[Group, Tensor, Tensor, State, Any], None]  # of weights and state, in place


def rmsprop(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    """RMSprop as torch has it, not centred (Tieleman & Hinton 2012)."""
    gradient = decayed(group, weights, gradient)
    square = state["square_avg"].mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
    root = square.sqrt().add_(group["eps"])
    if "momentum_buffer" in state:
        go(weights, state["momentum_buffer"].mul_(group["momentum"]).addcdiv_(gradient, root), group["lr"])
    elif isinstance(group["lr"], Tensor):
        go(weights, gradient / root, group["lr"])
    else:
        weights.addcdiv_(gradient, root, value=-group["lr"])


def sgd(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    """Gradient descent as torch has it, with momentum if wanted: the first gradient is taken whole."""
    gradient = decayed(group, weights, gradient)
    if "momentum_buffer" in state:
        momentum, buffer = group["momentum"], state["momentum_buffer"]
        buffer.mul_(momentum).add_(gradient)
        gradient = gradient + buffer * momentum if group["nesterov"] else buffer
    go(weights, gradient, group["lr"])


def adam(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    """Adam (Kingma & Ba 2015), with the decay in the gradient."""
    _adam(group, weights, decayed(group, weights, gradient), state, step)


def adamw(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    """Adam with decoupled decay (Loshchilov & Hutter 2019)."""
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    _adam(group, weights, gradient, state, step)


def _adam(group: Group, weights: Tensor, gradient: Tensor, state: State, step: Any) -> None:
    first, second = group["betas"]
    mean = state["exp_avg"].lerp_(gradient, 1 - first)
    square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    root = (square.sqrt() / (1 - second**step) ** 0.5).add_(group["eps"])
    go(weights, mean / root, group["lr"] / (1 - first**step))


def decayed(group: Group, weights: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the loss with half the squared weights times weight_decay on top."""
    decay = group["weight_decay"]
    if isinstance(decay, Tensor):
        return gradient + weights * decay
    return gradient.add(weights, alpha=decay) if decay else gradient


def go(weights: Tensor, direction: Tensor, rate: Any) -> None:
    """Move weights (members, P) against a direction; the rate may be each member's own, (members, 1)."""
    if isinstance(rate, Tensor):
        weights.sub_(direction * rate)
    else:
        weights.add_(direction, alpha=-rate)


CHANGES: dict[type[Optimizer], Change] = {RMSprop: rmsprop, SGD: sgd, Adam: adam, AdamW: adamw}


class Flat:
    """One group's weights in a buffer (members, P), and the state of their optimizer beside it.

    parameters: of shape (…), or with several members (members, …). They become views of the buffer. What can be here,
    `fits` says. compile_: the change is compiled at the first step; of the hyperparameters only the rate is free then.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], optimizer: Optimizer, members: int = 1, compile_: bool = False
    ) -> None:
        self.parameters, self.optimizer, self.members = list(parameters), optimizer, members
        group: Group = optimizer.param_groups[0]
        self.change, self.call = CHANGES[kind(optimizer)], kernel(parameters, optimizer)
        names = STATES[kind(optimizer)] + (("momentum_buffer",) if anything(group.get("momentum", 0)) else ())
        self.weights = torch.cat([p.detach().reshape(members, -1) for p in parameters], 1)
        self.state = {name: torch.zeros_like(self.weights) for name in names}
        self.compile = compile_
        self.run: Run | None = None
        self.rate, self.count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for parameter, view in zip(parameters, self.views(self.weights), strict=True):
            parameter.data = view
        parts = lambda: {name: self.views(buffer) for name, buffer in self.state.items()}  # noqa: E731
        self.kept = Kept(parameters, optimizer, parts)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take one step of the optimizer. gradients: one for each parameter, of its shape. Call under no_grad."""
        group = self.kept.begin()
        if self.compile:
            self._update_fast(group, gradients)
            return
        gradient = torch.cat([each.reshape(self.members, -1) for each in gradients], 1)
        if self.call is not None:
            self._by_kernel(group, gradient)
        else:
            self.change(group, self.weights, gradient, self.state, self.kept.taken)

    def _by_kernel(self, group: Group, gradient: Tensor) -> None:
        """One call for all members; where they differ in rate or decay, it finds the directions to go in."""
        own = [name for name in OWN if isinstance(group[name], Tensor)]
        weights, call = self.weights, self.call
        if own:
            weights, call = torch.zeros_like(self.weights), torch._fused_adam_
            if kind(self.optimizer) is AdamW:
                self.weights.mul_(1 - group["lr"] * group["weight_decay"])
            else:
                gradient = decayed(group, self.weights, gradient)
        numbers = group | ({"lr": 1.0, "weight_decay": 0.0} if own else {})
        state = {name: [buffer] for name, buffer in self.state.items()}
        take(call, numbers, self.kept.taken, [weights], [gradient], state)
        if own:
            self.weights.addcmul_(weights, torch.as_tensor(group["lr"]))

    def _update_fast(self, group: Group, gradients: Sequence[Tensor]) -> None:
        names = list(self.state)

        def change(weights: Tensor, rate: Tensor, step: Tensor, *rest: Tensor) -> list[Tensor]:
            state, gradient = dict(zip(names, rest, strict=False)), [each.reshape(-1) for each in rest[len(names) :]]
            self.change({**group, "lr": rate}, weights, torch.cat(gradient)[None], state, step)
            return []

        self.rate.fill_(group["lr"])
        self.count.fill_(self.kept.taken)
        inputs = [self.weights, self.rate, self.count, *self.state.values(), *map(laid_as, gradients, self.parameters)]
        if self.run is None:
            self.run = proved(change, compiled(change, inputs, "the optimizer's step"), inputs)
        else:
            self.run(inputs)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The parts of a buffer (members, P), each in the shape of its parameter."""
        parts = buffer.split([parameter.numel() // self.members for parameter in self.parameters], 1)
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]


def fits(parameters: Sequence[Tensor], optimizer: Optimizer, members: int = 1, compile_: bool = False) -> bool:
    """Whether an optimizer's step on these can, and should, be done here: one group of a few plain numbers."""
    return (
        kind(optimizer) in CHANGES
        and len(optimizer.param_groups) == 1
        and {(p.dtype, p.device, p.is_contiguous()) for p in parameters}
        == {(torch.float32, parameters[0].device, True)}
        and not any(anything(optimizer.param_groups[0].get(name, False)) for name in ELSEWHERE)
        and (members > 1 or compile_ or sum(map(torch.numel, parameters)) <= SMALL)
    )
