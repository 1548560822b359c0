"""The kinds of plots of `dlrun visualize`: how each is computed, and its caption."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dlrun.cli.visualize_network import Interpretation
from dlrun.core.errors import UserError
from dlrun.interpret import attribution, filter_visualization
from dlrun.interpret import attribution as layer_activations
from dlrun.models.pretrained.transfer import ImagePreprocessor
from dlrun.report import interpretation as interpretation_plots

if TYPE_CHECKING:
    import numpy as np


PROGRESS_INTERVAL = 10.0  # seconds between two lines about one layer
MAX_KERNELS = 256  # feature maps or kernels of a layer: 16 rows of 16


@dataclass(frozen=True)
class ImagePlot:
    """One plot to be drawn.

    Attributes:
        layer: The layer that it shows.
        caption: What it shows, in words.
        draw: Draws it: (file, config of the run, warning) → None.
    """

    layer: str
    caption: str
    draw: Callable[[Path, dict[str, Any], str], None]


def get_plot_builder(kind: str) -> Callable[[Interpretation], Iterator[ImagePlot]]:
    """Return the function that makes the plots of a kind."""
    return {
        "activations": plot_activations,
        "heatmap": plot_heatmaps,
        "saliency": plot_saliency,
        "filters": plot_filters,
        "weights": plot_first_weights,
    }[kind]


def print_progress(text: str) -> None:
    """Print a line on stderr about what is being done."""
    print(text, file=sys.stderr, flush=True)


def with_progress(
    measure: Callable[[Tensor], Tensor], label: str, steps: int
) -> Callable[[Tensor], Tensor]:
    """Wrap a measure of gradient ascent so that long ones report their step.

    Args:
        measure: Images → the values that are maximized.
        label: What is being computed.
        steps: The number of steps.
    """
    began = reported_at = time.monotonic()
    step = 0

    def report_step(images: Tensor) -> Tensor:
        nonlocal reported_at, step
        if (now := time.monotonic()) - reported_at >= PROGRESS_INTERVAL:
            reported_at = now
            print_progress(f"{label}: step {min(step, steps)} of {steps}, {now - began:.0f} s")
        step += 1
        return measure(images)

    return report_step


def plot_activations(interpretation: Interpretation) -> Iterator[ImagePlot]:
    """Plot the activations of each layer, for every image that is looked at."""
    layers = interpretation.select_layers(
        attribution.select_first_layers(interpretation.image_branch),
        "has no convolutions: name a layer, layer=…",
    )
    images = interpretation.input_images
    # Beside other kinds one image is enough: the layers have many channels.
    if "activations" not in interpretation.request.kinds:
        images = images[:1]
    for image in images:
        activations = layer_activations.get_layer_activations(
            interpretation.net.model, image.batch, [layer.name for layer in layers]
        )
        for layer in layers:
            array = activations[layer.name]
            caption = f"{image.text}: the output of {layer.description}"
            caption += f", each channel on its own scale{_describe_channels(array)}"
            cells = layer_activations.to_contrast_images(array)[:MAX_KERNELS]
            title = f"Activations of {layer.name}"
            draw = partial(interpretation_plots.draw_grid, cells, title)
            yield ImagePlot(layer.name, caption, draw)


def _describe_channels(array: np.ndarray) -> str:
    num_silent = layer_activations.count_zero_channels(array)
    text = f"; {num_silent} of {len(array)} channels are inactive" if num_silent else ""
    return text + (f"; the first {MAX_KERNELS} of {len(array)}" * (len(array) > MAX_KERNELS))


def plot_heatmaps(interpretation: Interpretation) -> Iterator[ImagePlot]:
    """Plot where each layer sees the class, in each image (Grad-CAM)."""
    layers = interpretation.select_layers(
        [attribution.select_last_layer(interpretation.image_branch)],
        "has no convolutions, whose maps a heatmap is made of",
    )
    for layer in layers:
        # Grad-CAM weighs feature maps; a vector has no places to mark.
        if not layer.is_spatial:
            spatial = [layer.name for layer in interpretation.layer_names if layer.is_spatial]
            raise UserError(
                f"a heatmap needs a layer whose output is maps, which {layer.description} has "
                f"not: {', '.join(spatial) or 'none'}"
            )
        for image in interpretation.input_images:
            target = interpretation.get_target(image.batch)
            heat = attribution.grad_cam(
                interpretation.net.model, image.batch, interpretation.image, layer.name, target
            )
            seen_class = interpretation.describe_target(target)
            caption = f"{image.text}: where {layer.description} sees {seen_class}"
            caption += "" if heat.any() else "; nowhere: nothing here speaks for it"
            pixels = interpretation_plots.to_uint8(image.batch[interpretation.image][0])
            yield ImagePlot(
                layer.name,
                caption,
                partial(interpretation_plots.draw_heatmap, pixels, heat, target.label),
            )


def plot_saliency(interpretation: Interpretation) -> Iterator[ImagePlot]:
    """Plot which pixels the prediction depends on, in each image."""
    for image in interpretation.input_images:
        target = interpretation.get_target(image.batch)
        values = attribution.saliency(
            interpretation.net.model, image.batch, interpretation.image, target
        )
        caption = (
            f"{image.text}: the pixels whose change would change the prediction most for "
            f"{interpretation.describe_target(target)}"
        )
        pixels = interpretation_plots.to_uint8(image.batch[interpretation.image][0])
        yield ImagePlot(
            interpretation.image,
            caption,
            partial(interpretation_plots.draw_saliency, pixels, values, target.label),
        )


def plot_filters(interpretation: Interpretation) -> Iterator[ImagePlot]:
    """Plot the images that maximize the activation of each filter of a layer."""
    request = interpretation.request
    for layer in interpretation.select_layers(
        attribution.select_even_layers(interpretation.image_branch),
        "has no convolutions: name a layer, layer=…",
    ):
        forward, shape = get_layer_input(interpretation, layer)
        count = min(layer.shape[0], request.count)
        activation = filter_visualization.mean_filter_activation(
            forward, interpretation.net.model.get_submodule(layer.name)
        )
        print_progress(
            f"filters of {layer.name}: {count} images, {request.steps} steps of gradient ascent"
        )
        measure = with_progress(activation, f"filters of {layer.name}", request.steps)
        start = filter_visualization.build_noise_images(count, shape, interpretation.device)
        optimized = filter_visualization.optimize_filter_images(
            measure, start, request.steps, request.rate
        )
        num_silent = int((optimized.after <= 0).sum())
        caption = (
            f"What excites the filters of {layer.description}: {request.steps} steps of gradient "
            "ascent from gray noise"
        )
        caption += f"; the first {count} of {layer.shape[0]}" if count < layer.shape[0] else ""
        caption += f"; {num_silent} stayed cold" if num_silent else ""
        cells = filter_visualization.to_visible_images(optimized.pictures)
        yield ImagePlot(
            layer.name,
            caption,
            partial(interpretation_plots.draw_grid, cells, f"Filters of {layer.name}", columns=8),
        )


def get_layer_input(
    interpretation: Interpretation, layer: attribution.LayerOutput
) -> tuple[Callable[[Tensor], object], tuple[int, ...]]:
    """Return what is run for a layer to be computed, and the shape of one image for it.

    A tower of convolutions takes images of any size; a layer behind it needs the network's own.

    Raises:
        UserError: For a layer that sees other inputs, too.
    """
    model, image = interpretation.net.model, interpretation.image
    shape = interpretation.net.spec.inputs[image].shape
    # A smaller canvas makes gradient ascent faster, and convolutions take any size.
    if layer in interpretation.image_branch and image in model.image_towers():
        towers = model.image_towers()
        reduced = (shape[0], *(min(side, interpretation.request.size) for side in shape[1:]))
        return without_resize(towers[image]), reduced
    if len(interpretation.net.spec.inputs) > 1:
        raise UserError(
            f"{layer.description} sees other inputs too: patterns are found where only an image "
            "goes in"
        )
    return lambda images: model({image: images}), shape


def without_resize(tower: nn.Module) -> nn.Module:
    """Return a tower without the resizing of a pretrained model's preprocessing."""
    children = OrderedDict(tower.named_children())
    preprocessor = children.get("preprocess")
    if not isinstance(preprocessor, ImagePreprocessor):
        return tower
    # Normalization stays; resizing would blur the canvas that is optimized.
    children["preprocess"] = ImagePreprocessor(preprocessor.channels, None, *preprocessor.wants).to(
        next(tower.parameters()).device
    )
    return nn.Sequential(children)


def plot_first_weights(interpretation: Interpretation) -> Iterator[ImagePlot]:
    """Plot the kernels of the first convolution, which sees the image itself."""
    # Kernels of deeper layers have many channels and cannot be seen as images.
    convolution = next(
        (candidate for candidate in interpretation.image_branch if candidate.kind == "Conv2d"), None
    )
    for layer in interpretation.select_layers([convolution], "has no convolutions"):
        if layer.kind != "Conv2d":
            suitable = [item.name for item in interpretation.layer_names if item.kind == "Conv2d"]
            raise UserError(
                f"only a convolution's weights can be drawn, and {layer.description} is none. "
                f"There are: {', '.join(suitable) or 'none'}"
            )
        cells = filter_visualization.get_kernel_images(
            interpretation.net.model.get_submodule(layer.name)
        )
        caption = (
            f"The weights of {layer.description}, each kernel on its own scale, zero at mid-gray"
        )
        caption += f"; the first {MAX_KERNELS} of {len(cells)}" if len(cells) > MAX_KERNELS else ""
        yield ImagePlot(
            layer.name,
            caption,
            partial(
                interpretation_plots.draw_grid, cells[:MAX_KERNELS], f"Weights of {layer.name}"
            ),
        )
