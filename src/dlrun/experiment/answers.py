"""What a run predicts for rows that it is given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dlrun.core.types import Score, Spec


@dataclass(frozen=True)
class Predictions:
    """names (n,): which file, or which line, each row is. outputs: target → (n, outputs), probabilities or numbers.

    truths: target → what is true, where the rows say so; then scores. skipped: file → why it gives no row. strangers:
    of each text (n, 2) how many words the run does not know, and how many there are; None where that cannot be said.
    fits: whose answers these are, the mean where there are several; told: what is to be said of that.
    """

    spec: Spec
    names: list[str] | list[int]
    outputs: dict[str, np.ndarray]
    truths: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unknown_words: np.ndarray | None = None
    fits: tuple[str, ...] = ()
    note: str = ""
