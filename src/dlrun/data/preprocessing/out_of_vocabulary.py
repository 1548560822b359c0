"""How many words of new texts a run does not know: it answers as if they were not there."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrun.core.dataset import Preprocessor, Ragged, RawColumn
from dlrun.data.preprocessing.text import BagOfWords, TokenSequence
from dlrun.data.preprocessing.vocabulary import OUT_OF_WORDS, START


def out_of_vocabulary_counts(
    column: RawColumn, steps: tuple[Preprocessor, ...]
) -> np.ndarray | None:
    """Of each text (N, 2): how many of its words have no number of their own, and how many it has.

    column: raw texts, or word numbers as Keras gives them. None where no list of words says what is known: hashes, and
    n-grams without single words among them.
    """
    if isinstance(column, Ragged):
        words = column.values > START
        return np.stack(
            [
                _sum_per_row(words & (column.values == OUT_OF_WORDS), column),
                _sum_per_row(words, column),
            ],
            1,
        )
    step: Any = steps[0] if steps else None
    singles = (
        1 in step.ngrams
        if isinstance(step, BagOfWords)
        else isinstance(step, TokenSequence) and step.ngram == 1
    )
    if not singles or not step.entries:
        return None
    cut = step.tokenizer(column)
    different, place = np.unique(cut.values, return_inverse=True)
    there = set(step.entries)
    unknown = np.array(
        [name not in there for name in step.tokenizer.ids_to_tokens(different.tolist())], bool
    )
    return np.stack([_sum_per_row(unknown[place], cut), np.diff(cut.offsets)], 1)


def _sum_per_row(marks: np.ndarray, rows: Ragged) -> np.ndarray:
    """How many of a row's values are marked (N,)."""
    return np.diff(np.concatenate([[0], np.cumsum(marks)])[rows.offsets])
