"""Vocabularies: the most frequent n-grams of the training rows, their ids and their hashes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlrun.core.dataset import Ragged
from dlrun.data.preprocessing.tokenizer import Tokenizer

# The prime of the 64-bit FNV hash (Fowler, Noll & Vo), which mixes the tokens of an n-gram.
FNV_PRIME = np.uint64(1099511628211)


def build_vocabulary(
    tokenizer: Tokenizer, tokens: Ragged, ngrams: Sequence[int], size: int
) -> tuple[str, ...]:
    """The most frequent n-grams of some rows.

    Args:
        tokenizer: What made the tokens.
        tokens: Token ids of each row.
        ngrams: The lengths of n-grams, such as [1, 2].
        size: How many n-grams to take.

    Returns:
        N-grams, most frequent first, equally frequent ones in alphabetical order. One is named by
        its tokens with `tokenizer.separator` between them.
    """
    counted = [_count_ngrams(tokens, n, len(tokenizer)) for n in ngrams]
    all_counts = np.concatenate([counts for _, counts in counted])
    if not len(all_counts):
        return ()
    # Names are made only of n-grams that can be among the `size` most frequent ones.
    threshold = np.partition(all_counts, -size)[-size] if len(all_counts) > size else 1
    ranked: list[tuple[int, str]] = []
    for token_ids, counts in counted:
        frequent = counts >= threshold
        names = tokenizer.ids_to_tokens(token_ids[frequent].reshape(-1).tolist())
        n = token_ids.shape[1]
        starts = range(0, len(names), n)
        ngram_names = (tokenizer.separator.join(names[start : start + n]) for start in starts)
        ranked += zip((-counts[frequent]).tolist(), ngram_names, strict=True)
    return tuple(dict.fromkeys(name for _, name in sorted(ranked)))[:size]


def _count_ngrams(tokens: Ragged, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct n-grams (k, n) of ids below `size`, and the number of occurrences (k,)."""
    starts, _ = find_ngrams(tokens, n)
    if n == 1:
        counts = np.bincount(tokens.values, minlength=1)
        present = np.flatnonzero(counts)
        return present[:, None], counts[present]
    code = tokens.values[starts].astype(np.int64)
    for position in range(1, n):
        code = code * size + tokens.values[starts + position]
        if position < n - 1:  # renumbered, for the next product must not overflow
            code = np.unique(code, return_inverse=True)[1].reshape(-1)
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    return tokens.values[starts[first][:, None] + np.arange(n)], counts


def find_ngrams(tokens: Ragged, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Where n-grams begin.

    Returns:
        The index in tokens.values of each n-gram's first token, and the offsets (N + 1,) of each
        row's n-grams among them.
    """
    counts = np.maximum(np.diff(tokens.offsets) - n + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    starts = np.repeat(tokens.offsets[:-1] - offsets[:-1], counts)
    return np.arange(offsets[-1]) + starts, offsets


@dataclass(frozen=True, eq=False)
class VocabularyIndex:
    """Looks up the index of n-grams in a vocabulary, whole columns at once.

    Attributes:
        entries: The vocabulary.
    """

    entries: tuple[str, ...]

    def __call__(self, tokenizer: Tokenizer, tokens: Ragged, n: int) -> np.ndarray:
        """The index in the vocabulary of each n-gram, in `find_ngrams` order; -1 for none."""
        entry_tokens, entry_indices = self._entry_token_ids(tokenizer, n)
        starts, _ = find_ngrams(tokens, n)
        indices = np.full(len(starts), -1, np.int64)
        if not len(entry_tokens):
            return indices
        # A trie as sorted arrays: `node` is where each n-gram stands among the entries' beginnings.
        table = np.full(len(tokenizer), -1, np.int64)
        firsts, code = np.unique(entry_tokens[:, 0], return_inverse=True)
        table[firsts] = np.arange(len(firsts))
        node = table[tokens.values[starts]]
        alive = np.flatnonzero(node >= 0)
        node = node[alive]
        for position in range(1, n):  # only those that have begun like an entry go on
            entry_keys = code.reshape(-1) * len(tokenizer) + entry_tokens[:, position]
            keys, code = np.unique(entry_keys, return_inverse=True)
            key = node * len(tokenizer) + tokens.values[starts[alive] + position]
            node = np.searchsorted(keys, key).clip(max=len(keys) - 1)
            same = keys[node] == key
            alive, node = alive[same], node[same]
        entry = np.empty(len(entry_tokens), np.int64)
        entry[code.reshape(-1)] = entry_indices
        indices[alive] = entry[node]
        return indices

    def _entry_token_ids(self, tokenizer: Tokenizer, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (k, n) and indices (k,) of the entries of n tokens that any text has had."""
        separator = tokenizer.separator
        split = [
            tuple(entry.split(separator)) if separator else tuple(entry) for entry in self.entries
        ]
        indices = np.array(
            [index for index, names in enumerate(split) if len(names) == n], np.int64
        )
        names = [token for index in indices.tolist() for token in split[index]]
        token_ids = tokenizer.tokens_to_ids(names).reshape(-1, n)
        has_ids = (token_ids >= 0).all(1)
        return token_ids[has_ids], indices[has_ids]


def hash_ngrams(tokenizer: Tokenizer, tokens: Ragged, n: int) -> np.ndarray:
    """A hash (uint64) of each n-gram, ordered as `find_ngrams` does.

    It is made of the CRC-32 of each token's UTF-8, and so the same on every machine.
    """
    starts, _ = find_ngrams(tokens, n)
    unique_ids = np.unique(tokens.values)
    table = np.zeros(len(tokenizer), np.uint64)
    names = tokenizer.ids_to_tokens(unique_ids.tolist())
    checksums = [zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names]
    table[unique_ids] = np.array(checksums, np.uint64)
    hashes = table[tokens.values[starts]]
    for position in range(1, n):
        hashes = hashes * FNV_PRIME ^ table[tokens.values[starts + position]]
    # Columns are taken modulo a size: fold the high bits in, or they would not count.
    return hashes ^ (hashes >> np.uint64(32))


def count_unknown_words(
    tokenizer: Tokenizer, entries: Sequence[str], column: np.ndarray
) -> np.ndarray:
    """Tokens that are not in a vocabulary, and all tokens, of each text (N, 2)."""
    tokens = tokenizer(column)
    # A text has each distinct token many times: look each up once.
    unique_ids, index = np.unique(tokens.values, return_inverse=True)
    vocabulary = set(entries)
    names = tokenizer.ids_to_tokens(unique_ids.tolist())
    unknown = np.array([name not in vocabulary for name in names], bool)
    return np.stack([tokens.count_marked(unknown[index]), np.diff(tokens.offsets)], 1)


def get_row_indices(offsets: np.ndarray) -> np.ndarray:
    """The row of each value of a ragged column."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
