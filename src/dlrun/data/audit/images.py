"""The audit's look at pictures: files that were left out, grey ones among coloured ones, and blank ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlrun.core.dataset import Raw
from dlrun.data.audit.finding import TOLERATED, Finding, Severity, listed, of, percent
from dlrun.data.images.image_column import Pictures

LOOKED_AT = 256  # pictures at most, whatever their number


def findings(raw: Raw, train: np.ndarray, seed: int) -> Iterator[Finding]:
    """What is wrong with picture files; their pixels are looked at in some training rows only. seed: which ones."""
    for name in raw.inputs:
        column = raw.dev[name]
        if not isinstance(column, Pictures):
            continue
        yield from _left_out(name, column)
        some = np.sort(np.random.default_rng(seed).permutation(train)[:LOOKED_AT])
        yield from _colours(name, np.asarray(column[some]))


def _left_out(name: str, column: Pictures) -> Iterator[Finding]:
    if column.faults:
        told = listed([f"'{file}' ({reason})" for file, reason in column.faults.items()])
        count, total = len(column.faults), len(column.store.files)
        text = f"{of(count, total, 'development files')} gave no picture and {'is' if count == 1 else 'are'} left out: "
        effect = "nothing is learned from these files and nothing is measured on them"
        yield Finding("warning", "unreadable pictures", text + told, (name,), count, effect)


def _colours(name: str, pixels: np.ndarray) -> Iterator[Finding]:
    """Grey ones and blank ones among pictures (N, C, H, W)."""
    total = len(pixels)
    blank = int((np.ptp(pixels.reshape(total, -1), axis=1) == 0).sum())
    if blank:
        text = f"{of(blank, total, 'training pictures looked at')} {'has' if blank == 1 else 'have'} one colour only"
        severity: Severity = "warning" if blank > TOLERATED * total else "note"
        effect = f"no model can tell these apart: up to {percent(blank / total)} of a score is guessing"
        yield Finding(severity, "blank pictures", text, (name,), blank, effect)
    grey = int((pixels == pixels[:, :1]).all(axis=(1, 2, 3)).sum()) if pixels.shape[1] > 1 else 0
    if grey:
        told = "; data.channels=1 would do" if grey == total else " among coloured ones"
        text = f"{of(grey, total, 'training pictures looked at')} {'is' if grey == 1 else 'are'} grey{told}"
        yield Finding("note", "grey pictures", text, (name,), grey)
