"""Which pixels of an image speak for a prediction: saliency, Grad-CAM, and their heat maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dlrun.core.types import Batch, Field, Spec
from dlrun.interpret.model_summary import collect_module_outputs
from dlrun.interpret.target import AttributionTarget
from dlrun.models.model import Model

PASS_THROUGH_LAYERS = (
    "Dropout",
    "Identity",
    "Sequential",
)  # layers whose answer is that of the one before, or inside


@dataclass(frozen=True)
class LayerOutput:
    """A layer and what it answers to one picture. shape: (channels, height, width), or (units,) for a vector."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def is_spatial(self) -> bool:
        """Whether there is more than one place on its maps."""
        return len(self.shape) == 3 and self.shape[1] * self.shape[2] > 1

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution with maps."""
        return self.kind == "Conv2d" and self.is_spatial

    @property
    def is_pooling(self) -> bool:
        """Whether it is a pooling with maps."""
        return "Pool" in self.kind and self.is_spatial

    @property
    def description(self) -> str:
        """'towers.image.3 (Conv2d, 64 × 14 × 14)'."""
        return f"{self.name or '(model)'} ({self.kind}, {' × '.join(map(str, self.shape))})"


def build_blank_batch(spec: Spec) -> Batch:
    """One row of nothing: a black picture, zeros, padding, an empty bag."""

    def column(field: Field) -> Tensor:
        if field.kind == "bag":
            none, size = torch.zeros(0, dtype=torch.int32), (1, field.size)
            starts = torch.zeros(2, dtype=torch.int32)
            return torch.sparse_csr_tensor(starts, none, none.float(), size, check_invariants=False)
        dtype = torch.int64 if field.kind in ("category", "tokens") else torch.float32
        return torch.zeros(1, *field.shape, dtype=dtype)

    return {name: column(field) for name, field in spec.inputs.items()}


def collect_layer_outputs(model: nn.Module, batch: Batch) -> list[LayerOutput]:
    """Every layer whose answer to this batch of one row is a tensor, in the order in which they are done."""
    names = {module: name for name, module in model.named_modules()}
    outputs = collect_module_outputs(model, batch).items()
    return [
        LayerOutput(names[module], get_layer_class_name(module), tuple(output.shape[1:]))
        for module, output in outputs
        if isinstance(output, Tensor) and output.dim() in (2, 4) and len(output) == 1
    ]


def get_layer_class_name(module: nn.Module) -> str:
    """The name of a layer's class; whatever is derived from a convolution is called one."""
    return "Conv2d" if isinstance(module, nn.Conv2d) else type(module).__name__


def select_image_layers(found: list[LayerOutput], model: Model, image: str) -> list[LayerOutput]:
    """The layers of the tower that reads this image; all of them where the model has no towers."""
    if image not in model.image_towers():
        return found
    return [each for each in found if each.name.startswith(f"towers.{image}.")]


def select_first_layers(found: list[LayerOutput], count: int = 8) -> list[LayerOutput]:
    """The first convolutions, each with its activation, and poolings (the book's first eight layers, §5.4)."""
    stages: list[LayerOutput] = []
    for each in found:
        if each.is_convolution or each.is_pooling:
            stages.append(each)
        elif stages and is_after_convolution(stages[-1], each):
            stages[-1] = each
    return stages[:count]


def is_after_convolution(stage: LayerOutput, after: LayerOutput) -> bool:
    """Whether a layer is what a convolution is followed by at once: its batch norm, its activation."""
    return (
        not stage.is_pooling
        and after.shape == stage.shape
        and not after.kind.startswith(PASS_THROUGH_LAYERS)
    )


def select_last_layer(found: list[LayerOutput]) -> LayerOutput | None:
    """The last layer with maps as large as the last convolution's: its activation, or the block it ends; None: none.

    Maps of one single place are not looked at.
    """
    last = next((each for each in reversed(found) if each.is_convolution), None)
    if last is None:
        return None
    after = found[found.index(last) :]
    same = [each for each in after if each.is_spatial and each.shape[1:] == last.shape[1:]]
    return next(each for each in reversed(same) if not each.kind.startswith(PASS_THROUGH_LAYERS))


def select_even_layers(found: list[LayerOutput], count: int = 4) -> list[LayerOutput]:
    """So many convolutions from the first to the last, evenly."""
    convolutions = [each for each in found if each.is_convolution]
    if len(convolutions) <= count:
        return convolutions
    return [
        convolutions[round(place * (len(convolutions) - 1) / (count - 1))] for place in range(count)
    ]


def run_with_layer_outputs(
    run: Callable[[], Any], layers: Mapping[str, nn.Module]
) -> tuple[Any, dict[str, Tensor]]:
    """What `run` answers, and what these layers answer meanwhile, at their first call.

    What comes after a layer gets a copy: it may work in place, as torchvision's activations do.
    """
    kept: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(_: nn.Module, __: Any, output: Any) -> Tensor | None:
            if name in kept or not isinstance(output, Tensor):
                return None
            kept[name] = output
            return output.clone()

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in layers.items()]
    try:
        return run(), kept
    finally:
        for hook in hooks:
            hook.remove()


def grad_cam(
    model: nn.Module, batch: Batch, image: str, layer: str, asked: AttributionTarget
) -> np.ndarray:
    """Grad-CAM: (height, width) of the picture, from 0 to 1; zero everywhere where nothing speaks for the answer.

    The maps of a layer, each weighted by the mean gradient of the answer's raw score, added up, below zero cut off,
    and enlarged to the picture's size. batch: one row. Source: Selvaraju et al. 2017; book §5.4.
    """
    batch = with_image_gradient(batch, image)
    with torch.enable_grad():
        outputs, kept = run_with_layer_outputs(
            lambda: model(batch), {layer: model.get_submodule(layer)}
        )
        (gradient,) = torch.autograd.grad(asked.score(outputs), kept[layer])
    weights = gradient.mean((2, 3), keepdim=True)
    warmth = (weights * kept[layer].detach()).sum(1, keepdim=True).relu()
    size = batch[image].shape[2:]
    return scale_to_unit(
        functional.interpolate(warmth, size, mode="bilinear", align_corners=False)[0, 0]
    )


def saliency(model: nn.Module, batch: Batch, image: str, asked: AttributionTarget) -> np.ndarray:
    """How much a pixel's change changes the answer's raw score: (height, width) from 0 to 1, the largest over channels.

    batch: one row. Source: Simonyan, Vedaldi & Zisserman 2014.
    """
    batch = with_image_gradient(batch, image)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(asked.score(model(batch)), batch[image])
    return scale_to_unit(gradient[0].abs().amax(0))


def with_image_gradient(batch: Batch, image: str) -> Batch:
    """The batch with a picture whose gradient is kept, whether or not the network's weights learn."""
    return {**batch, image: batch[image].detach().clone().requires_grad_()}


def scale_to_unit(values: torch.Tensor) -> np.ndarray:
    """Values from 0 up, divided by the largest."""
    top = float(values.max())
    found: np.ndarray = (values / top if top > 0 else values).detach().float().cpu().numpy()
    return found
