"""The network of `dlrun visualize`, loaded from its run, and the images that it is shown."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dlrun.config.settings import get_split_seed
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import Batch
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.evaluation import worst_errors
from dlrun.experiment.builder import ExperimentBuilder
from dlrun.experiment.inference import get_image_reader, get_run_device
from dlrun.interpret import attribution
from dlrun.interpret.model_summary import summarize_layers
from dlrun.interpret.target import AttributionTarget, check_class, find_target, select_output
from dlrun.models.pretrained.earlier_run import LoadedModel, load_run_model
from dlrun.report import interpretation

if TYPE_CHECKING:
    from dlrun.cli.visualize_request import VisualizeRequest


# Rows to show where nothing was named; where there are classes, one row of so many classes.
MAX_EXAMPLES = 3
MAX_CLASSES = 4


@dataclass(frozen=True)
class InputImage:
    """One image.

    Attributes:
        text: Which one it is, in words.
        batch: Its row of all inputs, (1, …) each.
    """

    text: str
    batch: Batch


def load_selected_images(
    net: LoadedModel,
    image: str,
    files: Sequence[Path],
    rows: Sequence[int],
    plugins: tuple[str, ...],
) -> list[InputImage]:
    """Load the images that were named: files first, then rows.

    Args:
        net: The run's network.
        image: The input that is an image.
        files: Image files.
        rows: Numbers of training and validation rows.
        plugins: Packages that the config may instantiate.

    Raises:
        UserError: Where one of them cannot be loaded.
    """
    selected = [load_image_file(net, image, file) for file in files]
    return selected + (load_dataset_images(net, rows, build_run_data(net, plugins)) if rows else [])


def load_image_file(net: LoadedModel, image: str, file: Path) -> InputImage:
    """Load an image from a file, preprocessed as the run's own were.

    Raises:
        UserError: Where that is not possible.
    """
    from dlrun.data.images.archives import decode_name
    from dlrun.data.images.decode import ImageDecodeError, decode_image

    # A file gives one input, and a row of this run has several.
    if len(net.spec.inputs) > 1:
        other_inputs = ", ".join(name for name in net.spec.inputs if name != image)
        raise UserError(
            f"image={file}: a row has {other_inputs} too, which a file does not: use row=…"
        )
    reader = get_image_reader(net, image)
    if reader is None:
        raise UserError(f"image={file}: this run's images are not made from files alone: use row=…")
    try:
        pixels = decode_image(file, reader)
    except ImageDecodeError as error:
        raise UserError(f"image={file}: {error}") from error
    # In [0, 1], as the datasets hand images to a model.
    return InputImage(
        decode_name(file.name), {image: torch.from_numpy(pixels[None].astype(np.float32) / 255)}
    )


def build_run_data(net: LoadedModel, plugins: tuple[str, ...]) -> ExperimentBuilder:
    """Load the run's data.

    Raises:
        UserError: Where they are missing, or not those that the run was trained on.
    """
    return ExperimentBuilder(net.config, net.folder, plugins)


def load_dataset_images(
    net: LoadedModel, rows: Sequence[int], builder: ExperimentBuilder
) -> list[InputImage]:
    """Load training and validation rows, with the preprocessing that the run has fitted."""
    dataset, settings = builder.dataset, builder.settings
    if missing := [row for row in rows if row >= len(dataset)]:
        raise UserError(
            f"row={missing[0]}: there are {len(dataset):,} development rows, 0 to "
            f"{len(dataset) - 1}"
        )
    # The same split as in training: the preprocessing is fitted on the run's training rows.
    train, _ = builder.plan.split_rows(dataset, net.job, get_split_seed(net.config))
    data = prepare(dataset, np.asarray(train)[: settings.overfit], None)
    columns = {name: column[np.asarray(rows)] for name, column in dataset.dev.items()}
    table = transform_rows(dataset, data, columns)
    images = []
    for row, batch in zip(rows, table.batches(1), strict=True):
        truths = []
        for name, field in net.spec.targets.items():
            # Only the truth is wanted; the description needs some prediction beside it.
            scores = np.zeros(field.num_outputs)
            description = worst_errors.describe_row(field, scores, batch[name][0].numpy())
            truths.append(description["truth"])
        text = f"row {row} ({', '.join(truths)})"
        images.append(InputImage(text, {name: batch[name] for name in net.spec.inputs}))
    return images


def select_example_images(net: LoadedModel, plugins: tuple[str, ...]) -> list[InputImage]:
    """Select a few validation rows (else training rows): one of each class, where there are
    classes.
    """
    builder = build_run_data(net, plugins)
    train, val = builder.plan.split_rows(builder.dataset, net.job, get_split_seed(net.config))
    rows = np.asarray(train if val is None else val)
    name, kind = next(iter(builder.dataset.targets.items()))
    if kind not in ("binary", "category"):
        return load_dataset_images(net, rows[:MAX_EXAMPLES].tolist(), builder)
    # np.unique orders by class; sorting its indices restores the order of the rows.
    targets = np.asarray(builder.dataset.dev[name])[rows].reshape(len(rows), -1)
    _, first_rows = np.unique(targets, axis=0, return_index=True)
    return load_dataset_images(net, rows[np.sort(first_rows)[:MAX_CLASSES]].tolist(), builder)


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
            raise UserError(f"model={interpretation.name_of(self.net.config)} {missing}")
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
        problem = "returns no tensor of its own" if name in names else "is no layer of this network"
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
            f"{folder} reads no images, so there is nothing to draw: its inputs are {inputs}"
        )
    if request.input and request.input not in images:
        raise UserError(
            f"no image '{request.input}' among the inputs. There are: {', '.join(images)}"
        )
    target = find_target(net.spec, request.target)
    check_class(net.spec, target, request.label)
    device = get_run_device(net.config)
    # Only images are optimized; gradients of weights would cost memory.
    net.model.requires_grad_(False).to(device)
    # A plot may be passed on without its run: it must say that the data were synthetic.
    warning = RunFolder(folder).read_data().get("synthetic", "")
    return Interpretation(
        net, request, request.input or images[0], target, device, warning, plugins
    )
