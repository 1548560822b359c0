"""Which tokens, or runs of tokens, have a number of their own: the most frequent ones of the training rows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlrun.core.dataset import Ragged
from dlrun.data.preprocessing.tokenizer import Tokenizer

START, OUT_OF_WORDS, INDEX_FROM = 1, 2, 3

FNV_PRIME = np.uint64(
    1099511628211
)  # the prime of the FNV hash (Fowler, Noll & Vo), for hashes of runs


def build_vocabulary(
    cutter: Tokenizer, cut: Ragged, ngrams: Sequence[int], size: int
) -> tuple[str, ...]:
    """The `size` most frequent n-grams of these rows, most frequent first; equally frequent ones by the alphabet.

    cut: what `cutter` made of the rows. An n-gram's name is that of its tokens with `cutter.glue` between them.
    """
    found = [_count_ngrams(cut, n, len(cutter)) for n in ngrams]
    every = np.concatenate([counts for _, counts in found])
    if not len(every):
        return ()
    least = (
        np.partition(every, -size)[-size] if len(every) > size else 1
    )  # strings are made of those alone
    named: list[tuple[int, str]] = []
    for runs, counts in found:
        enough = counts >= least
        names = cutter.ids_to_tokens(runs[enough].reshape(-1).tolist())
        width = runs.shape[1]
        grams = (
            cutter.separator.join(names[place : place + width])
            for place in range(0, len(names), width)
        )
        named += zip((-counts[enough]).tolist(), grams, strict=True)
    return tuple(dict.fromkeys(name for _, name in sorted(named)))[:size]


def _count_ngrams(cut: Ragged, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The different n-grams (k, n) of token numbers below `size`, and how often each stands there (k,)."""
    starts, _ = find_ngrams(cut, n)
    if n == 1:
        counts = np.bincount(cut.values, minlength=1)
        there = np.flatnonzero(counts)
        return there[:, None], counts[there]
    code = cut.values[starts].astype(np.int64)
    for place in range(1, n):
        code = code * size + cut.values[starts + place]
        if place < n - 1:  # numbered anew, for the next product must not overflow
            code = np.unique(code, return_inverse=True)[1].reshape(-1)
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    return cut.values[starts[first][:, None] + np.arange(n)], counts


def find_ngrams(cut: Ragged, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Where n tokens in turn begin: their places in cut.values, and the offsets of each row's among them (N + 1,)."""
    counts = np.maximum(np.diff(cut.offsets) - n + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(offsets[-1]) + np.repeat(cut.offsets[:-1] - offsets[:-1], counts), offsets


@dataclass(frozen=True, eq=False)
class VocabularyIndex:
    """The number of each entry of a vocabulary, found for whole columns at once."""

    entries: tuple[str, ...]

    def __call__(self, cutter: Tokenizer, cut: Ragged, n: int) -> np.ndarray:
        """For each n tokens in turn of these rows, as `find_ngrams` orders them, the number of that n-gram; -1 for none."""
        tokens, number = self._entry_token_ids(cutter, n)
        starts, _ = find_ngrams(cut, n)
        found = np.full(len(starts), -1, np.int64)
        if not len(tokens):
            return found
        table = np.full(len(cutter), -1, np.int64)
        firsts, code = np.unique(tokens[:, 0], return_inverse=True)
        table[firsts] = np.arange(len(firsts))
        at = table[cut.values[starts]]
        alive = np.flatnonzero(at >= 0)
        at = at[alive]
        for place in range(1, n):  # only those that have begun like an entry go on
            keys, code = np.unique(
                code.reshape(-1) * len(cutter) + tokens[:, place], return_inverse=True
            )
            wanted = at * len(cutter) + cut.values[starts[alive] + place]
            at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            same = keys[at] == wanted
            alive, at = alive[same], at[same]
        entry = np.empty(len(tokens), np.int64)
        entry[code.reshape(-1)] = number
        found[alive] = entry[at]
        return found

    def _entry_token_ids(self, cutter: Tokenizer, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The token numbers (k, n) of the entries of n tokens, all of which some text has had, and their places."""
        cut = [
            tuple(entry) if not cutter.separator else tuple(entry.split(cutter.separator))
            for entry in self.entries
        ]
        places = np.array([place for place, parts in enumerate(cut) if len(parts) == n], np.int64)
        tokens = cutter.tokens_to_ids(
            [token for parts in cut if len(parts) == n for token in parts]
        ).reshape(-1, n)
        known = (tokens >= 0).all(1)
        return tokens[known], places[known]


def hash_ngrams(cutter: Tokenizer, cut: Ragged, n: int) -> np.ndarray:
    """A number (uint64) for each n tokens in turn, as `find_ngrams` orders them: the same on every machine and in every run.

    It is made of the CRC-32 of each token's UTF-8.
    """
    starts, _ = find_ngrams(cut, n)
    different = np.unique(cut.values)
    table = np.zeros(len(cutter), np.uint64)
    marks = [
        zlib.crc32(name.encode("utf-8", "surrogatepass"))
        for name in cutter.ids_to_tokens(different.tolist())
    ]
    table[different] = np.array(marks, np.uint64)
    found = table[cut.values[starts]]
    for place in range(1, n):
        found = found * FNV_PRIME ^ table[cut.values[starts + place]]
    return found ^ (found >> np.uint64(32))


def get_row_indices(offsets: np.ndarray) -> np.ndarray:
    """The row of each value of a ragged column."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def format_vocabulary(entries: Sequence[str], count: int = 5) -> str:
    """'the, a, of, … (20,000 in all)'."""
    more = f", … ({len(entries):,} in all)" if len(entries) > count else ""
    return ", ".join(entries[:count]) + more
