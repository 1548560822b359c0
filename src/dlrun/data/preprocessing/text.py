"""Preprocessing of texts, to bags of words or token sequences: the options of group `text`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from dlrun.config.annotations import Count
from dlrun.core.dataset import Preprocessor, Ragged
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.loading.sequences import SequenceColumn
from dlrun.data.loading.table import SparseCounts
from dlrun.data.preprocessing.padding import UNKNOWN_SYMBOL, PaddingSide, pad_sequences
from dlrun.data.preprocessing.tokenizer import Punctuation, Tokenizer, TokenKind
from dlrun.data.preprocessing.vocabulary import (
    VocabularyIndex,
    build_vocabulary,
    count_unknown_words,
    find_ngrams,
    get_row_indices,
    hash_ngrams,
)

BagValues = Literal["multi_hot", "counts"]
Idf = Literal["keras", "sklearn"]


def bag(
    *,
    tokens: TokenKind,
    ngrams: list[Count],
    lower: bool,
    punctuation: Punctuation,
    size: Count,
    values: BagValues,
) -> BagOfWords:
    """Texts → which of the most frequent n-grams of the training rows each has, or how often.

    Args:
        tokens: See `Tokenizer`.
        ngrams: Lengths of n-grams, such as [1, 2].
        lower: See `Tokenizer`.
        punctuation: See `Tokenizer`.
        size: The number of n-grams in the vocabulary; others are left out.
        values: Whether a value is 0 or 1, or a count.
    """
    return BagOfWords(
        Tokenizer(tokens, lower, punctuation, size), _check_ngrams(ngrams), size, values
    )


def tf_idf(
    *,
    tokens: TokenKind,
    ngrams: list[Count],
    lower: bool,
    punctuation: Punctuation,
    size: Count,
    idf: Idf,
    normalize: bool,
) -> BagOfWords:
    """Texts → as `bag`, each count weighted by how rare the n-gram is.

    Args:
        tokens: See `Tokenizer`.
        ngrams: Lengths of n-grams, such as [1, 2].
        lower: See `Tokenizer`.
        punctuation: See `Tokenizer`.
        size: The number of n-grams in the vocabulary.
        idf: For an n-gram that df of n training texts have: "keras" is ln(1 + n / (1 + df)), as in
            its TextVectorization; "sklearn" is ln((1 + n) / (1 + df)) + 1, as in TfidfVectorizer.
        normalize: Whether each text's vector has length 1.
    """
    return BagOfWords(
        Tokenizer(tokens, lower, punctuation, size),
        _check_ngrams(ngrams),
        size,
        "counts",
        idf,
        normalize,
    )


def hashing(
    *,
    tokens: TokenKind,
    ngrams: list[Count],
    lower: bool,
    punctuation: Punctuation,
    size: Count,
    values: BagValues,
) -> HashedBagOfWords:
    """Texts → bags without a vocabulary: a column is an n-gram's hash modulo `size` (book §6.1.1).

    Some n-grams share a column. The hash is the same on every machine.

    Args:
        tokens: See `Tokenizer`.
        ngrams: Lengths of n-grams, such as [1, 2].
        lower: See `Tokenizer`.
        punctuation: See `Tokenizer`.
        size: The number of columns.
        values: Whether a value is 0 or 1, or a count.
    """
    return HashedBagOfWords(
        Tokenizer(tokens, lower, punctuation, size), _check_ngrams(ngrams), size, values
    )


def sequence(
    *,
    tokens: TokenKind,
    ngrams: list[Count],
    lower: bool,
    punctuation: Punctuation,
    size: Count,
    length: Count | None,
    pad: PaddingSide,
    cut: PaddingSide,
    bucket: bool,
    hashed: bool,
) -> TokenSequence:
    """Texts → token ids: 0 padding, 1 unknown, from 2 on the most frequent training tokens.

    Args:
        tokens: See `Tokenizer`.
        ngrams: The length of n-grams, one number, such as [1].
        lower: See `Tokenizer`.
        punctuation: See `Tokenizer`.
        size: The number of ids, padding and unknown among them.
        length: The length of sequences; None takes that of the longest training text.
        pad: See `pad_sequences`.
        cut: See `pad_sequences`.
        bucket: See `pad_sequences`.
        hashed: Whether an id is the token's hash, 1 to size - 1, without a vocabulary.

    Raises:
        UserError: `ngrams` is not one number, or `size` leaves no id for a token.
    """
    # One n-gram begins at each token: lengths mixed would not be a sequence.
    lengths = _check_ngrams(ngrams)
    if len(lengths) > 1:
        raise UserError(
            f"ngrams={ngrams}: in a sequence one token follows another; say one number, such as [1]"
        )
    # A vocabulary needs an entry beside padding and unknown.
    if size < 3:
        raise UserError(f"size={size}: 0 is padding and 1 any other token; it must be 3 or more")
    tokenizer = Tokenizer(tokens, lower, punctuation, size)
    return TokenSequence(tokenizer, lengths[0], size, length, pad, cut, bucket, hashed)


def _check_ngrams(ngrams: list[int]) -> tuple[int, ...]:
    if not ngrams:
        raise UserError("ngrams=[]: say how many tokens in turn make one, such as [1] or [1,2]")
    # The order of ngrams must not change the vocabulary.
    return tuple(sorted(set(ngrams)))


@dataclass(frozen=True, eq=False)
class BagOfWords(Preprocessor):
    """Texts → sparse counts of the most frequent n-grams of training rows; see `bag` and `tf_idf`.

    Attributes:
        tokenizer: How texts are split.
        ngrams: Lengths of n-grams, sorted.
        size: The largest vocabulary.
        values: Whether a value is 0 or 1, or a count.
        idf: The formula of the weights; None for no weights.
        normalize: Whether each text's vector has length 1.
        entries: The fitted vocabulary.
        weights: The fitted weight of each entry.
        kind: The kind of input that this step makes.
    """

    tokenizer: Tokenizer
    ngrams: tuple[int, ...]
    size: int
    values: BagValues
    idf: Idf | None = None
    normalize: bool = False
    entries: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    kind: Kind = "bag"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.entries

    def fit(self, column: np.ndarray) -> BagOfWords:
        """Fit the vocabulary, and how rare each n-gram is.

        Raises:
            UserError: The texts have no such n-gram.
        """
        tokenizer = self.tokenizer.fit(column)
        entries = _fit_vocabulary(tokenizer, column, self.ngrams, self.size)
        # Without weights, for the document frequency counts texts, not weighted values.
        fitted = replace(self, tokenizer=tokenizer, entries=entries, weights=None)
        if self.idf is None:
            return fitted
        num_texts = len(column)
        frequency = np.bincount(fitted._count_ngrams(column).indices, minlength=len(entries))
        if self.idf == "keras":
            weights = np.log(1 + num_texts / (1 + frequency))
        else:
            weights = 1 + np.log((1 + num_texts) / (1 + frequency))
        return replace(fitted, weights=weights)

    def __call__(self, column: np.ndarray) -> SparseCounts:
        counts = self._count_ngrams(column)
        if self.weights is not None:
            counts.data *= self.weights[counts.indices].astype(np.float32)
        if self.normalize:
            rows = get_row_indices(counts.indptr)
            norms = np.sqrt(np.bincount(rows, counts.data.astype(np.float64) ** 2, len(column)))
            divisors = np.maximum(norms, 1e-12)  # a text without a known n-gram stays all 0
            counts.data /= np.repeat(divisors, np.diff(counts.indptr)).astype(np.float32)
        return _to_sparse_counts(counts, self.values)

    def _count_ngrams(self, column: np.ndarray) -> Any:
        tokens, index = self.tokenizer(column), VocabularyIndex(self.entries)
        columns_and_offsets = [
            (index(self.tokenizer, tokens, n), find_ngrams(tokens, n)[1]) for n in self.ngrams
        ]
        return _to_sparse_matrix(columns_and_offsets, len(self.entries))

    def state(self) -> dict[str, Any]:
        """How texts are tokenized, the vocabulary in its order, and its weights."""
        state = {
            **_describe_tokenizer(self.tokenizer, self.ngrams),
            "values": self.values,
            "entries": list(self.entries),
        }
        if self.weights is not None:
            state |= {"idf": self.idf, "weights": self.weights.tolist()}
        return state

    def count_unknown_words(self, column: np.ndarray) -> np.ndarray | None:
        # Without single words among the n-grams, it is not known which words are.
        if 1 not in self.ngrams or not self.entries:
            return None
        return count_unknown_words(self.tokenizer, self.entries, column)


@dataclass(frozen=True, eq=False)
class HashedBagOfWords(Preprocessor):
    """Texts → sparse counts by the hash of each n-gram; see `hashing`.

    Attributes:
        tokenizer: How texts are split.
        ngrams: Lengths of n-grams, sorted.
        size: The number of columns.
        values: Whether a value is 0 or 1, or a count.
        kind: The kind of input that this step makes.
    """

    tokenizer: Tokenizer
    ngrams: tuple[int, ...]
    size: int
    values: BagValues
    kind: Kind = "bag"

    def fit(self, column: np.ndarray) -> HashedBagOfWords:
        """Fit the sub-words, if tokens are that; nothing else depends on the rows."""
        return replace(self, tokenizer=self.tokenizer.fit(column))

    def __call__(self, column: np.ndarray) -> SparseCounts:
        tokens, size = self.tokenizer(column), np.uint64(self.size)
        columns_and_offsets = []
        for n in self.ngrams:
            columns = (hash_ngrams(self.tokenizer, tokens, n) % size).astype(np.int64)
            columns_and_offsets.append((columns, find_ngrams(tokens, n)[1]))
        return _to_sparse_counts(_to_sparse_matrix(columns_and_offsets, self.size), self.values)

    def state(self) -> dict[str, Any]:
        """How texts are tokenized, and the number of columns."""
        return {
            **_describe_tokenizer(self.tokenizer, self.ngrams),
            "values": self.values,
            "size": self.size,
        }


@dataclass(frozen=True, eq=False)
class TokenSequence(Preprocessor):
    """Texts → sequences of token ids; see `sequence`.

    Attributes:
        tokenizer: How texts are split.
        ngram: The length of n-grams.
        size: The number of ids, padding and unknown among them.
        length: The longest sequence; None until it is fitted.
        pad: The side of shorter rows that is filled with 0.
        cut: The side of longer rows that is cut off.
        bucket: Whether batches are made of rows of similar length.
        hashed: Whether ids are hashes.
        entries: The fitted vocabulary; its first entry has id 2.
        kind: The kind of input that this step makes.
    """

    tokenizer: Tokenizer
    ngram: int
    size: int
    length: int | None
    pad: PaddingSide
    cut: PaddingSide
    bucket: bool
    hashed: bool
    entries: tuple[str, ...] = ()
    kind: Kind = "tokens"

    @property
    def labels(self) -> tuple[str, ...]:
        return () if self.hashed else ("", UNKNOWN_SYMBOL, *self.entries)

    def fit(self, column: np.ndarray) -> TokenSequence:
        """Fit the vocabulary, and the length where none is set.

        Raises:
            UserError: The texts have no token.
        """
        tokenizer = self.tokenizer.fit(column)
        entries: tuple[str, ...] = ()
        if not self.hashed:  # 0 and 1 are taken: two entries fewer than ids
            entries = _fit_vocabulary(tokenizer, column, (self.ngram,), self.size - 2)
        # Of the training texts alone; longer held-out texts are cut.
        longest = int(np.diff(find_ngrams(tokenizer(column), self.ngram)[1]).max(initial=1))
        length = self.length or max(1, longest)
        return replace(self, tokenizer=tokenizer, entries=entries, length=length)

    def __call__(self, column: np.ndarray) -> SequenceColumn:
        tokens = self.tokenizer(column)
        if self.hashed:
            hashes = hash_ngrams(self.tokenizer, tokens, self.ngram)
            ids = 1 + (hashes % np.uint64(self.size - 1)).astype(np.int64)
            size = self.size
        else:
            # -1, for n-grams that are not in the vocabulary, becomes 1.
            ids = 2 + VocabularyIndex(self.entries)(self.tokenizer, tokens, self.ngram)
            size = 2 + len(self.entries)
        rows = Ragged(ids, find_ngrams(tokens, self.ngram)[1])
        return pad_sequences(rows, size, self.length or 1, self.pad, self.cut, bucket=self.bucket)

    def state(self) -> dict[str, Any]:
        """How texts are tokenized, the length, and the vocabulary, whose first entry has id 2."""
        return {
            **_describe_tokenizer(self.tokenizer, (self.ngram,)),
            "length": self.length,
            "pad": self.pad,
            "cut": self.cut,
            "hashed": self.hashed,
            "size": self.size,
            "entries": list(self.entries),
        }

    def count_unknown_words(self, column: np.ndarray) -> np.ndarray | None:
        if self.ngram != 1 or not self.entries:
            return None
        return count_unknown_words(self.tokenizer, self.entries, column)


def _fit_vocabulary(
    tokenizer: Tokenizer, column: np.ndarray, ngrams: tuple[int, ...], size: int
) -> tuple[str, ...]:
    entries = build_vocabulary(tokenizer, tokenizer(column), ngrams, size)
    if not entries:
        needed = (
            tokenizer.tokens
            if ngrams == (1,)
            else (f"{' or '.join(map(str, ngrams))} {tokenizer.tokens} in turn")
        )
        raise UserError(
            f"none of the {len(column):,} training texts has {needed}: "
            "there is nothing to learn from them"
        )
    return entries


def _to_sparse_matrix(columns_and_offsets: list[tuple[np.ndarray, np.ndarray]], width: int) -> Any:
    """A scipy matrix (N, width) of counts, from column numbers (-1: none) and row offsets."""
    from scipy.sparse import coo_array

    rows = np.concatenate(
        [get_row_indices(offsets)[columns >= 0] for columns, offsets in columns_and_offsets]
    )
    columns = np.concatenate([columns[columns >= 0] for columns, _ in columns_and_offsets])
    ones = np.ones(len(rows), np.float32)
    shape = (len(columns_and_offsets[0][1]) - 1, width)
    indices = (rows.astype(np.int32), columns.astype(np.int32))
    matrix = coo_array((ones, indices), shape=shape).tocsr()
    # Duplicates are occurrences: their sum is the count.
    matrix.sum_duplicates()
    return matrix


def _to_sparse_counts(matrix: Any, values: BagValues) -> SparseCounts:
    # Whether a token occurs, not how often.
    if values == "multi_hot":
        matrix.data[:] = 1
    starts = torch.from_numpy(matrix.indptr.astype(np.int32))
    columns = torch.from_numpy(matrix.indices.astype(np.int32))
    return SparseCounts(starts, columns, torch.from_numpy(matrix.data), matrix.shape[1])


def _describe_tokenizer(tokenizer: Tokenizer, ngrams: tuple[int, ...]) -> dict[str, Any]:
    return {
        "tokens": tokenizer.tokens,
        "lower": tokenizer.lower,
        "punctuation": tokenizer.punctuation,
        "ngrams": list(ngrams),
        **({"subwords": tokenizer.model} if tokenizer.model else {}),
    }
