"""Counts the words of new texts that are not in a run's vocabulary, and so are ignored."""

from __future__ import annotations

import numpy as np

from dlrun.core.dataset import ColumnLike, Preprocessor, Ragged
from dlrun.data.preprocessing.padding import OUT_OF_WORDS, START


def out_of_vocabulary_counts(
    column: ColumnLike, steps: tuple[Preprocessor, ...]
) -> np.ndarray | None:
    """Count unknown words.

    Args:
        column: Raw texts, or word ids as Keras gives them.
        steps: The fitted preprocessing of that column.

    Returns:
        Unknown words and all words of each text (N, 2); None without a list of known words, as
        with hashing, or with n-grams that leave out single words.
    """
    if isinstance(column, Ragged):
        words = column.values > START
        unknown_words = words & (column.values == OUT_OF_WORDS)
        return np.stack([column.count_marked(unknown_words), column.count_marked(words)], 1)
    return steps[0].count_unknown_words(column) if steps else None
