"""The kinds of plots of `dlrun visualize`: how each is computed, and its caption."""

from __future__ import annotations

import difflib
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlrun.cli.visualize_images import InputImage, load_selected_images, select_example_images
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import Batch
from dlrun.experiment.inference import get_run_device
from dlrun.interpret import activations as layer_activations
from dlrun.interpret import attribution, filter_visualization
from dlrun.interpret.model_summary import summarize_layers
from dlrun.interpret.target import AttributionTarget, check_class, find_target, select_output
from dlrun.models.pretrained.earlier_run import LoadedModel, load_run_model
from dlrun.models.pretrained.transfer import ImagePreprocessor
from dlrun.report import interpretation as interpretation_plots

if TYPE_CHECKING:
    from dlrun.cli.visualize_request import VisualizeRequest


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


@dataclass(frozen=True)
class Interpretation:
    """A finished run's network, and what is asked about it.

    Attributes:
        net: The network.
        request: What was asked for.
        image: The input that is looked at.
        target: The target whose prediction is explained.
        device: Where the network runs.
        warning: What every plot must carry, such as SYNTHETIC.
        plugins: Packages that the config may instantiate.
    """

    net: LoadedModel
    request: VisualizeRequest
    image: str
    target: str
    device: torch.device
    warning: str
    plugins: tuple[str, ...]

    @cached_property
    def input_images(self) -> list[InputImage]:
        """The images that were named, or a few of the run's own."""
        selected = load_selected_images(
            self.net, self.image, self.request.images, self.request.rows, self.plugins
        )
        selected = selected or select_example_images(self.net, self.plugins)
        return [
            InputImage(
                image.text, {name: column.to(self.device) for name, column in image.batch.items()}
            )
            for image in selected
        ]

    @cached_property
    def zero_input(self) -> Batch:
        """One row of zeros."""
        return {
            name: column.to(self.device)
            for name, column in attribution.build_blank_batch(self.net.spec).items()
        }

    @cached_property
    def layer_names(self) -> list[attribution.LayerOutput]:
        """Every layer of the network that can be looked at."""
        return attribution.collect_layer_outputs(self.net.model, self.zero_input)

    def select_layers(
        self, default: Sequence[attribution.LayerOutput | None], missing: str
    ) -> list[attribution.LayerOutput]:
        """Return the layers that were asked for, or default ones.

        Args:
            default: The default layers; None for one that does not exist.
            missing: What the model lacks where there is none, for the message.

        Raises:
            UserError: For unknown layers, or where there is none.
        """
        layers = [self.get_layer(name) for name in self.request.layers] or [
            layer for layer in default if layer is not None
        ]
        if not layers:
            raise UserError(f"model={interpretation_plots.name_of(self.net.config)} {missing}")
        return layers

    def get_layer(self, name: str) -> attribution.LayerOutput:
        """Return a layer by the name that `dlrun explain` shows.

        Raises:
            UserError: Where there is no such layer, or it returns no tensor.
        """
        # dlrun explain shows the model itself by this name.
        path = "" if name == "(model)" else name
        for layer in self.layer_names:
            if layer.name == path:
                return layer
        names = [layer.name for layer in summarize_layers(self.net.model, self.zero_input)]
        matches = difflib.get_close_matches(name, names, 1)
        hint = f": did you mean '{matches[0]}'?" if matches else "."
        problem = (
            "answers with no tensor of its own" if name in names else "is no layer of this network"
        )
        raise UserError(f"'{name}' {problem}{hint} There are: {format_names(names, name)}")

    def get_target(self, batch: Batch) -> AttributionTarget:
        """Return the class that was asked for, or the predicted one."""
        with torch.no_grad():
            return select_output(
                self.net.spec, self.net.model(batch), self.target, self.request.label
            )

    def describe_target(self, target: AttributionTarget) -> str:
        """Format 'dog, which the network gives 0.93'."""
        return f"{target.label}, which the network gives {target.probability:.2f}"

    @property
    def image_branch(self) -> list[attribution.LayerOutput]:
        """The layers that see this image alone."""
        return attribution.select_image_layers(self.layer_names, self.net.model, self.image)


def load_network(
    folder: Path, plugins: tuple[str, ...], request: VisualizeRequest, fit: str = ""
) -> Interpretation:
    """Load the network of a run, frozen, onto the run's device or the best one here.

    Args:
        folder: The run folder.
        plugins: Packages that the config may instantiate.
        request: What was asked for.
        fit: Which of several fits; "" where there is one.

    Raises:
        UserError: For a run without images, or an unknown input, target or class.
    """
    net = load_run_model(folder, plugins, fit=fit, quiet=False)
    images = [name for name, field in net.spec.inputs.items() if field.kind == "image"]
    if not images:
        inputs = ", ".join(f"{field.kind} '{name}'" for name, field in net.spec.inputs.items())
        raise UserError(
            f"{folder} reads no pictures, so there is nothing to draw: its inputs are {inputs}"
        )
    if request.input and request.input not in images:
        raise UserError(
            f"no picture '{request.input}' among the inputs. There are: {', '.join(images)}"
        )
    target = find_target(net.spec, request.target)
    check_class(net.spec, target, request.label)
    device = get_run_device(net.config)
    # Only images are optimized; gradients of weights would cost memory.
    net.model.requires_grad_(False).to(device)
    note = (RunFolder(folder).read_json("data.json") or {}).get("note", "")
    # A plot may be passed on without its run: it must say that the data were synthetic.
    warning = note if "SYNTHETIC" in note else ""
    return Interpretation(
        net, request, request.input or images[0], target, device, warning, plugins
    )


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
    """Plot the activations of each layer, for every image, or for the first one beside other
    kinds.
    """
    layers = interpretation.select_layers(
        attribution.select_first_layers(interpretation.image_branch),
        "has no convolutions: name a layer, layer=…",
    )
    for image in (
        interpretation.input_images
        if "activations" in interpretation.request.kinds
        else interpretation.input_images[:1]
    ):
        activations = layer_activations.get_layer_activations(
            interpretation.net.model, image.batch, [layer.name for layer in layers]
        )
        for layer in layers:
            array = activations[layer.name]
            num_silent, is_truncated = (
                layer_activations.count_zero_channels(array),
                len(array) > MAX_KERNELS,
            )
            caption = (
                f"{image.text}: what {layer.description} answers, each channel on its own scale"
            )
            caption += (
                f"; {num_silent} of {len(array)} channels do not answer at all"
                if num_silent
                else ""
            )
            caption += f"; the first {MAX_KERNELS} of {len(array)}" if is_truncated else ""
            cells = layer_activations.to_contrast_images(array)[:MAX_KERNELS]
            yield ImagePlot(
                layer.name,
                caption,
                partial(interpretation_plots.draw_grid, cells, f"Activations of {layer.name}"),
            )


def plot_heatmaps(interpretation: Interpretation) -> Iterator[ImagePlot]:
    """Plot where each layer sees the class, in each image (Grad-CAM)."""
    layers = interpretation.select_layers(
        [attribution.select_last_layer(interpretation.image_branch)],
        "has no convolutions, whose maps a heatmap is made of",
    )
    for layer in layers:
        # Grad-CAM weighs feature maps; a vector has no places to mark.
        if not layer.is_spatial:
            suitable = (
                ", ".join(
                    candidate.name
                    for candidate in interpretation.layer_names
                    if candidate.is_spatial
                )
                or "none"
            )
            raise UserError(
                f"a heatmap needs a layer that answers with maps, which {layer.description} does "
                f"not: {suitable}"
            )
        for image in interpretation.input_images:
            target = interpretation.get_target(image.batch)
            heat = attribution.grad_cam(
                interpretation.net.model, image.batch, interpretation.image, layer.name, target
            )
            caption = (
                f"{image.text}: where {layer.description} sees "
                f"{interpretation.describe_target(target)}"
            )
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
            f"{image.text}: the pixels whose change would change the answer most for "
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
            "ascent from grey noise"
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
            f"{layer.description} sees other inputs too: patterns are found where only a picture "
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
            suitable = (
                ", ".join(
                    candidate.name
                    for candidate in interpretation.layer_names
                    if candidate.kind == "Conv2d"
                )
                or "none"
            )
            raise UserError(
                f"only a convolution's weights can be drawn, and {layer.description} is none. "
                f"There are: {suitable}"
            )
        cells = filter_visualization.get_kernel_images(
            interpretation.net.model.get_submodule(layer.name)
        )
        caption = (
            f"The weights of {layer.description}, each kernel on its own scale, zero at mid-grey"
        )
        caption += f"; the first {MAX_KERNELS} of {len(cells)}" if len(cells) > MAX_KERNELS else ""
        yield ImagePlot(
            layer.name,
            caption,
            partial(
                interpretation_plots.draw_grid, cells[:MAX_KERNELS], f"Weights of {layer.name}"
            ),
        )
