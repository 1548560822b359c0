"""Texts as word numbers: IMDB reviews and Reuters newswires, in the order and numbering of Keras' `load_data`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np

from dlrun.config.constraints import Count
from dlrun.core.dataset import Preparation, Ragged, Raw, Rows
from dlrun.core.errors import Refused
from dlrun.core.paths import data_root as root
from dlrun.core.types import Kind
from dlrun.data.datasets import synthetic
from dlrun.data.downloads import Official, fetch, present
from dlrun.data.fingerprints import fingerprint
from dlrun.data.legacy_pickle import read_lists, read_numbers
from dlrun.data.loading.sequences import Side
from dlrun.data.parsed_cache import parsed
from dlrun.data.preprocessing.numeric import MultiHot
from dlrun.data.preprocessing.padding import Padded
from dlrun.data.preprocessing.text import UNKNOWN
from dlrun.data.preprocessing.tokenizer import Cutter
from dlrun.data.preprocessing.vocabulary import INDEX_FROM, OUT_OF_WORDS, START

log = logging.getLogger("dlrun")

SEED = 113
REUTERS_DEV = 0.8
SENTIMENTS = ("negative", "positive")
TOPICS = (
    "cocoa", "grain", "veg-oil", "earn", "acq", "wheat", "copper", "housing", "money-supply", "coffee", "sugar",
    "trade", "reserves", "ship", "cotton", "carcass", "crude", "nat-gas", "cpi", "money-fx", "interest", "gnp",
    "meal-feed", "alum", "oilseed", "gold", "tin", "strategic-metal", "livestock", "retail", "ipi", "iron-steel",
    "rubber", "heat", "jobs", "lei", "bop", "zinc", "orange", "pet-chem", "dlr", "gas", "silver", "wpi", "hog", "lead",
)  # fmt: skip
MIRRORS = ("https://storage.googleapis.com/tensorflow/tf-keras-datasets/", "https://s3.amazonaws.com/text-datasets/")
IMDB_SUM = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
IMDB = Official("imdb", "imdb.npz", IMDB_SUM, tuple(mirror + "imdb.npz" for mirror in MIRRORS))
REUTERS_SUM = "d6586e694ee56d7a4e65172e12b3e987c03096cb01eab99753921ef915959916"
REUTERS = Official("reuters", "reuters.npz", REUTERS_SUM, tuple(mirror + "reuters.npz" for mirror in MIRRORS))

NAMES = {
    "imdb": Official(
        "imdb",
        "imdb_word_index.json",
        "027313fe9a320280f3bf0fac5baf58c4a683cf39a7ed9c3d3d3912bde4284cf6",
        tuple(mirror + "imdb_word_index.json" for mirror in MIRRORS),
    ),
    "reuters": Official(
        "reuters",
        "reuters_word_index.json",
        "9b56000edc4b34a32e89fd5a23b2605594682c74efcf7d8f4e2a5514b771e633",
        tuple(mirror + "reuters_word_index.json" for mirror in MIRRORS),
    ),
}


def imdb(
    *,
    source: Literal["official", "sample"],
    words: Count,
    pool: bool,
    length: Count | None,
    pad: Side,
    cut: Side,
    bucket: bool,
) -> Raw:
    """Film reviews (Maas et al. 2011; book §3.4): 25,000 development rows, 25,000 test rows.

    words: the most frequent ones that keep a number of their own; the rest is word 2. pool: official train and test
    rows together become the development rows, in this order, and no test set is left: the book's 4.4 validates on the
    test set. length: null for a bag of words; else so many word numbers in turn, see `padded` for pad, cut and bucket.
    Input `review`; target `sentiment`. Raises Refused when the file cannot be had.
    """
    _check(words, length, bucket)

    def read(split: str) -> Rows:
        lists, labels = synthetic.reviews(split) if source == "sample" else _imdb_split(split)
        order = _imdb_order(split, len(labels))
        return {"review": _number(lists[order], words), "sentiment": labels[order]}

    dev = _joined(read("train"), read("test")) if pool else read("train")
    test = None if pool else lambda: read("test")
    raw = Raw(dev, {"review": "bag"}, {"sentiment": "binary"}, {}, test, labels={"sentiment": SENTIMENTS})
    return _raw(raw, "imdb", source, _step("imdb", source, words, length, pad, cut, bucket))


def reuters(
    *, source: Literal["official", "sample"], words: Count, length: Count | None, pad: Side, cut: Side, bucket: bool
) -> Raw:
    """Newswires of 46 topics (Reuters-21578; book §3.5): 8,982 development rows, 2,246 test rows.

    words, length, pad, cut, bucket: as for `imdb`. Input `newswire`; target `topic`. Raises Refused when the file
    cannot be had.
    """
    _check(words, length, bucket)

    def read(test: bool) -> Rows:
        lists, labels = synthetic.newswires(len(TOPICS)) if source == "sample" else _reuters_all()
        order = np.arange(len(labels))
        np.random.RandomState(SEED).shuffle(order)
        first = int(len(labels) * REUTERS_DEV)
        order = order[first:] if test else order[:first]
        return {"newswire": _number(lists[order], words), "topic": labels[order]}

    labels: dict[str, tuple[str, ...]] = {"topic": TOPICS}
    raw = Raw(read(False), {"newswire": "bag"}, {"topic": "category"}, {}, lambda: read(True), labels=labels)
    return _raw(raw, "reuters", source, _step("reuters", source, words, length, pad, cut, bucket))


def _step(task: str, source: str, words: int, length: int | None, pad: Side, cut: Side, bucket: bool) -> Padded:
    names = cache(lambda: _names(task, words, source))
    return Padded(words, length, pad, cut, bucket, names)


def _raw(raw: Raw, task: str, source: str, step: Padded) -> Raw:
    """The same dataset, its texts to become bags of words or sequences, with the note of a sample."""
    (text,) = raw.inputs
    chosen: Preparation = step if step.length else MultiHot(step.words)
    kinds: dict[str, Kind] = {text: "tokens" if step.length else "bag"}
    note = synthetic.note(task) if source == "sample" else ""
    of_texts = lambda texts: {text: _of_texts(task, texts, step.names(), step.words)}  # noqa: E731
    known = fingerprint({name: raw.dev[name] for name in raw.targets})  # the texts are cut as the settings say
    about: dict[str, Any] = {"note": note, "words": step.names, "of_texts": of_texts, "marks": (known, known)}
    return replace(raw, inputs=kinds, learn={text: (chosen,)}, **about)


def _of_texts(task: str, texts: Sequence[str], names: tuple[str, ...], words: int) -> Ragged:
    """New texts as the dataset's own numbers of their words. Raises Refused where nobody knows what these mean."""
    if not names:
        file = NAMES[task]
        place = root() / file.task / file.name
        raise Refused(f"{task}: no text has numbers without the list of words: put {file.urls[0]} to {place}")
    known = {word: number - INDEX_FROM for number, word in enumerate(names) if word not in ("", UNKNOWN)}
    cutter = Cutter("words", True, "blank", words)  # as Keras' Tokenizer cuts, which made the list
    cut = cutter(np.array(list(texts), object))
    number = np.array([known.get(word, words) for word in cutter.names(range(len(cutter)))] or [words], np.int32)
    return _number(Ragged(number[cut.values], cut.offsets), words)


def _names(task: str, words: int, source: str) -> tuple[str, ...]:
    """The word of each number up to `words`; empty when the official list is not there. Never downloads it."""
    file = NAMES[task]
    if source == "sample":
        known = {f"word{number}": number for number in range(1, words)}
    elif (path := present(file)) is not None:
        known = json.loads(path.read_text(encoding="utf-8"))
    else:
        place = root() / file.task / file.name
        log.info("%s: texts are shown as word numbers, for %s is not there; it is at %s", task, place, file.urls[0])
        return ()
    names = ["", "", *[UNKNOWN] * (words - OUT_OF_WORDS)]
    for word, number in known.items():
        if number + INDEX_FROM < words:
            names[number + INDEX_FROM] = word
    return tuple(names)


def _check(words: int, length: int | None, bucket: bool) -> None:
    if bucket and length is None:
        raise Refused("bucket=true is for sequences: say how long they may be, such as length=500")
    if words <= INDEX_FROM:
        raise Refused(f"words={words}: numbers 0 to {INDEX_FROM} are no words; it must be {INDEX_FROM + 1} or more")


def _imdb_split(split: str) -> tuple[Ragged, np.ndarray]:
    path, member = fetch(IMDB), f"x_{split}"
    return parsed(IMDB, member, lambda: read_lists(path, member)), read_numbers(path, f"y_{split}")


def _reuters_all() -> tuple[Ragged, np.ndarray]:
    path = fetch(REUTERS)
    return parsed(REUTERS, "x", lambda: read_lists(path, "x")), read_numbers(path, "y")


def _imdb_order(split: str, count: int) -> np.ndarray:
    """Keras shuffles the training rows and then, with the same generator, the test rows."""
    generator = np.random.RandomState(SEED)
    order = np.arange(count)
    generator.shuffle(order)
    if split == "test":
        order = np.arange(count)
        generator.shuffle(order)
    return order


def _number(lists: Ragged, words: int) -> Ragged:
    """Every list with the start word in front and its numbers moved up; a number from `words` on becomes word 2."""
    values = lists.values + INDEX_FROM
    np.copyto(values, OUT_OF_WORDS, where=values >= words)
    count = len(lists)
    offsets = lists.offsets + np.arange(count + 1)
    numbered = np.empty(len(values) + count, np.int32)
    within = np.ones(len(numbered), np.bool_)
    within[offsets[:-1]] = False
    numbered[within] = values
    numbered[offsets[:-1]] = START
    return Ragged(numbered, offsets)


def _joined(first: Rows, second: Rows) -> Rows:
    together: Rows = {}
    for name, column in first.items():
        other = second[name]
        if isinstance(column, Ragged):
            offsets = np.concatenate([column.offsets, column.offsets[-1] + other.offsets[1:]])
            together[name] = Ragged(np.concatenate([column.values, other.values]), offsets)
        else:
            together[name] = np.concatenate([column, other])
    return together
