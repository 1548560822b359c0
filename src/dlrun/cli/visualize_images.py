"""The images of `dlrun visualize`: the user's files, or training and validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dlrun.config.settings import get_split_seed
from dlrun.core.errors import UserError
from dlrun.core.types import Batch
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.evaluation import worst_errors
from dlrun.experiment.builder import ExperimentBuilder
from dlrun.experiment.inference import get_image_reader
from dlrun.models.pretrained.earlier_run import LoadedModel

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
