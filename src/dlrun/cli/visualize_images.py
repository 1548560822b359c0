"""The pictures that `dlrun visualize` looks at: files of one's own, or rows of the run's data, never of its test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dlrun.config.parallel_fits import split_seed
from dlrun.core.errors import Refused
from dlrun.core.types import Batch
from dlrun.data.preprocessing.pipeline import apply, prepare
from dlrun.evaluation import worst_errors
from dlrun.experiment.builder import Assembly
from dlrun.experiment.inference import picture_reading
from dlrun.models.pretrained.earlier_run import Trained

FEW, CLASSES = 3, 4  # rows to show where nothing was named; and where there are classes, one row each of so many


@dataclass(frozen=True)
class View:
    """One picture. text: which it is, in words. batch: its row of all inputs, (1, …) each."""

    text: str
    batch: Batch


def given(net: Trained, image: str, files: Sequence[Path], rows: Sequence[int], plugins: tuple[str, ...]) -> list[View]:
    """The pictures that were named: files first, then development rows. Raises Refused."""
    found = [of_file(net, image, file) for file in files]
    return found + (of_rows(net, rows, assembled(net, plugins)) if rows else [])


def of_file(net: Trained, image: str, file: Path) -> View:
    """A picture from a file, made as the run's own pictures were. Raises Refused where that cannot be."""
    from dlrun.data.images.archives import printable
    from dlrun.data.images.decode import Unreadable, read

    if len(net.spec.inputs) > 1:
        others = ", ".join(name for name in net.spec.inputs if name != image)
        raise Refused(f"image={file}: a row has {others} too, which a file does not: use row=…")
    reading = picture_reading(net, image)
    if reading is None:
        raise Refused(f"image={file}: this run's pictures are not made from files alone: use row=…")
    try:
        pixels = read(file, reading)
    except Unreadable as error:
        raise Refused(f"image={file}: {error}") from error
    return View(printable(file.name), {image: torch.from_numpy(pixels[None].astype(np.float32) / 255)})


def assembled(net: Trained, plugins: tuple[str, ...]) -> Assembly:
    """The run's data. Raises Refused where they are not there, or not those that it was trained on."""
    return Assembly(net.config, net.folder, plugins)


def of_rows(net: Trained, rows: Sequence[int], assembly: Assembly) -> list[View]:
    """Development rows, prepared with what the run has learnt on its training rows."""
    raw, settings = assembly.raw, assembly.settings
    if wrong := [row for row in rows if row >= len(raw)]:
        raise Refused(f"row={wrong[0]}: there are {len(raw):,} development rows, 0 to {len(raw) - 1}")
    train, _ = assembly.plan.rows(raw, net.job, split_seed(net.config))
    data = prepare(raw, np.asarray(train)[: settings.overfit], None)
    table = apply(raw, data, {name: column[np.asarray(rows)] for name, column in raw.dev.items()})
    found = []
    for row, batch in zip(rows, table.batches(1), strict=True):
        truths = [
            worst_errors.entry(field, np.zeros(field.outputs), batch[name][0].numpy())["truth"]
            for name, field in net.spec.targets.items()
        ]
        text = f"row {row} ({', '.join(truths)})"
        found.append(View(text, {name: batch[name] for name in net.spec.inputs}))
    return found


def few_rows(net: Trained, plugins: tuple[str, ...]) -> list[View]:
    """A few rows that the run was validated on (else trained on): one of each class, where there are classes."""
    assembly = assembled(net, plugins)
    train, val = assembly.plan.rows(assembly.raw, net.job, split_seed(net.config))
    rows = np.asarray(train if val is None else val)
    name, kind = next(iter(assembly.raw.targets.items()))
    if kind not in ("binary", "category"):
        return of_rows(net, rows[:FEW].tolist(), assembly)
    _, first = np.unique(np.asarray(assembly.raw.dev[name])[rows].reshape(len(rows), -1), axis=0, return_index=True)
    return of_rows(net, rows[np.sort(first)[:CLASSES]].tolist(), assembly)
