"""The audit's look at pictures: files that were left out, grey ones among coloured ones, and blank ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Dataset
from dlrun.data.audit.finding import (
    TOLERANCE,
    Finding,
    Severity,
    format_row_share,
    format_share,
    list_names,
)
from dlrun.data.images.image_column import ImageFileColumn

MAX_IMAGES = 256  # pictures at most, whatever their number


def iter_image_findings(raw: Dataset, train: np.ndarray, seed: int) -> Iterator[Finding]:
    """What is wrong with picture files; their pixels are looked at in some training rows only. seed: which ones."""
    for name in raw.inputs:
        column = raw.dev[name]
        if not isinstance(column, ImageFileColumn):
            continue
        yield from _find_skipped_files(name, column)
        some = np.sort(np.random.default_rng(seed).permutation(train)[:MAX_IMAGES])
        yield from _find_blank_images(name, np.asarray(column[some]))


def _find_skipped_files(name: str, column: ImageFileColumn) -> Iterator[Finding]:
    if column.skipped_files:
        told = list_names([f"'{file}' ({reason})" for file, reason in column.skipped_files.items()])
        count, total = len(column.skipped_files), len(column.store.files)
        text = f"{format_row_share(count, total, 'development files')} gave no picture and {'is' if count == 1 else 'are'} left out: "
        effect = "nothing is learned from these files and nothing is measured on them"
        yield Finding("warning", "unreadable pictures", text + told, (name,), count, effect)


def _find_blank_images(name: str, pixels: np.ndarray) -> Iterator[Finding]:
    """Grey ones and blank ones among pictures (N, C, H, W)."""
    total = len(pixels)
    blank = int((np.ptp(pixels.reshape(total, -1), axis=1) == 0).sum())
    if blank:
        text = f"{format_row_share(blank, total, 'training pictures looked at')} {'has' if blank == 1 else 'have'} one colour only"
        severity: Severity = "warning" if blank > TOLERANCE * total else "note"
        effect = f"no model can tell these apart: up to {format_share(blank / total)} of a score is guessing"
        yield Finding(severity, "blank pictures", text, (name,), blank, effect)
    grey = int((pixels == pixels[:, :1]).all(axis=(1, 2, 3)).sum()) if pixels.shape[1] > 1 else 0
    if grey:
        told = "; data.channels=1 would do" if grey == total else " among coloured ones"
        text = f"{format_row_share(grey, total, 'training pictures looked at')} {'is' if grey == 1 else 'are'} grey{told}"
        yield Finding("note", "grey pictures", text, (name,), grey)
