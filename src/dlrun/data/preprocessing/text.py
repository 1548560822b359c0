"""Steps from texts to vectors, or to token numbers in turn, learnt on training rows: the options of group `text`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from dlrun.config.constraints import Count
from dlrun.core.dataset import Ragged
from dlrun.core.errors import Refused
from dlrun.core.types import Kind
from dlrun.data.loading.sequences import Sequences, Side
from dlrun.data.loading.table import Bag
from dlrun.data.preprocessing.padding import padded
from dlrun.data.preprocessing.tokenizer import Cutter, Punctuation, Tokens
from dlrun.data.preprocessing.vocabulary import Index, hashes, learn, rows_of, runs

UNKNOWN = "▯"  # stands for a token that has no number of its own
Values = Literal["multi_hot", "counts"]
Idf = Literal["keras", "sklearn"]


def bag(
    *, tokens: Tokens, ngrams: list[Count], lower: bool, punctuation: Punctuation, size: Count, values: Values
) -> Bagged:
    """Texts → which of the `size` most frequent n-grams of the training rows each has, or how often.

    Others are left out. tokens, lower, punctuation: see `Cutter`. ngrams: how many tokens in turn, such as [1, 2].
    """
    return Bagged(Cutter(tokens, lower, punctuation, size), _lengths(ngrams), size, values)


def tf_idf(
    *,
    tokens: Tokens,
    ngrams: list[Count],
    lower: bool,
    punctuation: Punctuation,
    size: Count,
    idf: Idf,
    normalise: bool,
) -> Bagged:
    """As `bag`, each count times how rare the n-gram is among the n training texts, df of which have it.

    idf: ln(1 + n / (1 + df)), as Keras' TextVectorization, or ln((1 + n) / (1 + df)) + 1, as scikit-learn's
    TfidfVectorizer. normalise: each text's vector has length 1.
    """
    return Bagged(Cutter(tokens, lower, punctuation, size), _lengths(ngrams), size, "counts", idf, normalise)


def hashing(
    *, tokens: Tokens, ngrams: list[Count], lower: bool, punctuation: Punctuation, size: Count, values: Values
) -> Hashed:
    """Texts → bags without a vocabulary: an n-gram's column is its hash modulo `size` (book §6.1.1).

    Some fall together. The hash is the same on every machine.
    """
    return Hashed(Cutter(tokens, lower, punctuation, size), _lengths(ngrams), size, values)


def sequence(
    *,
    tokens: Tokens,
    ngrams: list[Count],
    lower: bool,
    punctuation: Punctuation,
    size: Count,
    length: Count | None,
    pad: Side,
    cut: Side,
    bucket: bool,
    hashed: bool,
) -> Numbered:
    """Texts → the number of each token in turn: 0 padding, 1 any other, from 2 on the most frequent training tokens.

    size: how many numbers there are, those two among them. length: of the sequences; null: that of the longest training
    text. pad, cut, bucket: see `padded`. hashed: a token's number is its hash instead, 1 to size - 1.
    """
    lengths = _lengths(ngrams)
    if len(lengths) > 1:
        raise Refused(f"ngrams={ngrams}: in a sequence one token follows another; say one number, such as [1]")
    if size < 3:
        raise Refused(f"size={size}: 0 is padding and 1 any other token; it must be 3 or more")
    cutter = Cutter(tokens, lower, punctuation, size)
    return Numbered(cutter, lengths[0], size, length, pad, cut, bucket, hashed)


def _lengths(ngrams: list[int]) -> tuple[int, ...]:
    if not ngrams:
        raise Refused("ngrams=[]: say how many tokens in turn make one, such as [1] or [1,2]")
    return tuple(sorted(set(ngrams)))


@dataclass(frozen=True, eq=False)
class Bagged:
    """Texts → sparse bags over the n-grams that training rows have most often; see `bag` and `tf_idf`."""

    cutter: Cutter
    ngrams: tuple[int, ...]
    size: int
    values: Values
    idf: Idf | None = None
    normalise: bool = False
    entries: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    kind: Kind = "bag"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.entries

    def fit(self, column: np.ndarray) -> Bagged:
        """Learn the n-grams, and how rare each is. Raises Refused where the texts have none."""
        cutter = self.cutter.fit(column)
        entries = _entries(cutter, column, self.ngrams, self.size)
        learnt = replace(self, cutter=cutter, entries=entries, weights=None)
        if self.idf is None:
            return learnt
        among = np.bincount(learnt._counts(column).indices, minlength=len(entries))
        rare = (
            np.log(1 + len(column) / (1 + among))
            if self.idf == "keras"
            else 1 + np.log((1 + len(column)) / (1 + among))
        )
        return replace(learnt, weights=rare)

    def __call__(self, column: np.ndarray) -> Bag:
        found = self._counts(column)
        if self.weights is not None:
            found.data *= self.weights[found.indices].astype(np.float32)
        if self.normalise:
            sizes = np.sqrt(np.bincount(rows_of(found.indptr), found.data.astype(np.float64) ** 2, len(column)))
            found.data /= np.repeat(np.maximum(sizes, 1e-12), np.diff(found.indptr)).astype(np.float32)
        return _bag(found, self.values)

    def _counts(self, column: np.ndarray) -> Any:
        cut, index = self.cutter(column), Index(self.entries)
        return _sparse([(index(self.cutter, cut, n), runs(cut, n)[1]) for n in self.ngrams], len(self.entries))

    def state(self) -> dict[str, Any]:
        """How texts are cut, the n-grams in their order, and their weights."""
        weights = {} if self.weights is None else {"idf": self.idf, "weights": self.weights.tolist()}
        return {**_told(self.cutter, self.ngrams), "values": self.values, "entries": list(self.entries), **weights}


@dataclass(frozen=True, eq=False)
class Hashed:
    """Texts → sparse bags by the hash of each n-gram; see `hashing`."""

    cutter: Cutter
    ngrams: tuple[int, ...]
    size: int
    values: Values
    kind: Kind = "bag"

    def fit(self, column: np.ndarray) -> Hashed:
        """Learn the sub-words, where tokens are that; there is nothing else to learn."""
        return replace(self, cutter=self.cutter.fit(column))

    def __call__(self, column: np.ndarray) -> Bag:
        cut = self.cutter(column)
        places = lambda n: (hashes(self.cutter, cut, n) % np.uint64(self.size)).astype(np.int64)  # noqa: E731
        return _bag(_sparse([(places(n), runs(cut, n)[1]) for n in self.ngrams], self.size), self.values)

    def state(self) -> dict[str, Any]:
        """How texts are cut, and how many columns there are."""
        return {**_told(self.cutter, self.ngrams), "values": self.values, "size": self.size}


@dataclass(frozen=True, eq=False)
class Numbered:
    """Texts → sequences of token numbers; see `sequence`."""

    cutter: Cutter
    ngram: int
    size: int
    length: int | None
    pad: Side
    cut: Side
    bucket: bool
    hashed: bool
    entries: tuple[str, ...] = ()
    kind: Kind = "tokens"

    @property
    def labels(self) -> tuple[str, ...]:
        return () if self.hashed else ("", UNKNOWN, *self.entries)

    def fit(self, column: np.ndarray) -> Numbered:
        """Learn the tokens, and the length where none is asked for. Raises Refused where the texts have no token."""
        cutter = self.cutter.fit(column)
        entries = () if self.hashed else _entries(cutter, column, (self.ngram,), self.size - 2)
        longest = int(np.diff(runs(cutter(column), self.ngram)[1]).max(initial=1))
        return replace(self, cutter=cutter, entries=entries, length=self.length or max(1, longest))

    def __call__(self, column: np.ndarray) -> Sequences:
        cut = self.cutter(column)
        if self.hashed:
            numbers = 1 + (hashes(self.cutter, cut, self.ngram) % np.uint64(self.size - 1)).astype(np.int64)
        else:
            numbers = 2 + Index(self.entries)(self.cutter, cut, self.ngram)  # -1, which is none, becomes 1
        rows = Ragged(numbers, runs(cut, self.ngram)[1])
        size = self.size if self.hashed else 2 + len(self.entries)
        return padded(rows, size, self.length or 1, self.pad, self.cut, bucket=self.bucket)

    def state(self) -> dict[str, Any]:
        """How texts are cut, the length, and the tokens in their order, the first of which has number 2."""
        about = {"length": self.length, "pad": self.pad, "cut": self.cut, "hashed": self.hashed, "size": self.size}
        return {**_told(self.cutter, (self.ngram,)), **about, "entries": list(self.entries)}


def _entries(cutter: Cutter, column: np.ndarray, ngrams: tuple[int, ...], size: int) -> tuple[str, ...]:
    entries = learn(cutter, cutter(column), ngrams, size)
    if not entries:
        what = cutter.tokens if ngrams == (1,) else f"{' or '.join(map(str, ngrams))} {cutter.tokens} in turn"
        raise Refused(f"none of the {len(column):,} training texts has {what}: there is nothing to learn from them")
    return entries


def _sparse(parts: list[tuple[np.ndarray, np.ndarray]], width: int) -> Any:
    """A scipy matrix (N, width) of how often each number stands in each row. parts: numbers, -1 for none; offsets."""
    from scipy.sparse import coo_array

    rows = np.concatenate([rows_of(offsets)[numbers >= 0] for numbers, offsets in parts])
    columns = np.concatenate([numbers[numbers >= 0] for numbers, _ in parts])
    ones = np.ones(len(rows), np.float32)
    shape = (len(parts[0][1]) - 1, width)
    found = coo_array((ones, (rows.astype(np.int32), columns.astype(np.int32))), shape=shape).tocsr()
    found.sum_duplicates()
    return found


def _bag(found: Any, values: Values) -> Bag:
    if values == "multi_hot":
        found.data[:] = 1
    starts, columns = (torch.from_numpy(part.astype(np.int32)) for part in (found.indptr, found.indices))
    return Bag(starts, columns, torch.from_numpy(found.data), found.shape[1])


def _told(cutter: Cutter, ngrams: tuple[int, ...]) -> dict[str, Any]:
    plain = {"tokens": cutter.tokens, "lower": cutter.lower, "punctuation": cutter.punctuation}
    return {**plain, "ngrams": list(ngrams), **({"subwords": cutter.model} if cutter.model else {})}
