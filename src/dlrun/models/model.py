"""The contract of a model: every optional hook that the rest of dlrun calls, with its default."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor, nn

from dlrun.config.instantiate import build_part
from dlrun.config.signatures import is_custom
from dlrun.core.dataset import Source
from dlrun.core.objective import inherit_hooks
from dlrun.core.types import Batch, FitJob, Spec

if TYPE_CHECKING:
    from dlrun.data.loading.table import Table

log = logging.getLogger("dlrun")
TotalLoss = Callable[[dict[str, Tensor], Batch], Tensor]
TokenReader = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Model(nn.Module):
    """A torch module from a batch to one raw output a target, and what else may be asked of it.

    `forward` takes a batch without its targets, input name → tensor (B, …), and returns target
    name → raw output (B, outputs): logits or numbers, without a last softmax or sigmoid. Every
    other method is a hook with a default, so that a model overrides only what it needs.

    Attributes:
        note: A remark that stands beside every result. Default: none.
        synthetic: Whether its weights are made up, as its note says, so that scores are not
            comparable with those of the real ones. Default: no.
        steady: Whether batches of one shape always lead to the same torch calls, so that a
            training step may be recorded once and replayed. Default: no.

    Example:
        class Net(Model):
            def __init__(self, spec, hidden=32):
                super().__init__()
                self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 1))

            def forward(self, batch):
                return {"price": self.layers(batch["numbers"])}

            def penalty(self):
                return 0.01 * self.layers[0].weight.square().sum()
    """

    note: str = ""
    synthetic: bool = False
    steady: bool = False

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss for the weights themselves; None (default) for nothing.

        Returns:
            A scalar with a gradient, computed anew at each training step, or None.
        """
        return None

    def lr_factors(self) -> dict[nn.Parameter, float]:
        """Return a factor on the learning rate of each weight that shall not learn at the full one.

        Returns:
            Weight → factor. Weights that are not named (default: all) learn at the full rate.
        """
        return {}

    def cacheable_networks(self) -> dict[str, nn.Module]:
        """Return the frozen networks whose outputs may be computed once and kept.

        Returns:
            Image input → network (B, C, H, W) → features. A batch may then hold these features
            as `<input>.ahead` (`CACHED_FEATURES`) instead of images. Default: none.
        """
        return {}

    def check_validation_rows(self, run: Path, job: FitJob, rows: np.ndarray | None) -> None:
        """Raise UserError where scores on a fit's validation rows would not be honest.

        A model that is made of earlier runs checks here that none was trained on them. Called
        before training. Default: accept.

        Args:
            run: Folder of the run that is being trained.
            job: The fit.
            rows: Numbers of its validation rows; None where it has none.
        """

    def solve(self, table: Table) -> None:
        """Find the weights of a model that no training step changes. Called before evaluation.

        Args:
            table: The training rows. Default: nothing is done with them.

        Raises:
            UserError: The rows cannot be solved for.
        """

    def fit_weights(self, held_out: Source | None, total: TotalLoss) -> dict[str, Any] | None:
        """Find the weights of a model's members on the validation rows. Called after `solve`.

        Args:
            held_out: The validation rows; None where there are none.
            total: The loss of raw outputs and a batch, a mean over its rows.

        Returns:
            A JSON object that describes the members, for members.json; None (default): no members.

        Raises:
            UserError: Weights were asked for, but there are no validation rows.
        """
        return None

    def token_reader(self) -> TokenReader | None:
        """Return a function that reads tokens and remembers them, if the model has such a state.

        Returns:
            (tokens (B, T), state or None) → (logits (B, size) of the next token, new state).
            None (default): the window of the last tokens is read anew for each next one.
        """
        return None

    def image_towers(self) -> dict[str, nn.Module]:
        """Return the convolutional part of each image input.

        Returns:
            Image input → module (B, C, H, W) → features: by default the children of a child
            called `towers`. Layers are named `towers.<input>.…`; a new model may start from them.
        """
        return get_named_children(self, "towers")


def get_named_children(module: nn.Module, name: str) -> dict[str, nn.Module]:
    """Return the children of a module's ModuleDict of this name; nothing where it has none."""
    # not getattr: an attribute of that name may be anything
    children = module._modules.get(name)
    return dict(children.items()) if isinstance(children, nn.ModuleDict) else {}


def as_model(module: nn.Module) -> Model:
    """Return the same module as a `Model`: hooks that it does not define get their defaults.

    Args:
        module: Any torch module; see `inherit_hooks`.

    Returns:
        The module itself.
    """
    if isinstance(module, Model):
        return module
    inherit_hooks(module, Model)
    return cast(Model, module)


def build_model(
    node: dict[str, Any],
    spec: Spec,
    plugins: tuple[str, ...] | None,
    tell: Callable[[str], None] = log.warning,
) -> Model:
    """Build the model that a config node describes.

    Args:
        node: `_target_` and its arguments.
        spec: Inputs and targets.
        plugins: The user's packages; None for those of the part that is being built.
        tell: Receives warnings.

    Returns:
        A model; a module that is not dlrun's is adapted to the contract in `custom_model`.

    Raises:
        UserError: The module does not fit that contract.
    """
    if not is_custom(node["_target_"]):
        return as_model(build_part(node, spec, kind="model", plugins=plugins))
    from dlrun.models.custom_model import build_custom_model

    return as_model(build_custom_model(node, spec, plugins, tell))
