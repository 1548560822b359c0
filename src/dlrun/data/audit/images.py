"""Audit of images: files that were left out, gray ones among colored ones, and blank ones."""

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

MAX_IMAGES = 256  # whose pixels are looked at, however many there are


def iter_image_findings(dataset: Dataset, train: np.ndarray, seed: int) -> Iterator[Finding]:
    """Yield what is wrong with image files.

    Args:
        dataset: The dataset; only its training + validation rows are read.
        train: Indices of the training rows.
        seed: Which of them are sampled to look at their pixels.
    """
    for name in dataset.inputs:
        column = dataset.dev[name]
        if not isinstance(column, ImageFileColumn):
            continue
        yield from _find_skipped_files(name, column)
        # Sorted: images are read in the order in which they lie on the disk.
        sample = np.sort(np.random.default_rng(seed).permutation(train)[:MAX_IMAGES])
        yield from _find_blank_images(name, np.asarray(column[sample]))


def _find_skipped_files(name: str, column: ImageFileColumn) -> Iterator[Finding]:
    if column.skipped_files:
        listed = list_names(
            [f"'{file}' ({reason})" for file, reason in column.skipped_files.items()]
        )
        count, total = len(column.skipped_files), len(column.image_store.files)
        share = format_row_share(count, total, "development files")
        verb = "is" if count == 1 else "are"
        text = f"{share} gave no image and {verb} left out: {listed}"
        effect = "nothing is learned from these files and nothing is measured on them"
        yield Finding("warning", "unreadable images", text, (name,), count, effect)


def _find_blank_images(name: str, images: np.ndarray) -> Iterator[Finding]:
    """Yield blank images, and gray ones among images (N, C, H, W)."""
    total = len(images)
    num_blank = int((np.ptp(images.reshape(total, -1), axis=1) == 0).sum())
    if num_blank:
        share = format_row_share(num_blank, total, "training images looked at")
        text = f"{share} {'has' if num_blank == 1 else 'have'} one color only"
        severity: Severity = "warning" if num_blank > TOLERANCE * total else "note"
        guessed = format_share(num_blank / total)
        effect = f"no model can tell these apart: up to {guessed} of a score is guessing"
        yield Finding(severity, "blank images", text, (name,), num_blank, effect)
    # Gray means equal channels; images of a single channel are meant to be gray.
    is_gray = (images == images[:, :1]).all(axis=(1, 2, 3))
    num_gray = int(is_gray.sum()) if images.shape[1] > 1 else 0
    if num_gray:
        advice = "; data.channels=1 would do" if num_gray == total else " among colored ones"
        share = format_row_share(num_gray, total, "training images looked at")
        text = f"{share} {'is' if num_gray == 1 else 'are'} gray{advice}"
        yield Finding("note", "gray images", text, (name,), num_gray)
