"""The pictures that `dlrun visualize` looks at: files of one's own, or rows of the run's data, never of its test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dlrun.config.parallel_fits import get_split_seed
from dlrun.core.errors import UserError
from dlrun.core.types import Batch
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.evaluation import worst_errors
from dlrun.experiment.builder import ExperimentBuilder
from dlrun.experiment.inference import get_image_reader
from dlrun.models.pretrained.earlier_run import LoadedModel

MAX_EXAMPLES, MAX_CLASSES = (
    3,
    4,
)  # rows to show where nothing was named; and where there are classes, one row each of so many


@dataclass(frozen=True)
class InputImage:
    """One picture. text: which it is, in words. batch: its row of all inputs, (1, …) each."""

    text: str
    batch: Batch


def load_selected_images(
    net: LoadedModel,
    image: str,
    files: Sequence[Path],
    rows: Sequence[int],
    plugins: tuple[str, ...],
) -> list[InputImage]:
    """The pictures that were named: files first, then development rows. Raises UserError."""
    found = [load_image_file(net, image, file) for file in files]
    return found + (load_dataset_images(net, rows, build_run_data(net, plugins)) if rows else [])


def load_image_file(net: LoadedModel, image: str, file: Path) -> InputImage:
    """A picture from a file, made as the run's own pictures were. Raises UserError where that cannot be."""
    from dlrun.data.images.archives import decode_name
    from dlrun.data.images.decode import ImageDecodeError, decode_image

    if len(net.spec.inputs) > 1:
        others = ", ".join(name for name in net.spec.inputs if name != image)
        raise UserError(f"image={file}: a row has {others} too, which a file does not: use row=…")
    reading = get_image_reader(net, image)
    if reading is None:
        raise UserError(
            f"image={file}: this run's pictures are not made from files alone: use row=…"
        )
    try:
        pixels = decode_image(file, reading)
    except ImageDecodeError as error:
        raise UserError(f"image={file}: {error}") from error
    return InputImage(
        decode_name(file.name), {image: torch.from_numpy(pixels[None].astype(np.float32) / 255)}
    )


def build_run_data(net: LoadedModel, plugins: tuple[str, ...]) -> ExperimentBuilder:
    """The run's data. Raises UserError where they are not there, or not those that it was trained on."""
    return ExperimentBuilder(net.config, net.folder, plugins)


def load_dataset_images(
    net: LoadedModel, rows: Sequence[int], assembly: ExperimentBuilder
) -> list[InputImage]:
    """Development rows, prepared with what the run has learnt on its training rows."""
    raw, settings = assembly.dataset, assembly.settings
    if wrong := [row for row in rows if row >= len(raw)]:
        raise UserError(
            f"row={wrong[0]}: there are {len(raw):,} development rows, 0 to {len(raw) - 1}"
        )
    train, _ = assembly.plan.split_rows(raw, net.job, get_split_seed(net.config))
    data = prepare(raw, np.asarray(train)[: settings.overfit], None)
    table = transform_rows(
        raw, data, {name: column[np.asarray(rows)] for name, column in raw.dev.items()}
    )
    found = []
    for row, batch in zip(rows, table.batches(1), strict=True):
        truths = [
            worst_errors.describe_row(field, np.zeros(field.num_outputs), batch[name][0].numpy())[
                "truth"
            ]
            for name, field in net.spec.targets.items()
        ]
        text = f"row {row} ({', '.join(truths)})"
        found.append(InputImage(text, {name: batch[name] for name in net.spec.inputs}))
    return found


def select_example_images(net: LoadedModel, plugins: tuple[str, ...]) -> list[InputImage]:
    """A few rows that the run was validated on (else trained on): one of each class, where there are classes."""
    assembly = build_run_data(net, plugins)
    train, val = assembly.plan.split_rows(assembly.dataset, net.job, get_split_seed(net.config))
    rows = np.asarray(train if val is None else val)
    name, kind = next(iter(assembly.dataset.targets.items()))
    if kind not in ("binary", "category"):
        return load_dataset_images(net, rows[:MAX_EXAMPLES].tolist(), assembly)
    _, first = np.unique(
        np.asarray(assembly.dataset.dev[name])[rows].reshape(len(rows), -1),
        axis=0,
        return_index=True,
    )
    return load_dataset_images(net, rows[np.sort(first)[:MAX_CLASSES]].tolist(), assembly)
