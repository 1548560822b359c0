"""A trained network of which the layer outputs are used, not its predictions. It is not trained."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from dlrun.config.annotations import NonNegative
from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Spec
from dlrun.models.model import Model
from dlrun.models.pretrained.backbones import Backbone, list_blocks, load_backbone
from dlrun.models.pretrained.transfer import ImagePreprocessor

log = logging.getLogger("dlrun")

Roles = dict[str, dict[str, float]]
OTHER_MODEL_HINT = "For another architecture begin with model=layers, which names none"


class FeatureExtractor(Model):
    """Images (B, C, H, W) in [0, 1] → layer → its output (B, channels, h, w).

    The network is not a child in torch's sense: it has no parameters and is in no checkpoint, but
    moves to the devices that this module moves to.

    Attributes:
        name: Of the network, for messages.
        roles: What layers are used for (dream, content, style) → layer → weight.
        note: That the weights are random, where they are.
        channels: Of the images.
        blocks: Preprocessing, then the blocks of the network.
        layer_blocks: Layer → number of its block, and the layer.
        block_names: Names of the blocks.
    """

    def __init__(self, base: Backbone, roles: Roles, note: str) -> None:
        super().__init__()
        self.name, self.roles, self.note = base.name, roles, note
        self.synthetic = bool(note)
        prepare = ImagePreprocessor(base.channels, None, base.mean, base.std)
        self.channels, named_blocks = base.channels, list_blocks(base.net)
        modules = (prepare, *(block for _, block in named_blocks))
        # a tuple hides the modules from torch: the weights are no part of a checkpoint
        self.blocks = tuple(module.eval().requires_grad_(False) for module in modules)
        names = {layer for layers in roles.values() for layer in layers}
        self.layer_blocks = {name: find_layer(base, named_blocks, name) for name in sorted(names)}
        self.block_names = tuple(name for name, _ in named_blocks)

    def forward(self, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the outputs of layers. No block behind the last of them is run.

        Args:
            images: (B, C, H, W) in [0, 1].
            names: Of the layers.

        Raises:
            UserError: The images are too small.
        """
        chosen = {name: self.layer_blocks[name] for name in names}
        outputs: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_hook(make_output_hook(outputs, name))
            for name, (_, layer) in chosen.items()
        ]
        last = max((index for index, _ in chosen.values()), default=-1)
        x = images
        try:
            # one more for the preprocessing, one as the end of a slice is exclusive
            for block in self.blocks[: last + 2]:
                x = block(x)
        except RuntimeError as error:
            size = " × ".join(map(str, images.shape[2:]))
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.name} cannot read images of {size}: choose another data.size ({reason})"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        return outputs

    def layers(self, role: str) -> dict[str, float]:
        """Return layer → weight for a role.

        Raises:
            UserError: No layer has a weight above 0.
        """
        weights = {name: weight for name, weight in self.roles.get(role, {}).items() if weight}
        if not weights:
            raise UserError(
                f"model.layers.{role} names no layer with a weight above 0: "
                f"say 'model.layers.{role}={{LAYER: 1}}'. "
                f"{self.name} has: {format_names(self.block_names)}"
            )
        return weights

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for block in self.blocks:
            # they are hidden from torch, so they are moved by hand
            block._apply(fn, recurse)
        return super()._apply(fn, recurse)


def make_output_hook(
    outputs: dict[str, Tensor], name: str
) -> Callable[[nn.Module, Any, Tensor], None]:
    """Return a hook that records a layer's output."""

    def record(layer: nn.Module, args: Any, output: Tensor) -> None:
        # a copy, as the next layer may work in place
        outputs[name] = output.clone()

    return record


def find_layer(
    base: Backbone, named_blocks: list[tuple[str, nn.Module]], name: str
) -> tuple[int, nn.Module]:
    """Return the number of the block that a layer is in, and the layer.

    Args:
        base: The network.
        named_blocks: Its blocks by name.
        name: Of a layer, or of a sequence of blocks, of which the last one is returned.

    Raises:
        UserError: There is no such layer.
    """
    containing = [
        index
        for index, (block, _) in enumerate(named_blocks)
        if block == name or block.startswith(f"{name}.") or name.startswith(f"{block}.")
    ]
    layers = dict(base.net.named_modules())
    if not containing or name not in layers:
        close = difflib.get_close_matches(name, layers, 1)
        guess = f": did you mean {close[0]}?" if close else "."
        listed = ", ".join(block for block, _ in named_blocks)
        raise UserError(
            f"model.layers: {base.name} has no layer '{name}'{guess} There are: {listed}. "
            f"{OTHER_MODEL_HINT}"
        )
    block, module = named_blocks[containing[-1]]
    return containing[-1], layers[name] if name.startswith(f"{block}.") else module


def layers(
    spec: Spec,
    *,
    architecture: str,
    weights: str | None,
    source: Literal["official", "sample"],
    layers: dict[str, dict[str, NonNegative] | None],
) -> FeatureExtractor:
    """The convolutional part of a trained network, with outputs of named layers (book §8.2, §8.3).

    Images are normalized as the weights' authors did, and keep their size.

    Args:
        spec: Image inputs.
        architecture: Name of a network of torchvision.
        weights: Name of torchvision's for it, a .pth file, the folder of an earlier run (whose own
            convolutional part it is then), or null for random ones.
        source: sample replaces published weights by random ones.
        layers: Role (dream, content, style) → layer → weight; 0 leaves a layer out.

    Raises:
        UserError: The network cannot read these images, or its weights cannot be had.
    """
    if architecture.startswith("swin") or "maxvit" in architecture:
        raise UserError(
            f"architecture={architecture} reads images of one size only, or has its channels last"
        )
    synthetic = source == "sample" and weights is not None and not Path(weights).exists()
    weights = None if synthetic else weights
    note = "" if weights is not None else f"SYNTHETIC weights: {architecture} has random ones"
    if note:
        log.warning("%s", note)
    try:
        base = load_backbone(architecture, weights, next(iter(spec.inputs)))
    except UserError as error:
        # it may advise to train the base, which is done by another model
        raise UserError(str(error).replace(" model.unfreeze=all", "")) from error
    if unreadable := [
        f"{name} ({field.shape[0]})"
        for name, field in spec.inputs.items()
        if field.shape[0] != base.channels
    ]:
        raise UserError(
            f"{base.name} reads images of {base.channels} channels, not {', '.join(unreadable)}"
        )
    base.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return FeatureExtractor(base, {role: weighted or {} for role, weighted in layers.items()}, note)
