"""The predictions of a run for rows that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dlrun.core.types import Score, Spec


@dataclass(frozen=True)
class Predictions:
    """What a run predicts for some rows.

    Attributes:
        spec: Inputs and targets of the run.
        names: (n,) the file, or the number of the line, of each row.
        outputs: Target → (n, outputs): probabilities, or numbers in the target's unit.
        truths: Target → true values, where the rows have them.
        scores: Of the predictions, where there are true values.
        skipped: File → why it gives no row.
        unknown_words: (n, 2) words of each text that the run does not know, and all words; None
            where that cannot be told.
        fits: Whose predictions these are; their mean where there are several.
        note: A remark on that choice.
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
