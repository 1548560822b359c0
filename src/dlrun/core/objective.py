"""The contract between a problem and the loop that trains it: every hook, with its default.

It lies in `core`, below both rooms that need it: objectives implement it, training runs it, and
neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from dlrun.core import checkpoint
from dlrun.core.types import Batch, Score, Step

if TYPE_CHECKING:
    from dlrun.core.artifacts import SampleGenerator

Loss = Callable[[Tensor, Tensor], Tensor]
"""(raw output, target) → the mean loss over the rows, a tensor of one number with a gradient."""


class Objective(nn.Module):
    """What is minimized: the losses of a problem, in the order in which they are taken.

    A subclass must define `steps`. All else has a default: an objective says only what is special
    about it. It touches no optimizer, no gradient and no device; the loop does that.

    Attributes:
        model: The network that is trained, or None where there is none (as when pixels are).
        groups: Group → the parameters that its steps change, each with an optimizer of its own.
            Empty where there is nothing to learn: such a fit lasts one epoch and is only measured.
        losses: Target → its loss, where the objective predicts targets. Empty for all others.
            Metrics, stored predictions, fields.json and the overfit check follow from it.
        goals: Metric → its better direction, 'min' or 'max', of all that is measured.
            Empty: the loss, and the metrics of the targets in `losses`, which know their own.
        generators: Kind → a function with plain keyword arguments that yields artifacts
            (`dlrun generate`, and the callback `samples`).
        default_samples: The kinds of `generators` that are written after an epoch, unless others
            are named.
        augment: What is done to a training batch before it is learned from, or None.
        ticks: Batches of an epoch, for an objective that reads no data; None for one that does.
        steady: Whether every batch of one shape makes the same calls, so that a step can be
            recorded and replayed. False is always right; True wrongly costs time, never a wrong
            number.
        streams: Random generators that steps draw from, besides torch's own.

    Example:
        class Reconstruct(Objective):
            goals = {"loss": "min"}

            def __init__(self, context, *, weight=1.0):
                super().__init__()
                self.model, self.weight = context.model, weight
                self.groups = {"model": list(self.model.parameters())}

            def steps(self, batch):
                error = self.model(batch)["x"] - batch["x"]
                yield Step("model", self.weight * error.square().mean())
    """

    groups: dict[str, list[nn.Parameter]]
    # Immutable, since all objectives share these: whoever has some assigns its own.
    losses: Mapping[str, Loss] = MappingProxyType({})
    goals: Mapping[str, str] = MappingProxyType({})
    generators: Mapping[str, SampleGenerator] = MappingProxyType({})
    default_samples: tuple[str, ...] = ()
    ticks: int | None = None
    steady: bool = False
    streams: Sequence[torch.Generator] = ()

    def __init__(self) -> None:
        super().__init__()
        # No class attributes: they would hide a module that torch registers under these names.
        self.model: Any = None
        self.augment: Callable[[Batch], Batch] | None = None
        self.groups = {}

    def steps(self, batch: Batch) -> Iterator[Step]:
        """The losses of a batch, one after the other.

        The loop resumes the generator only when the step has been taken: a later step sees the
        weights that an earlier one has changed. Nothing is learned while `self.training` is False.

        Args:
            batch: Column → its values, of B rows each; empty where `ticks` is set.

        Yields:
            Steps, each with the group whose parameters it changes.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no steps(batch)")

    def baseline_objective(self) -> Objective | None:
        """The objective of the baseline that has to be beaten; None where none is known."""
        return None

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """Scores of a whole split that no mean over batches gives, taken when a fit is scored.

        Args:
            batches: The split, batch by batch; read once.

        Returns:
            Name → score, in addition to the losses and metrics.
        """
        return {}

    def rates(self) -> dict[nn.Parameter, float]:
        """Parameter → factor on its learning rate; those that are missing have 1."""
        return {}

    def penalty(self) -> Tensor | None:
        """The penalty on weights that is part of the loss, a scalar tensor; None: no penalty."""
        return None

    def begin_with(self, state: dict[str, Any]) -> None:
        """Start with the (averaged) weights of another fit, unless a subclass knows better.

        Args:
            state: The checkpoint of that fit, as `checkpoint.load_best` reads it.

        Raises:
            UserError: if these weights are of another model.
        """
        checkpoint.load_averaged_weights(self, state)


def as_objective(module: nn.Module) -> Objective:
    """The same module as an `Objective`: hooks that it does not define get their defaults.

    Args:
        module: An `nn.Module` of the user's own with `steps` and `groups`; see `inherit_hooks`.

    Returns:
        The module itself.
    """
    if isinstance(module, Objective):
        return module
    defined = {*vars(module), *module._modules, *dir(type(module))}
    inherit_hooks(module, Objective)
    defaults: dict[str, Any] = {"model": None, "augment": None, "groups": {}}
    for name in defaults.keys() - defined:
        setattr(module, name, defaults[name])
    return cast(Objective, module)


def inherit_hooks(module: nn.Module, contract: type[nn.Module]) -> None:
    """Let a module of the user's own inherit the hooks of a contract that it does not define.

    Its class is replaced by a subclass of the same name, as torch's own `fully_shard` does; a
    wrapper around it would rename the weights in checkpoints.
    """
    kind = type(module)
    # Torch looks for children only after class attributes: a layer that is called as a hook is
    # (`self.penalty = nn.Linear(…)`) would be hidden by that hook's default.
    children = {name: _child_property(name) for name in vars(contract) if name in module._modules}
    # The module's name is kept, as replay trusts the classes of torch.nn.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    module.__class__ = type(kind.__name__, (kind, contract), {**children, **names})


def _child_property(name: str) -> property:
    return property(lambda module: module._modules[name])
