"""Counts the words of new texts that are not in a run's vocabulary, and so are ignored."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlrun.core.dataset import Preprocessor, Ragged, RawColumn
from dlrun.data.preprocessing.text import BagOfWords, TokenSequence
from dlrun.data.preprocessing.vocabulary import OUT_OF_WORDS, START


def out_of_vocabulary_counts(
    column: RawColumn, steps: tuple[Preprocessor, ...]
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
        return np.stack([_sum_per_row(unknown_words, column), _sum_per_row(words, column)], 1)
    step: Any = steps[0] if steps else None
    if isinstance(step, BagOfWords):
        has_single_words = 1 in step.ngrams
    else:
        has_single_words = isinstance(step, TokenSequence) and step.ngram == 1
    if not has_single_words or not step.entries:
        return None
    tokens = step.tokenizer(column)
    # A text has each distinct token many times: look each up once.
    unique_ids, index = np.unique(tokens.values, return_inverse=True)
    vocabulary = set(step.entries)
    names = step.tokenizer.ids_to_tokens(unique_ids.tolist())
    unknown = np.array([name not in vocabulary for name in names], bool)
    return np.stack([_sum_per_row(unknown[index], tokens), np.diff(tokens.offsets)], 1)


def _sum_per_row(marks: np.ndarray, rows: Ragged) -> np.ndarray:
    """How many values of each row are marked (N,)."""
    return np.diff(np.concatenate([[0], np.cumsum(marks)])[rows.offsets])
