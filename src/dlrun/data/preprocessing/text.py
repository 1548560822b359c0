"""Steps from texts to vectors, or to token numbers in turn, learnt on training rows: the options of group `text`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from dlrun.config.constraints import Count
from dlrun.core.dataset import Ragged
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.loading.sequences import PaddingSide, SequenceColumn
from dlrun.data.loading.table import SparseCounts
from dlrun.data.preprocessing.padding import pad_sequences
from dlrun.data.preprocessing.tokenizer import Punctuation, Tokenizer, TokenKind
from dlrun.data.preprocessing.vocabulary import (
    VocabularyIndex,
    build_vocabulary,
    find_ngrams,
    get_row_indices,
    hash_ngrams,
)

UNKNOWN_SYMBOL = "▯"  # stands for a token that has no number of its own
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
    """Texts → which of the `size` most frequent n-grams of the training rows each has, or how often.

    Others are left out. tokens, lower, punctuation: see `Tokenizer`. ngrams: how many tokens in turn, such as [1, 2].
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
    normalise: bool,
) -> BagOfWords:
    """As `bag`, each count times how rare the n-gram is among the n training texts, df of which have it.

    idf: ln(1 + n / (1 + df)), as Keras' TextVectorization, or ln((1 + n) / (1 + df)) + 1, as scikit-learn's
    TfidfVectorizer. normalise: each text's vector has length 1.
    """
    return BagOfWords(
        Tokenizer(tokens, lower, punctuation, size),
        _check_ngrams(ngrams),
        size,
        "counts",
        idf,
        normalise,
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
    """Texts → bags without a vocabulary: an n-gram's column is its hash modulo `size` (book §6.1.1).

    Some fall together. The hash is the same on every machine.
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
    """Texts → the number of each token in turn: 0 padding, 1 any other, from 2 on the most frequent training tokens.

    size: how many numbers there are, those two among them. length: of the sequences; null: that of the longest training
    text. pad, cut, bucket: see `pad_sequences`. hashed: a token's number is its hash instead, 1 to size - 1.
    """
    lengths = _check_ngrams(ngrams)
    if len(lengths) > 1:
        raise UserError(
            f"ngrams={ngrams}: in a sequence one token follows another; say one number, such as [1]"
        )
    if size < 3:
        raise UserError(f"size={size}: 0 is padding and 1 any other token; it must be 3 or more")
    cutter = Tokenizer(tokens, lower, punctuation, size)
    return TokenSequence(cutter, lengths[0], size, length, pad, cut, bucket, hashed)


def _check_ngrams(ngrams: list[int]) -> tuple[int, ...]:
    if not ngrams:
        raise UserError("ngrams=[]: say how many tokens in turn make one, such as [1] or [1,2]")
    return tuple(sorted(set(ngrams)))


@dataclass(frozen=True, eq=False)
class BagOfWords:
    """Texts → sparse bags over the n-grams that training rows have most often; see `bag` and `tf_idf`."""

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
        """Learn the n-grams, and how rare each is. Raises UserError where the texts have none."""
        cutter = self.tokenizer.fit(column)
        entries = _fit_vocabulary(cutter, column, self.ngrams, self.size)
        learnt = replace(self, tokenizer=cutter, entries=entries, weights=None)
        if self.idf is None:
            return learnt
        among = np.bincount(learnt._count_ngrams(column).indices, minlength=len(entries))
        rare = (
            np.log(1 + len(column) / (1 + among))
            if self.idf == "keras"
            else 1 + np.log((1 + len(column)) / (1 + among))
        )
        return replace(learnt, weights=rare)

    def __call__(self, column: np.ndarray) -> SparseCounts:
        found = self._count_ngrams(column)
        if self.weights is not None:
            found.data *= self.weights[found.indices].astype(np.float32)
        if self.normalize:
            sizes = np.sqrt(
                np.bincount(
                    get_row_indices(found.indptr), found.data.astype(np.float64) ** 2, len(column)
                )
            )
            found.data /= np.repeat(np.maximum(sizes, 1e-12), np.diff(found.indptr)).astype(
                np.float32
            )
        return _to_sparse_counts(found, self.values)

    def _count_ngrams(self, column: np.ndarray) -> Any:
        cut, index = self.tokenizer(column), VocabularyIndex(self.entries)
        return _to_sparse_matrix(
            [(index(self.tokenizer, cut, n), find_ngrams(cut, n)[1]) for n in self.ngrams],
            len(self.entries),
        )

    def state(self) -> dict[str, Any]:
        """How texts are cut, the n-grams in their order, and their weights."""
        weights = (
            {} if self.weights is None else {"idf": self.idf, "weights": self.weights.tolist()}
        )
        return {
            **_describe_tokenizer(self.tokenizer, self.ngrams),
            "values": self.values,
            "entries": list(self.entries),
            **weights,
        }


@dataclass(frozen=True, eq=False)
class HashedBagOfWords:
    """Texts → sparse bags by the hash of each n-gram; see `hashing`."""

    tokenizer: Tokenizer
    ngrams: tuple[int, ...]
    size: int
    values: BagValues
    kind: Kind = "bag"

    def fit(self, column: np.ndarray) -> HashedBagOfWords:
        """Learn the sub-words, where tokens are that; there is nothing else to learn."""
        return replace(self, tokenizer=self.tokenizer.fit(column))

    def __call__(self, column: np.ndarray) -> SparseCounts:
        cut = self.tokenizer(column)
        places = lambda n: (hash_ngrams(self.tokenizer, cut, n) % np.uint64(self.size)).astype(  # noqa: E731
            np.int64
        )
        return _to_sparse_counts(
            _to_sparse_matrix(
                [(places(n), find_ngrams(cut, n)[1]) for n in self.ngrams], self.size
            ),
            self.values,
        )

    def state(self) -> dict[str, Any]:
        """How texts are cut, and how many columns there are."""
        return {
            **_describe_tokenizer(self.tokenizer, self.ngrams),
            "values": self.values,
            "size": self.size,
        }


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """Texts → sequences of token numbers; see `sequence`."""

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
        """Learn the tokens, and the length where none is asked for. Raises UserError where the texts have no token."""
        cutter = self.tokenizer.fit(column)
        entries = (
            () if self.hashed else _fit_vocabulary(cutter, column, (self.ngram,), self.size - 2)
        )
        longest = int(np.diff(find_ngrams(cutter(column), self.ngram)[1]).max(initial=1))
        return replace(
            self, tokenizer=cutter, entries=entries, length=self.length or max(1, longest)
        )

    def __call__(self, column: np.ndarray) -> SequenceColumn:
        cut = self.tokenizer(column)
        if self.hashed:
            numbers = 1 + (
                hash_ngrams(self.tokenizer, cut, self.ngram) % np.uint64(self.size - 1)
            ).astype(np.int64)
        else:
            numbers = 2 + VocabularyIndex(self.entries)(
                self.tokenizer, cut, self.ngram
            )  # -1, which is none, becomes 1
        rows = Ragged(numbers, find_ngrams(cut, self.ngram)[1])
        size = self.size if self.hashed else 2 + len(self.entries)
        return pad_sequences(rows, size, self.length or 1, self.pad, self.cut, bucket=self.bucket)

    def state(self) -> dict[str, Any]:
        """How texts are cut, the length, and the tokens in their order, the first of which has number 2."""
        about = {
            "length": self.length,
            "pad": self.pad,
            "cut": self.cut,
            "hashed": self.hashed,
            "size": self.size,
        }
        return {
            **_describe_tokenizer(self.tokenizer, (self.ngram,)),
            **about,
            "entries": list(self.entries),
        }


def _fit_vocabulary(
    cutter: Tokenizer, column: np.ndarray, ngrams: tuple[int, ...], size: int
) -> tuple[str, ...]:
    entries = build_vocabulary(cutter, cutter(column), ngrams, size)
    if not entries:
        what = (
            cutter.tokens
            if ngrams == (1,)
            else f"{' or '.join(map(str, ngrams))} {cutter.tokens} in turn"
        )
        raise UserError(
            f"none of the {len(column):,} training texts has {what}: there is nothing to learn from them"
        )
    return entries


def _to_sparse_matrix(parts: list[tuple[np.ndarray, np.ndarray]], width: int) -> Any:
    """A scipy matrix (N, width) of how often each number stands in each row. parts: numbers, -1 for none; offsets."""
    from scipy.sparse import coo_array

    rows = np.concatenate([get_row_indices(offsets)[numbers >= 0] for numbers, offsets in parts])
    columns = np.concatenate([numbers[numbers >= 0] for numbers, _ in parts])
    ones = np.ones(len(rows), np.float32)
    shape = (len(parts[0][1]) - 1, width)
    found = coo_array(
        (ones, (rows.astype(np.int32), columns.astype(np.int32))), shape=shape
    ).tocsr()
    found.sum_duplicates()
    return found


def _to_sparse_counts(found: Any, values: BagValues) -> SparseCounts:
    if values == "multi_hot":
        found.data[:] = 1
    starts, columns = (
        torch.from_numpy(part.astype(np.int32)) for part in (found.indptr, found.indices)
    )
    return SparseCounts(starts, columns, torch.from_numpy(found.data), found.shape[1])


def _describe_tokenizer(cutter: Tokenizer, ngrams: tuple[int, ...]) -> dict[str, Any]:
    plain = {"tokens": cutter.tokens, "lower": cutter.lower, "punctuation": cutter.punctuation}
    return {**plain, "ngrams": list(ngrams), **({"subwords": cutter.model} if cutter.model else {})}
