"""IMDB reviews and Reuters newswires as word indices, in the order and numbering of Keras."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Literal

import numpy as np

from dlrun.config.annotations import Count
from dlrun.core.dataset import Dataset, Preprocessor, Ragged, RawColumns
from dlrun.core.errors import UserError
from dlrun.core.files import data_root as root
from dlrun.core.types import Kind
from dlrun.data.cache import RemoteFile, fetch, find_local_file, fingerprint, load_or_parse
from dlrun.data.preprocessing.padding import (
    INDEX_FROM,
    OUT_OF_WORDS,
    START,
    UNKNOWN_SYMBOL,
    MultiHot,
    PaddedSequence,
    PaddingSide,
)

log = logging.getLogger("dlrun")

# Keras' load_data shuffles with this seed: the rows, and their order, are the book's.
SEED = 113
REUTERS_DEV = 0.8
SENTIMENTS = ("negative", "positive")
TOPICS = (
    *("cocoa", "grain", "veg-oil", "earn", "acq", "wheat", "copper", "housing", "money-supply"),
    *("coffee", "sugar", "trade", "reserves", "ship", "cotton", "carcass", "crude", "nat-gas"),
    *("cpi", "money-fx", "interest", "gnp", "meal-feed", "alum", "oilseed", "gold", "tin"),
    *("strategic-metal", "livestock", "retail", "ipi", "iron-steel", "rubber", "heat", "jobs"),
    *("lei", "bop", "zinc", "orange", "pet-chem", "dlr", "gas", "silver", "wpi", "hog", "lead"),
)
MIRRORS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "https://s3.amazonaws.com/text-datasets/",
)
IMDB_HASH = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
IMDB = RemoteFile("imdb", "imdb.npz", IMDB_HASH, tuple(mirror + "imdb.npz" for mirror in MIRRORS))
REUTERS_HASH = "d6586e694ee56d7a4e65172e12b3e987c03096cb01eab99753921ef915959916"
REUTERS = RemoteFile(
    "reuters", "reuters.npz", REUTERS_HASH, tuple(mirror + "reuters.npz" for mirror in MIRRORS)
)

WORD_INDEX_HASHES = {
    "imdb": "027313fe9a320280f3bf0fac5baf58c4a683cf39a7ed9c3d3d3912bde4284cf6",
    "reuters": "9b56000edc4b34a32e89fd5a23b2605594682c74efcf7d8f4e2a5514b771e633",
}
WORD_INDEX_FILES = {
    task: RemoteFile(
        task,
        f"{task}_word_index.json",
        digest,
        tuple(f"{mirror}{task}_word_index.json" for mirror in MIRRORS),
    )
    for task, digest in WORD_INDEX_HASHES.items()
}


def imdb(
    *,
    source: Literal["official", "sample"],
    words: Count,
    pool: bool,
    length: Count | None,
    pad: PaddingSide,
    cut: PaddingSide,
    bucket: bool,
) -> Dataset:
    """Film reviews (Maas et al. 2011; book §3.4): 25,000 rows, and 25,000 test rows.

    Input `review`, target `sentiment`.

    Args:
        source: `official`, or `sample` for synthetic rows.
        words: How many of the most frequent words keep an index of their own; the others are 2.
        pool: Official train and test rows together, in this order, become training + validation
            rows, and no test rows remain: the book's §4.4 validates on the test set.
        length: None for a bag of words; else so many word indices in sequence.
        pad: Where shorter sequences are padded, see `pad_sequences`.
        cut: Where longer sequences are truncated.
        bucket: Batches of sequences of similar length.

    Raises:
        UserError: The file is not available, or the settings contradict each other.
    """
    _check_settings(words, length, bucket)

    def read(split: str) -> RawColumns:
        lists, labels = _read_rows("imdb", source, split)
        order = _shuffle_order(split, len(labels))
        return {"review": _offset_word_numbers(lists[order], words), "sentiment": labels[order]}

    # Pooled in the data, not by a setting of the engine: nothing but data opens test rows.
    dev = _concat_ragged(read("train"), read("test")) if pool else read("train")
    test = None if pool else lambda: read("test")
    labels: dict[str, tuple[str, ...]] = {"sentiment": SENTIMENTS}
    dataset = Dataset(dev, {"review": "bag"}, {"sentiment": "binary"}, {}, test, labels=labels)
    names = _cache_word_names("imdb", words, source)
    step = PaddedSequence(words, length, pad, cut, bucket, names)
    return _build_dataset(dataset, "imdb", source, step)


def reuters(
    *,
    source: Literal["official", "sample"],
    words: Count,
    length: Count | None,
    pad: PaddingSide,
    cut: PaddingSide,
    bucket: bool,
) -> Dataset:
    """Newswires of 46 topics (Reuters-21578; book §3.5): 8,982 rows, and 2,246 test rows.

    Input `newswire`, target `topic`.

    Args:
        source: `official`, or `sample` for synthetic rows.
        words: How many of the most frequent words keep an index of their own; the others are 2.
        length: None for a bag of words; else so many word indices in sequence.
        pad: Where shorter sequences are padded, see `pad_sequences`.
        cut: Where longer sequences are truncated.
        bucket: Batches of sequences of similar length.

    Raises:
        UserError: The file is not available, or the settings contradict each other.
    """
    _check_settings(words, length, bucket)

    def read(test: bool) -> RawColumns:
        lists, labels = _read_rows("reuters", source)
        # Keras shuffles all rows, and splits them then.
        order = np.arange(len(labels))
        np.random.RandomState(SEED).shuffle(order)
        first = int(len(labels) * REUTERS_DEV)
        order = order[first:] if test else order[:first]
        return {"newswire": _offset_word_numbers(lists[order], words), "topic": labels[order]}

    labels: dict[str, tuple[str, ...]] = {"topic": TOPICS}
    dataset = Dataset(
        read(False),
        {"newswire": "bag"},
        {"topic": "category"},
        {},
        lambda: read(True),
        labels=labels,
    )
    names = _cache_word_names("reuters", words, source)
    step = PaddedSequence(words, length, pad, cut, bucket, names)
    return _build_dataset(dataset, "reuters", source, step)


def _build_dataset(dataset: Dataset, task: str, source: str, step: PaddedSequence) -> Dataset:
    """Return the dataset with its texts as bags of words or sequences, and the note of a sample."""
    (text,) = dataset.inputs
    preprocessor: Preprocessor = step if step.length else MultiHot(step.words)
    kinds: dict[str, Kind] = {text: "tokens" if step.length else "bag"}
    note = ""
    if source == "sample":
        from dlrun.data.datasets.synthetic import sample_note

        note = sample_note(task)

    def rows_from_texts(texts: Sequence[str]) -> RawColumns:
        return {text: _encode_texts(task, texts, step.names(), step.words)}

    # The targets alone: how the texts are read depends on the settings, the rows do not.
    rows_fingerprint = fingerprint({name: dataset.dev[name] for name in dataset.targets})
    return replace(
        dataset,
        inputs=kinds,
        preprocessors={text: (preprocessor,)},
        note=note,
        synthetic=source == "sample",
        read_vocabulary=step.names,
        rows_from_texts=rows_from_texts,
        row_fingerprints=(rows_fingerprint, rows_fingerprint),
    )


def _encode_texts(task: str, texts: Sequence[str], names: tuple[str, ...], words: int) -> Ragged:
    """Return new texts as the dataset's word indices; raise UserError without the word index."""
    if not names:
        file = WORD_INDEX_FILES[task]
        path = root() / file.task / file.name
        raise UserError(
            f"{task}: no text has numbers without the list of words: put {file.urls[0]} to {path}"
        )
    word_index = {
        word: number - INDEX_FROM
        for number, word in enumerate(names)
        if word not in ("", UNKNOWN_SYMBOL)
    }
    from dlrun.data.preprocessing.tokenizer import Tokenizer

    # Splits as Keras' Tokenizer does, which made the word index.
    tokenizer = Tokenizer("words", True, "blank", words)
    tokens = tokenizer(np.array(list(texts), object))
    found_words = tokenizer.ids_to_tokens(range(len(tokenizer)))
    # `words` is beyond the vocabulary and becomes the unknown word; so does an empty list.
    ids = np.array([word_index.get(word, words) for word in found_words] or [words], np.int32)
    return _offset_word_numbers(Ragged(ids[tokens.values], tokens.offsets), words)


def _cache_word_names(task: str, words: int, source: str) -> Callable[[], tuple[str, ...]]:
    """Return a function that reads them when it is first called."""
    return cache(partial(_load_word_names, task, words, source))


def _load_word_names(task: str, words: int, source: str) -> tuple[str, ...]:
    """Return the word of each index below `words`; () where the official list is absent."""
    file = WORD_INDEX_FILES[task]
    if source == "sample":
        word_index = {f"word{number}": number for number in range(1, words)}
    elif (path := find_local_file(file)) is not None:
        word_index = json.loads(path.read_text(encoding="utf-8"))
    else:
        expected_path = root() / file.task / file.name
        log.info(
            "%s: texts are shown as word numbers, for %s is not there; it is at %s",
            task,
            expected_path,
            file.urls[0],
        )
        return ()
    # Numbers 0 and 1 are padding and the start; without a word, a number stands for unknown.
    names = ["", "", *[UNKNOWN_SYMBOL] * (words - OUT_OF_WORDS)]
    for word, number in word_index.items():
        if number + INDEX_FROM < words:
            names[number + INDEX_FROM] = word
    return tuple(names)


def _check_settings(words: int, length: int | None, bucket: bool) -> None:
    if bucket and length is None:
        raise UserError(
            "bucket=true is for sequences: say how long they may be, such as length=500"
        )
    if words <= INDEX_FROM:
        raise UserError(
            f"words={words}: numbers 0 to {INDEX_FROM} are no words; "
            f"it must be {INDEX_FROM + 1} or more"
        )


def _read_rows(task: str, source: str, split: str = "") -> tuple[Ragged, np.ndarray]:
    """Return word lists and labels; of imdb those of a split, of reuters all."""
    if source == "sample":
        from dlrun.data.datasets import synthetic

        if task == "imdb":
            return synthetic.generate_word_lists(split)
        return synthetic.generate_class_word_lists(len(TOPICS))
    file, suffix = (IMDB, f"_{split}") if task == "imdb" else (REUTERS, "")

    def parse() -> Ragged:
        from dlrun.data.legacy_pickle import read_lists

        return read_lists(file, f"x{suffix}")

    with np.load(fetch(file), allow_pickle=False) as archive:
        return load_or_parse(file, f"x{suffix}", parse), archive[f"y{suffix}"]


def _shuffle_order(split: str, count: int) -> np.ndarray:
    """Return the order of a split: Keras shuffles both with one generator, training rows first."""
    generator = np.random.RandomState(SEED)
    order = np.arange(count)
    generator.shuffle(order)
    if split == "test":
        order = np.arange(count)
        generator.shuffle(order)
    return order


def _offset_word_numbers(lists: Ragged, words: int) -> Ragged:
    """Prepend the start word, shift by INDEX_FROM; indices from `words` on become 2."""
    values = lists.values + INDEX_FROM
    np.copyto(values, OUT_OF_WORDS, where=values >= words)
    count = len(lists)
    offsets = lists.offsets + np.arange(count + 1)
    numbered = np.empty(len(values) + count, np.int32)
    # All lists at once: a start word at each offset, and the values in between.
    within = np.ones(len(numbered), np.bool_)
    within[offsets[:-1]] = False
    numbered[within] = values
    numbered[offsets[:-1]] = START
    return Ragged(numbered, offsets)


def _concat_ragged(first: RawColumns, second: RawColumns) -> RawColumns:
    combined: RawColumns = {}
    for name, column in first.items():
        second_column = second[name]
        if isinstance(column, Ragged):
            offsets = np.concatenate(
                [column.offsets, column.offsets[-1] + second_column.offsets[1:]]
            )
            combined[name] = Ragged(np.concatenate([column.values, second_column.values]), offsets)
        else:
            combined[name] = np.concatenate([column, second_column])
    return combined
