"""Which pixels a prediction rests on: saliency, Grad-CAM, and what each layer computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

# in evaluation, the output of these is that of the layer before, or of the last one inside
PASS_THROUGH_LAYERS = ("Dropout", "Identity", "Sequential")


@dataclass(frozen=True)
class LayerOutput:
    """A layer and the shape of its output for one image.

    Attributes:
        name: As in `named_modules`; '' for the model itself.
        kind: Name of its class.
        shape: (channels, height, width), or (units,) for a vector.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def is_spatial(self) -> bool:
        """Whether its maps have more than one pixel."""
        return len(self.shape) == 3 and self.shape[1] * self.shape[2] > 1

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution with maps."""
        return self.kind == "Conv2d" and self.is_spatial

    @property
    def is_pooling(self) -> bool:
        """Whether it is a pooling layer with maps."""
        return "Pool" in self.kind and self.is_spatial

    @property
    def description(self) -> str:
        """'towers.image.3 (Conv2d, 64 × 14 × 14)'."""
        return f"{self.name or '(model)'} ({self.kind}, {' × '.join(map(str, self.shape))})"


def build_blank_batch(spec: Spec) -> Batch:
    """Return one row of zeros for these inputs.

    Args:
        spec: The inputs. An image is black, a text padding, a bag empty.
    """

    def column(field: Field) -> Tensor:
        if field.kind == "bag":
            empty, size = torch.zeros(0, dtype=torch.int32), (1, field.size)
            starts = torch.zeros(2, dtype=torch.int32)
            return torch.sparse_csr_tensor(
                starts, empty, empty.float(), size, check_invariants=False
            )
        dtype = torch.int64 if field.kind in ("category", "tokens") else torch.float32
        return torch.zeros(1, *field.shape, dtype=dtype)

    return {name: column(field) for name, field in spec.inputs.items()}


def collect_layer_outputs(model: nn.Module, batch: Batch) -> list[LayerOutput]:
    """Return every layer whose output for one row is a tensor, in order of execution.

    Args:
        model: The network.
        batch: One row.

    Returns:
        Layers with maps or vectors; outputs of other ranks are left out.
    """
    names = {module: name for name, module in model.named_modules()}
    outputs = collect_module_outputs(model, batch).items()
    return [
        LayerOutput(names[module], get_layer_class_name(module), tuple(output.shape[1:]))
        for module, output in outputs
        if isinstance(output, Tensor) and output.dim() in (2, 4) and len(output) == 1
    ]


def get_layer_class_name(module: nn.Module) -> str:
    """Return the name of a layer's class; a subclass of Conv2d is called Conv2d."""
    return "Conv2d" if isinstance(module, nn.Conv2d) else type(module).__name__


def select_image_layers(layers: list[LayerOutput], model: Model, image: str) -> list[LayerOutput]:
    """Return the layers of the tower that reads an image; all layers of a model without towers.

    Args:
        layers: All layers, in order of execution.
        model: The model.
        image: Name of the image input.
    """
    if image not in model.image_towers():
        return layers
    return [layer for layer in layers if layer.name.startswith(f"towers.{image}.")]


def select_first_layers(layers: list[LayerOutput], count: int = 8) -> list[LayerOutput]:
    """Return the first convolutions and pooling layers (book §5.4 shows the first eight layers).

    Args:
        layers: All layers, in order of execution.
        count: How many to return at most.

    Returns:
        Layers; a convolution is represented by the activation that follows it.
    """
    stages: list[LayerOutput] = []
    for layer in layers:
        if layer.is_convolution or layer.is_pooling:
            stages.append(layer)
        elif stages and is_after_convolution(stages[-1], layer):
            stages[-1] = layer
    return stages[:count]


def is_after_convolution(stage: LayerOutput, layer: LayerOutput) -> bool:
    """Return whether a layer directly continues a convolution: its batch norm or activation."""
    return (
        not stage.is_pooling
        and layer.shape == stage.shape
        and not layer.kind.startswith(PASS_THROUGH_LAYERS)
    )


def select_last_layer(layers: list[LayerOutput]) -> LayerOutput | None:
    """Return the last layer with maps as large as those of the last convolution.

    This is its activation, or the end of the block that it is in. Maps of one pixel do not count.

    Args:
        layers: All layers, in order of execution.

    Returns:
        The layer; None where there is no convolution with maps.
    """
    last = next((layer for layer in reversed(layers) if layer.is_convolution), None)
    if last is None:
        return None
    following = layers[layers.index(last) :]
    same_size = [
        layer for layer in following if layer.is_spatial and layer.shape[1:] == last.shape[1:]
    ]
    return next(
        layer for layer in reversed(same_size) if not layer.kind.startswith(PASS_THROUGH_LAYERS)
    )


def select_even_layers(layers: list[LayerOutput], count: int = 4) -> list[LayerOutput]:
    """Return `count` convolutions, evenly spaced from first to last; all where there are fewer."""
    convolutions = [layer for layer in layers if layer.is_convolution]
    if len(convolutions) <= count:
        return convolutions
    step = (len(convolutions) - 1) / (count - 1)
    return [convolutions[round(index * step)] for index in range(count)]


def run_with_layer_outputs(
    run: Callable[[], Any], layers: Mapping[str, nn.Module]
) -> tuple[Any, dict[str, Tensor]]:
    """Call a function and return its result with the outputs of layers meanwhile.

    Args:
        run: Runs the network.
        layers: Name → layer.

    Returns:
        The result of `run`, and name → output at the layer's first call, with its graph.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(_: nn.Module, __: Any, output: Any) -> Tensor | None:
            if name in outputs or not isinstance(output, Tensor):
                return None
            outputs[name] = output
            # the next layer gets a copy, as it may work in place: torchvision's activations do
            return output.clone()

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in layers.items()]
    try:
        return run(), outputs
    finally:
        for hook in hooks:
            hook.remove()


def grad_cam(
    model: nn.Module, batch: Batch, image: str, layer: str, target: AttributionTarget
) -> np.ndarray:
    """Return a Grad-CAM heat map: where a layer sees evidence for a prediction.

    The layer's maps are weighted by the mean gradient of the raw score, summed, cut off below zero
    and enlarged. Source: Selvaraju et al. 2017; book §5.4.

    Args:
        model: The network.
        batch: One row.
        image: Its image input (1, C, H, W).
        layer: Name of a layer with maps.
        target: The prediction.

    Returns:
        (H, W) from 0 to 1; zero everywhere where there is no evidence.
    """
    batch = with_image_gradient(batch, image)
    with torch.enable_grad():
        outputs, layer_outputs = run_with_layer_outputs(
            lambda: model(batch), {layer: model.get_submodule(layer)}
        )
        (gradient,) = torch.autograd.grad(target.score(outputs), layer_outputs[layer])
    # one weight a channel: how much the score rises with it
    weights = gradient.mean((2, 3), keepdim=True)
    heat_map = (weights * layer_outputs[layer].detach()).sum(1, keepdim=True).relu()
    size = batch[image].shape[2:]
    return scale_to_unit(
        functional.interpolate(heat_map, size, mode="bilinear", align_corners=False)[0, 0]
    )


def saliency(model: nn.Module, batch: Batch, image: str, target: AttributionTarget) -> np.ndarray:
    """Return how strongly each pixel changes the raw score of a prediction.

    Source: Simonyan, Vedaldi & Zisserman 2014.

    Args:
        model: The network.
        batch: One row.
        image: Its image input (1, C, H, W).
        target: The prediction.

    Returns:
        The largest absolute gradient over the channels (H, W), scaled to at most 1.
    """
    batch = with_image_gradient(batch, image)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(target.score(model(batch)), batch[image])
    return scale_to_unit(gradient[0].abs().amax(0))


def with_image_gradient(batch: Batch, image: str) -> Batch:
    """Return the batch with an image that records its gradient, even where no weight is trained."""
    return {**batch, image: batch[image].detach().clone().requires_grad_()}


def scale_to_unit(values: torch.Tensor) -> np.ndarray:
    """Return values from 0 up, divided by the largest one."""
    largest = float(values.max())
    scaled = values / largest if largest > 0 else values
    return scaled.detach().float().cpu().numpy()  # type: ignore[no-any-return]


def get_layer_activations(
    model: nn.Module, batch: Batch, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return what named layers compute for one row.

    Args:
        model: The network.
        batch: One row.
        names: Names of its layers, as in `named_modules`.

    Returns:
        Layer → maps (channels, height, width); the units of a vector as (units, 1, 1).
    """
    modules = {name: model.get_submodule(name) for name in names}
    with torch.no_grad():
        _, outputs = run_with_layer_outputs(lambda: model(batch), modules)
    arrays = {name: outputs[name][0].float().cpu().numpy() for name in names}
    return {
        name: array if array.ndim == 3 else array[:, None, None] for name, array in arrays.items()
    }


def to_contrast_images(maps: np.ndarray) -> np.ndarray:
    """Return maps as uint8 images in which every channel can be seen (book §5.4).

    Each channel gets a mean of 128 and a standard deviation of 64. Constant channels, such as those
    that are never active, are 0.

    Args:
        maps: (channels, height, width); a vector's units (units, 1, 1) share one scale.

    Returns:
        Images of the same shape.
    """
    # one unit has no deviation of its own
    axes = (1, 2) if maps[0].size > 1 else (0, 1, 2)
    deviation = maps.std(axes, keepdims=True)
    centered = maps - maps.mean(axes, keepdims=True)
    scaled = centered / np.where(deviation > 0, deviation, 1) * 64 + 128
    return np.where(deviation > 0, scaled, 0).clip(0, 255).astype(np.uint8)


def count_zero_channels(maps: np.ndarray) -> int:
    """Return how many of the channels (channels, height, width) are zero everywhere."""
    return int((maps == 0).all((1, 2)).sum())
