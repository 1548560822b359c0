"""Each kind of picture that `dlrun visualize` draws: what is computed for it, and what is said of it."""

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
from dlrun.interpret import activations as answers
from dlrun.interpret import attribution, filter_visualization
from dlrun.interpret import attribution as heatmap
from dlrun.interpret.model_summary import summarize_layers
from dlrun.interpret.target import AttributionTarget, check_class, find_target, select_output
from dlrun.models.pretrained.earlier_run import LoadedModel, load_run_model
from dlrun.models.pretrained.transfer import ImagePreprocessor
from dlrun.report import interpretation

if TYPE_CHECKING:
    from dlrun.cli.visualize_request import VisualizeRequest


PROGRESS_INTERVAL = 10.0  # seconds at most between two lines of one layer
MAX_KERNELS = 256  # maps of a layer, or kernels: 16 lines of 16


@dataclass(frozen=True)
class ImagePlot:
    """One picture to be drawn. draw: takes the file, the run's config, and what must stand beside it."""

    layer: str
    caption: str
    draw: Callable[[Path, dict[str, Any], str], None]


@dataclass(frozen=True)
class Interpretation:
    """A finished run's network, and what is asked about it. image: the input that is looked at."""

    net: LoadedModel
    asked: VisualizeRequest
    image: str
    target: str
    device: torch.device
    warning: str
    plugins: tuple[str, ...]

    @cached_property
    def input_images(self) -> list[InputImage]:
        """The pictures that were named, or a few of the run's own."""
        shown = load_selected_images(
            self.net, self.image, self.asked.images, self.asked.rows, self.plugins
        )
        shown = shown or select_example_images(self.net, self.plugins)
        return [
            InputImage(view.text, {name: part.to(self.device) for name, part in view.batch.items()})
            for view in shown
        ]

    @cached_property
    def zero_input(self) -> Batch:
        """One row of nothing."""
        return {
            name: part.to(self.device)
            for name, part in attribution.build_blank_batch(self.net.spec).items()
        }

    @cached_property
    def layer_names(self) -> list[attribution.LayerOutput]:
        """Every layer of the network that can be looked at."""
        return attribution.collect_layer_outputs(self.net.model, self.zero_input)

    def select_layers(
        self, usual: Sequence[attribution.LayerOutput | None], missing: str
    ) -> list[attribution.LayerOutput]:
        """The layers that were asked for, else the usual ones. Raises UserError for unknown ones, or where none is."""
        found = [self.get_layer(name) for name in self.asked.layers] or [
            each for each in usual if each is not None
        ]
        if not found:
            raise UserError(f"model={interpretation.name_of(self.net.config)} {missing}")
        return found

    def get_layer(self, name: str) -> attribution.LayerOutput:
        """The layer of this name, as `dlrun explain` lists them."""
        own = "" if name == "(model)" else name
        for each in self.layer_names:
            if each.name == own:
                return each
        there = [layer.name for layer in summarize_layers(self.net.model, self.zero_input)]
        close = difflib.get_close_matches(name, there, 1)
        guess = f": did you mean '{close[0]}'?" if close else "."
        what = (
            "answers with no tensor of its own" if name in there else "is no layer of this network"
        )
        raise UserError(f"'{name}' {what}{guess} There are: {format_names(there, name)}")

    def get_target(self, batch: Batch) -> AttributionTarget:
        """The class that was asked for, or the one that the network answers."""
        with torch.no_grad():
            return select_output(
                self.net.spec, self.net.model(batch), self.target, self.asked.label
            )

    def describe_target(self, asked: AttributionTarget) -> str:
        """'dog, which the network gives 0.93'."""
        return f"{asked.label}, which the network gives {asked.probability:.2f}"

    @property
    def image_branch(self) -> list[attribution.LayerOutput]:
        """The layers that see this picture alone."""
        return attribution.select_image_layers(self.layer_names, self.net.model, self.image)


def load_network(
    folder: Path, plugins: tuple[str, ...], asked: VisualizeRequest, fit: str = ""
) -> Interpretation:
    """The network of a run, frozen, on the device of the run or the best one here. Raises UserError."""
    net = load_run_model(folder, plugins, fit=fit, quiet=False)
    images = [name for name, field in net.spec.inputs.items() if field.kind == "image"]
    if not images:
        inputs = ", ".join(f"{field.kind} '{name}'" for name, field in net.spec.inputs.items())
        raise UserError(
            f"{folder} reads no pictures, so there is nothing to draw: its inputs are {inputs}"
        )
    if asked.input and asked.input not in images:
        raise UserError(
            f"no picture '{asked.input}' among the inputs. There are: {', '.join(images)}"
        )
    target = find_target(net.spec, asked.target)
    check_class(net.spec, target, asked.label)
    device = get_run_device(net.config)
    net.model.requires_grad_(False).to(device)
    note = (RunFolder(folder).read_json("data.json") or {}).get("note", "")
    warning = note if "SYNTHETIC" in note else ""
    return Interpretation(net, asked, asked.input or images[0], target, device, warning, plugins)


def get_plot_builder(kind: str) -> Callable[[Interpretation], Iterator[ImagePlot]]:
    """What makes the pictures of a kind."""
    return {
        "activations": plot_activations, "heatmap": plot_heatmaps, "saliency": plot_saliency, "filters": plot_filters, "weights": plot_first_weights,
    }[kind]  # fmt: skip


def print_progress(text: str) -> None:
    """One line on what is being done, beside the answers of this command."""
    print(text, file=sys.stderr, flush=True)


def with_progress(
    measure: Callable[[Tensor], Tensor], what: str, steps: int
) -> Callable[[Tensor], Tensor]:
    """The same measure, which says every SILENCE seconds which step of ascent it is at."""
    began = said = time.monotonic()
    step = 0

    def ticked(pictures: Tensor) -> Tensor:
        nonlocal said, step
        if (now := time.monotonic()) - said >= PROGRESS_INTERVAL:
            said = now
            print_progress(f"{what}: step {min(step, steps)} of {steps}, {now - began:.0f} s")
        step += 1
        return measure(pictures)

    return ticked


def plot_activations(look: Interpretation) -> Iterator[ImagePlot]:
    """What each layer answers: to every picture where nothing else is drawn, else to the first."""
    chosen = look.select_layers(
        attribution.select_first_layers(look.image_branch),
        "has no convolutions: name a layer, layer=…",
    )
    for view in look.input_images if "activations" in look.asked.kinds else look.input_images[:1]:
        found = answers.get_layer_activations(
            look.net.model, view.batch, [each.name for each in chosen]
        )
        for layer in chosen:
            array = found[layer.name]
            quiet, some = answers.count_zero_channels(array), len(array) > MAX_KERNELS
            caption = (
                f"{view.text}: what {layer.description} answers, each channel on its own scale"
            )
            caption += f"; {quiet} of {len(array)} channels do not answer at all" if quiet else ""
            caption += f"; the first {MAX_KERNELS} of {len(array)}" if some else ""
            cells = answers.to_contrast_images(array)[:MAX_KERNELS]
            yield ImagePlot(
                layer.name,
                caption,
                partial(interpretation.draw_grid, cells, f"Activations of {layer.name}"),
            )


def plot_heatmaps(look: Interpretation) -> Iterator[ImagePlot]:
    """Where the class is seen, by each layer, in each picture."""
    chosen = look.select_layers(
        [attribution.select_last_layer(look.image_branch)],
        "has no convolutions, whose maps a heatmap is made of",
    )
    for layer in chosen:
        if not layer.is_spatial:
            there = ", ".join(each.name for each in look.layer_names if each.is_spatial) or "none"
            raise UserError(
                f"a heatmap needs a layer that answers with maps, which {layer.description} does not: {there}"
            )
        for view in look.input_images:
            asked = look.get_target(view.batch)
            warmth = heatmap.grad_cam(look.net.model, view.batch, look.image, layer.name, asked)
            caption = f"{view.text}: where {layer.description} sees {look.describe_target(asked)}"
            caption += "" if warmth.any() else "; nowhere: nothing here speaks for it"
            picture = interpretation.to_uint8(view.batch[look.image][0])
            yield ImagePlot(
                layer.name,
                caption,
                partial(interpretation.draw_heatmap, picture, warmth, asked.label),
            )


def plot_saliency(look: Interpretation) -> Iterator[ImagePlot]:
    """Which pixels the answer hangs on, in each picture."""
    for view in look.input_images:
        asked = look.get_target(view.batch)
        found = heatmap.saliency(look.net.model, view.batch, look.image, asked)
        caption = f"{view.text}: the pixels whose change would change the answer most for {look.describe_target(asked)}"
        picture = interpretation.to_uint8(view.batch[look.image][0])
        yield ImagePlot(
            look.image, caption, partial(interpretation.draw_saliency, picture, found, asked.label)
        )


def plot_filters(look: Interpretation) -> Iterator[ImagePlot]:
    """What excites each filter of a layer."""
    asked = look.asked
    for layer in look.select_layers(
        attribution.select_even_layers(look.image_branch),
        "has no convolutions: name a layer, layer=…",
    ):
        run, shape = get_layer_input(look, layer)
        count = min(layer.shape[0], asked.count)
        excited = filter_visualization.mean_filter_activation(
            run, look.net.model.get_submodule(layer.name)
        )
        print_progress(
            f"filters of {layer.name}: {count} images, {asked.steps} steps of gradient ascent"
        )
        measure = with_progress(excited, f"filters of {layer.name}", asked.steps)
        start = filter_visualization.build_noise_images(count, shape, look.device)
        found = filter_visualization.optimize_filter_images(measure, start, asked.steps, asked.rate)
        cold = int((found.after <= 0).sum())
        caption = f"What excites the filters of {layer.description}: {asked.steps} steps of gradient ascent from grey noise"
        caption += f"; the first {count} of {layer.shape[0]}" if count < layer.shape[0] else ""
        caption += f"; {cold} stayed cold" if cold else ""
        cells = filter_visualization.to_visible_images(found.pictures)
        yield ImagePlot(
            layer.name,
            caption,
            partial(interpretation.draw_grid, cells, f"Filters of {layer.name}", columns=8),
        )


def get_layer_input(
    look: Interpretation, layer: attribution.LayerOutput
) -> tuple[Callable[[Tensor], object], tuple[int, ...]]:
    """What is to be run for this layer to answer, and the shape of one picture that goes in.

    A tower of convolutions takes pictures of any size; a layer behind it needs the network's own. Raises UserError.
    """
    model, image = look.net.model, look.image
    shape = look.net.spec.inputs[image].shape
    if layer in look.image_branch and image in model.image_towers():
        towers = model.image_towers()
        smaller = (shape[0], *(min(side, look.asked.size) for side in shape[1:]))
        return without_resize(towers[image]), smaller
    if len(look.net.spec.inputs) > 1:
        raise UserError(
            f"{layer.description} sees other inputs too: patterns are found where only a picture goes in"
        )
    return lambda pictures: model({image: pictures}), shape


def without_resize(tower: nn.Module) -> nn.Module:
    """The tower without the resizing of a pretrained base's preprocessing: a canvas keeps the pixels that it has."""
    parts = OrderedDict(tower.named_children())
    first = parts.get("preprocess")
    if not isinstance(first, ImagePreprocessor):
        return tower
    parts["preprocess"] = ImagePreprocessor(first.channels, None, *first.wants).to(
        next(tower.parameters()).device
    )
    return nn.Sequential(parts)


def plot_first_weights(look: Interpretation) -> Iterator[ImagePlot]:
    """The kernels of the first convolution, which look at the picture itself."""
    first = next((each for each in look.image_branch if each.kind == "Conv2d"), None)
    for layer in look.select_layers([first], "has no convolutions"):
        if layer.kind != "Conv2d":
            there = (
                ", ".join(each.name for each in look.layer_names if each.kind == "Conv2d") or "none"
            )
            raise UserError(
                f"only a convolution's weights can be drawn, and {layer.description} is none. There are: {there}"
            )
        cells = filter_visualization.get_kernel_images(look.net.model.get_submodule(layer.name))
        caption = (
            f"The weights of {layer.description}, each kernel on its own scale, zero at mid-grey"
        )
        caption += f"; the first {MAX_KERNELS} of {len(cells)}" if len(cells) > MAX_KERNELS else ""
        yield ImagePlot(
            layer.name,
            caption,
            partial(interpretation.draw_grid, cells[:MAX_KERNELS], f"Weights of {layer.name}"),
        )
