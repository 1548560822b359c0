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

from dlrun.cli.visualize_images import View, few_rows, given
from dlrun.core.errors import Refused, in_short
from dlrun.core.run_folder import RunDir
from dlrun.core.types import Batch
from dlrun.experiment.inference import device_of
from dlrun.interpret import activations as answers
from dlrun.interpret import attribution, filter_visualization
from dlrun.interpret import attribution as heatmap
from dlrun.interpret.model_summary import layers
from dlrun.interpret.target import Question, check_class, question, target_of
from dlrun.models.pretrained.earlier_run import Trained, trained
from dlrun.models.pretrained.transfer import Preprocess
from dlrun.report import interpretation

if TYPE_CHECKING:
    from dlrun.cli.visualize_request import Asked


SILENCE = 10.0  # seconds at most between two lines of one layer
SHOWN = 256  # maps of a layer, or kernels: 16 lines of 16


@dataclass(frozen=True)
class Drawing:
    """One picture to be drawn. draw: takes the file, the run's config, and what must stand beside it."""

    layer: str
    caption: str
    draw: Callable[[Path, dict[str, Any], str], None]


@dataclass(frozen=True)
class Look:
    """A finished run's network, and what is asked about it. image: the input that is looked at."""

    net: Trained
    asked: Asked
    image: str
    target: str
    device: torch.device
    warning: str
    plugins: tuple[str, ...]

    @cached_property
    def views(self) -> list[View]:
        """The pictures that were named, or a few of the run's own."""
        shown = given(self.net, self.image, self.asked.images, self.asked.rows, self.plugins)
        shown = shown or few_rows(self.net, self.plugins)
        return [View(view.text, {name: part.to(self.device) for name, part in view.batch.items()}) for view in shown]

    @cached_property
    def blank(self) -> Batch:
        """One row of nothing."""
        return {name: part.to(self.device) for name, part in attribution.blank(self.net.spec).items()}

    @cached_property
    def there(self) -> list[attribution.Map]:
        """Every layer of the network that can be looked at."""
        return attribution.maps(self.net.model, self.blank)

    def chosen(self, usual: Sequence[attribution.Map | None], missing: str) -> list[attribution.Map]:
        """The layers that were asked for, else the usual ones. Raises Refused for unknown ones, or where none is."""
        found = [self.named(name) for name in self.asked.layers] or [each for each in usual if each is not None]
        if not found:
            raise Refused(f"model={interpretation.name_of(self.net.config)} {missing}")
        return found

    def named(self, name: str) -> attribution.Map:
        """The layer of this name, as `dlrun explain` lists them."""
        own = "" if name == "(model)" else name
        for each in self.there:
            if each.name == own:
                return each
        there = [layer.name for layer in layers(self.net.model, self.blank)]
        close = difflib.get_close_matches(name, there, 1)
        guess = f": did you mean '{close[0]}'?" if close else "."
        what = "answers with no tensor of its own" if name in there else "is no layer of this network"
        raise Refused(f"'{name}' {what}{guess} There are: {in_short(there, name)}")

    def question(self, batch: Batch) -> Question:
        """The class that was asked for, or the one that the network answers."""
        with torch.no_grad():
            return question(self.net.spec, self.net.model(batch), self.target, self.asked.label)

    def told(self, asked: Question) -> str:
        """'dog, which the network gives 0.93'."""
        return f"{asked.label}, which the network gives {asked.share:.2f}"

    @property
    def tower(self) -> list[attribution.Map]:
        """The layers that see this picture alone."""
        return attribution.within(self.there, self.net.model, self.image)


def look_into(folder: Path, plugins: tuple[str, ...], asked: Asked, fit: str = "") -> Look:
    """The network of a run, frozen, on the device of the run or the best one here. Raises Refused."""
    net = trained(folder, plugins, fit=fit, quiet=False)
    images = [name for name, field in net.spec.inputs.items() if field.kind == "image"]
    if not images:
        inputs = ", ".join(f"{field.kind} '{name}'" for name, field in net.spec.inputs.items())
        raise Refused(f"{folder} reads no pictures, so there is nothing to draw: its inputs are {inputs}")
    if asked.input and asked.input not in images:
        raise Refused(f"no picture '{asked.input}' among the inputs. There are: {', '.join(images)}")
    target = target_of(net.spec, asked.target)
    check_class(net.spec, target, asked.label)
    device = device_of(net.config)
    net.model.requires_grad_(False).to(device)
    note = (RunDir(folder).read_json("data.json") or {}).get("note", "")
    warning = note if "SYNTHETIC" in note else ""
    return Look(net, asked, asked.input or images[0], target, device, warning, plugins)


def makers(kind: str) -> Callable[[Look], Iterator[Drawing]]:
    """What makes the pictures of a kind."""
    return {
        "activations": activations, "heatmap": heatmaps, "saliency": saliency, "filters": filters, "weights": weights,
    }[kind]  # fmt: skip


def say(text: str) -> None:
    """One line on what is being done, beside the answers of this command."""
    print(text, file=sys.stderr, flush=True)


def ticking(measure: Callable[[Tensor], Tensor], what: str, steps: int) -> Callable[[Tensor], Tensor]:
    """The same measure, which says every SILENCE seconds which step of ascent it is at."""
    began = said = time.monotonic()
    step = 0

    def ticked(pictures: Tensor) -> Tensor:
        nonlocal said, step
        if (now := time.monotonic()) - said >= SILENCE:
            said = now
            say(f"{what}: step {min(step, steps)} of {steps}, {now - began:.0f} s")
        step += 1
        return measure(pictures)

    return ticked


def activations(look: Look) -> Iterator[Drawing]:
    """What each layer answers: to every picture where nothing else is drawn, else to the first."""
    chosen = look.chosen(attribution.first_layers(look.tower), "has no convolutions: name a layer, layer=…")
    for view in look.views if "activations" in look.asked.kinds else look.views[:1]:
        found = answers.activations(look.net.model, view.batch, [each.name for each in chosen])
        for layer in chosen:
            array = found[layer.name]
            quiet, some = answers.silent(array), len(array) > SHOWN
            caption = f"{view.text}: what {layer.text} answers, each channel on its own scale"
            caption += f"; {quiet} of {len(array)} channels do not answer at all" if quiet else ""
            caption += f"; the first {SHOWN} of {len(array)}" if some else ""
            cells = answers.contrasted(array)[:SHOWN]
            yield Drawing(layer.name, caption, partial(interpretation.draw_grid, cells, f"Activations of {layer.name}"))


def heatmaps(look: Look) -> Iterator[Drawing]:
    """Where the class is seen, by each layer, in each picture."""
    chosen = look.chosen([attribution.last_layer(look.tower)], "has no convolutions, whose maps a heatmap is made of")
    for layer in chosen:
        if not layer.wide:
            there = ", ".join(each.name for each in look.there if each.wide) or "none"
            raise Refused(f"a heatmap needs a layer that answers with maps, which {layer.text} does not: {there}")
        for view in look.views:
            asked = look.question(view.batch)
            warmth = heatmap.heatmap(look.net.model, view.batch, look.image, layer.name, asked)
            caption = f"{view.text}: where {layer.text} sees {look.told(asked)}"
            caption += "" if warmth.any() else "; nowhere: nothing here speaks for it"
            picture = interpretation.pixels(view.batch[look.image][0])
            yield Drawing(layer.name, caption, partial(interpretation.draw_heatmap, picture, warmth, asked.label))


def saliency(look: Look) -> Iterator[Drawing]:
    """Which pixels the answer hangs on, in each picture."""
    for view in look.views:
        asked = look.question(view.batch)
        found = heatmap.saliency(look.net.model, view.batch, look.image, asked)
        caption = f"{view.text}: the pixels whose change would change the answer most for {look.told(asked)}"
        picture = interpretation.pixels(view.batch[look.image][0])
        yield Drawing(look.image, caption, partial(interpretation.draw_saliency, picture, found, asked.label))


def filters(look: Look) -> Iterator[Drawing]:
    """What excites each filter of a layer."""
    asked = look.asked
    for layer in look.chosen(attribution.spread_layers(look.tower), "has no convolutions: name a layer, layer=…"):
        run, shape = stage(look, layer)
        count = min(layer.shape[0], asked.count)
        excited = filter_visualization.excitement(run, look.net.model.get_submodule(layer.name))
        say(f"filters of {layer.name}: {count} images, {asked.steps} steps of gradient ascent")
        measure = ticking(excited, f"filters of {layer.name}", asked.steps)
        start = filter_visualization.noise(count, shape, look.device)
        found = filter_visualization.patterns(measure, start, asked.steps, asked.rate)
        cold = int((found.after <= 0).sum())
        caption = f"What excites the filters of {layer.text}: {asked.steps} steps of gradient ascent from grey noise"
        caption += f"; the first {count} of {layer.shape[0]}" if count < layer.shape[0] else ""
        caption += f"; {cold} stayed cold" if cold else ""
        cells = filter_visualization.visible(found.pictures)
        yield Drawing(
            layer.name, caption, partial(interpretation.draw_grid, cells, f"Filters of {layer.name}", columns=8)
        )


def stage(look: Look, layer: attribution.Map) -> tuple[Callable[[Tensor], object], tuple[int, ...]]:
    """What is to be run for this layer to answer, and the shape of one picture that goes in.

    A tower of convolutions takes pictures of any size; a layer behind it needs the network's own. Raises Refused.
    """
    model, image = look.net.model, look.image
    shape = look.net.spec.inputs[image].shape
    if layer in look.tower and image in getattr(model, "towers", {}):
        towers: Any = model.towers
        smaller = (shape[0], *(min(side, look.asked.size) for side in shape[1:]))
        return unresized(towers[image]), smaller
    if len(look.net.spec.inputs) > 1:
        raise Refused(f"{layer.text} sees other inputs too: patterns are found where only a picture goes in")
    return lambda pictures: model({image: pictures}), shape


def unresized(tower: nn.Module) -> nn.Module:
    """The tower without the resizing of a pretrained base's preprocessing: a canvas keeps the pixels that it has."""
    parts = OrderedDict(tower.named_children())
    first = parts.get("preprocess")
    if not isinstance(first, Preprocess):
        return tower
    parts["preprocess"] = Preprocess(first.channels, None, *first.wants).to(next(tower.parameters()).device)
    return nn.Sequential(parts)


def weights(look: Look) -> Iterator[Drawing]:
    """The kernels of the first convolution, which look at the picture itself."""
    first = next((each for each in look.tower if each.kind == "Conv2d"), None)
    for layer in look.chosen([first], "has no convolutions"):
        if layer.kind != "Conv2d":
            there = ", ".join(each.name for each in look.there if each.kind == "Conv2d") or "none"
            raise Refused(f"only a convolution's weights can be drawn, and {layer.text} is none. There are: {there}")
        cells = filter_visualization.kernels(look.net.model.get_submodule(layer.name))
        caption = f"The weights of {layer.text}, each kernel on its own scale, zero at mid-grey"
        caption += f"; the first {SHOWN} of {len(cells)}" if len(cells) > SHOWN else ""
        yield Drawing(layer.name, caption, partial(interpretation.draw_grid, cells[:SHOWN], f"Weights of {layer.name}"))
