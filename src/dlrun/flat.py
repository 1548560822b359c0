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

SMALL = 1 << 18  # numbers; from about there on reading and writing them costs more than the calls
Group = dict[str, Any]  # hyperparameters, each a number, or a tensor (members, 1) where members differ
State = dict[str, Tensor]
Update = Callable[[Group, Tensor, Tensor, State, int], None]


def rmsprop(group: Group, weights: Tensor, gradient: Tensor, state: State, step: int) -> None:
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


def sgd(group: Group, weights: Tensor, gradient: Tensor, state: State, step: int) -> None:
    """Gradient descent as torch has it, with momentum if wanted: the first gradient is taken whole."""
    gradient = decayed(group, weights, gradient)
    if "momentum_buffer" in state:
        momentum, buffer = group["momentum"], state["momentum_buffer"]
        buffer.mul_(momentum).add_(gradient)
        gradient = gradient + buffer * momentum if group["nesterov"] else buffer
    go(weights, gradient, group["lr"])


def adam(group: Group, weights: Tensor, gradient: Tensor, state: State, step: int) -> None:
    """Adam (Kingma & Ba 2015), with the decay in the gradient."""
    _adam(group, weights, decayed(group, weights, gradient), state, step)


def adamw(group: Group, weights: Tensor, gradient: Tensor, state: State, step: int) -> None:
    """Adam with decoupled decay (Loshchilov & Hutter 2019)."""
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    _adam(group, weights, gradient, state, step)


def _adam(group: Group, weights: Tensor, gradient: Tensor, state: State, step: int) -> None:
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


UPDATES: dict[type[Optimizer], tuple[Update, tuple[str, ...]]] = {  # and what each keeps of a weight
    RMSprop: (rmsprop, ("square_avg",)),
    SGD: (sgd, ()),
    Adam: (adam, ("exp_avg", "exp_avg_sq")),
    AdamW: (adamw, ("exp_avg", "exp_avg_sq")),
}
KERNELS: dict[type[Optimizer], Any] = {Adam: torch._fused_adam_, AdamW: torch._fused_adamw_}
ELSEWHERE = ("centered", "amsgrad", "maximize", "capturable", "differentiable", "dampening")  # torch's own step does it


def kernel(group: Group, weights: Tensor, gradient: Tensor, state: State, step: int, call: Any) -> None:
    """The same through torch's fused kernel, which takes one number of each hyperparameter."""
    first, second = group["betas"]
    numbers = {name: group[name] for name in ("lr", "weight_decay", "eps")}
    lists: Any = [weights], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [torch.tensor(float(step))]
    call(*lists, beta1=first, beta2=second, amsgrad=False, maximize=False, **numbers)


class Flat:
    """One group's weights in a buffer (members, P), and the state of their optimizer beside it.

    parameters: of shape (…), or with several members (members, …). They become views of the buffer. What can be here,
    `fits` says; hyperparameters are read from the optimizer's one group at each step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer, members: int = 1) -> None:
        self.parameters, self.optimizer, self.members = list(parameters), optimizer, members
        group: Group = optimizer.param_groups[0]
        self.update, names = UPDATES[type(optimizer)]
        names += ("momentum_buffer",) if anything(group.get("momentum", 0)) else ()
        self.weights = torch.cat([p.detach().reshape(members, -1) for p in parameters], 1)
        self.state = {name: torch.zeros_like(self.weights) for name in names}
        self.call = KERNELS.get(type(optimizer)) if group.get("fused") and members == 1 else None
        for parameter, view in zip(parameters, self.views(self.weights), strict=True):
            parameter.data = view
        self.tie()

    def tie(self) -> None:
        """Take the state over from the optimizer, as after it was loaded; what it does not have begins at 0."""
        for name, buffer in self.state.items():
            for parameter, view in zip(self.parameters, self.views(buffer), strict=True):
                known = self.optimizer.state.get(parameter, {}).get(name)
                view.zero_() if known is None else view.copy_(known)
        steps = [known["step"] for known in self.optimizer.state.values() if "step" in known]
        self.taken = int(steps[0]) if steps else 0
        self.shown = False

    def show(self) -> None:
        """Let the optimizer see our state from now on."""
        for name, buffer in self.state.items():
            for parameter, view in zip(self.parameters, self.views(buffer), strict=True):
                self.optimizer.state[parameter][name] = view
        self.shown = True

    def settle(self) -> None:
        """Write the number of steps to where the optimizer keeps it, once there was one; SGD keeps none."""
        if self.shown and not isinstance(self.optimizer, SGD):
            for parameter in self.parameters:
                self.optimizer.state[parameter]["step"] = torch.tensor(float(self.taken))

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take one step of the optimizer. gradients: one for each parameter, of its shape. Call under no_grad."""
        if not self.shown:
            self.show()
        self.taken += 1
        group = self.optimizer.param_groups[0]  # another one after a state was loaded
        gradient = torch.cat([each.reshape(self.members, -1) for each in gradients], 1)
        if self.call is not None:
            kernel(group, self.weights, gradient, self.state, self.taken, self.call)
        else:
            self.update(group, self.weights, gradient, self.state, self.taken)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The parts of a buffer (members, P), each in the shape of its parameter."""
        parts = buffer.split([parameter.numel() // self.members for parameter in self.parameters], 1)
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]


def fits(parameters: Sequence[Tensor], optimizer: Optimizer, members: int = 1) -> bool:
    """Whether an optimizer's step on these can, and should, be done here: one group of a few plain numbers."""
    return (
        type(optimizer) in UPDATES
        and len(optimizer.param_groups) == 1
        and {(p.dtype, p.device, p.is_contiguous()) for p in parameters}
        == {(torch.float32, parameters[0].device, True)}
        and not any(anything(optimizer.param_groups[0].get(name, False)) for name in ELSEWHERE)
        and (members > 1 or sum(map(torch.numel, parameters)) <= SMALL)
    )


def anything(value: Any) -> bool:
    """Whether a hyperparameter, a number or one for each member, is not 0 for all."""
    return bool(value.any()) if isinstance(value, Tensor) else bool(value)
