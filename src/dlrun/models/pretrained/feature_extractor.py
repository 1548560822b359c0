"""A trained network that answers nothing: what its layers make of pictures is what counts. It never learns."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from dlrun.config.constraints import NonNegative
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Spec
from dlrun.models.model import Model
from dlrun.models.pretrained.backbones import Backbone, list_blocks, load_backbone
from dlrun.models.pretrained.transfer import ImagePreprocessor

log = logging.getLogger("dlrun")

Roles = dict[str, dict[str, float]]
OTHER_MODEL_HINT = "For another architecture begin with model=layers, which names none"


class FeatureExtractor(Model):
    """Pictures (B, C, H, W) in [0, 1] → layer name → what it answers (B, channels, h, w).

    roles: what layers are there for → their names and weights. The network is no part of it in torch's sense: it has no
    parameter, is in no checkpoint and stays in evaluation, but moves to the devices that this moves to.
    """

    def __init__(self, base: Backbone, roles: Roles, note: str) -> None:
        super().__init__()
        self.name, self.roles, self.note = base.name, roles, note
        prepare = ImagePreprocessor(base.channels, None, base.mean, base.std)
        self.channels, there = base.channels, list_blocks(base.net)
        self.held = tuple(
            part.eval().requires_grad_(False) for part in (prepare, *(block for _, block in there))
        )
        names = {layer for layers in roles.values() for layer in layers}
        self.places = {name: find_layer(base, there, name) for name in sorted(names)}
        self.there = tuple(name for name, _ in there)

    def forward(self, pictures: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """No block is run behind the last one of these layers. Raises UserError for pictures that are too small."""
        wanted = {name: self.places[name] for name in names}
        kept: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_hook(make_output_hook(kept, name))
            for name, (_, layer) in wanted.items()
        ]
        last = max((number for number, _ in wanted.values()), default=-1)
        x = pictures
        try:
            for part in self.held[: last + 2]:
                x = part(x)
        except RuntimeError as error:
            size = " × ".join(map(str, pictures.shape[2:]))
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.name} cannot read pictures of {size}: choose another data.size ({reason})"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        return kept

    def layers(self, role: str) -> dict[str, float]:
        """Layer → weight, of those that count for something in this role. Raises UserError where none does."""
        found = {name: weight for name, weight in self.roles.get(role, {}).items() if weight}
        if not found:
            raise UserError(
                f"model.layers.{role} names no layer with a weight above 0: say 'model.layers.{role}={{LAYER: 1}}'. "
                f"{self.name} has: {format_names(self.there)}"
            )
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for part in self.held:
            part._apply(fn, recurse)
        return super()._apply(fn, recurse)


def make_output_hook(
    kept: dict[str, Tensor], name: str
) -> Callable[[nn.Module, Any, Tensor], None]:
    """A hook that keeps what a layer answers: a copy, since the next layer may work in place."""

    def keep(layer: nn.Module, given: Any, answer: Tensor) -> None:
        kept[name] = answer.clone()

    return keep


def find_layer(
    base: Backbone, there: list[tuple[str, nn.Module]], name: str
) -> tuple[int, nn.Module]:
    """Which block a layer is in, and the layer; of a sequence of blocks the last one. Raises UserError."""
    inside = [
        number for number, (block, _) in enumerate(there) if block == name or f"{block}.".startswith(f"{name}.")
        or name.startswith(f"{block}.")
    ]  # fmt: skip
    layers = dict(base.net.named_modules())
    if not inside or name not in layers:
        near = difflib.get_close_matches(name, layers, 1)
        guess = f": did you mean {near[0]}?" if near else "."
        listed = ", ".join(block for block, _ in there)
        raise UserError(
            f"model.layers: {base.name} has no layer '{name}'{guess} There are: {listed}. {OTHER_MODEL_HINT}"
        )
    block, whole = there[inside[-1]]
    return inside[-1], layers[name] if name.startswith(f"{block}.") else whole


def layers(
    spec: Spec,
    *,
    architecture: str,
    weights: str | None,
    source: Literal["official", "sample"],
    layers: dict[str, dict[str, NonNegative] | None],
) -> FeatureExtractor:
    """The convolutional part of a trained network, whose layers are heard by name (book §8.2, §8.3).

    weights: a name of torchvision's for this architecture, a .pth file, the folder of an earlier run (whose own
    convolutional part it is then), or null: random. source: with sample, random weights stand for published ones.
    layers: role (dream, content, style) → layer → weight; 0 for a layer that does not count. Pictures are normalised as
    the weights' authors did, and keep their size. Raises UserError.
    """
    if architecture.startswith("swin") or "maxvit" in architecture:
        raise UserError(
            f"architecture={architecture} reads pictures of one size only, or has its channels last"
        )
    made_up = source == "sample" and weights is not None and not Path(weights).exists()
    weights = None if made_up else weights
    note = "" if weights is not None else f"SYNTHETIC weights: {architecture} has random ones"
    if note:
        log.warning("%s", note)
    try:
        base = load_backbone(architecture, weights, next(iter(spec.inputs)))
    except UserError as error:  # which may advise to let the base learn, as can be done elsewhere
        raise UserError(str(error).replace(" model.unfreeze=all", "")) from error
    if wrong := [
        f"{name} ({field.shape[0]})"
        for name, field in spec.inputs.items()
        if field.shape[0] != base.channels
    ]:
        raise UserError(
            f"{base.name} reads pictures of {base.channels} channels, not {', '.join(wrong)}"
        )
    base.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return FeatureExtractor(base, {role: named or {} for role, named in layers.items()}, note)
