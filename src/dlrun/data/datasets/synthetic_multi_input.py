"""SYNTHETIC problems with several inputs or outputs, for which the book has models but no data (§7.1). Made by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from dlrun.config.constraints import Count
from dlrun.core.dataset import Dataset, Preprocessor, Ragged, RawColumns
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import MultiHot
from dlrun.data.preprocessing.padding import PaddedSequence
from dlrun.data.preprocessing.series import TargetScaler

SEED = 713
TEST_FRACTION = 5  # of so many rows, one is a test row
BLOCK_SIZE = 8  # so many words mean the same
TOPICS, CUSTOMERS, AGE_RANGE = 20, 3, (18, 78)
DEPARTMENTS = ("accounts", "deliveries", "repairs", "sales")


@dataclass
class SyntheticLanguage:
    """Words by number: blocks of BLOCK words that have a meaning come first, then those that say nothing."""

    words: int
    random: np.random.RandomState
    names: list[str] = field(default_factory=lambda: [""])

    def add_block(self, meaning: str) -> int:
        """The first word of a new block. Raises UserError where there are too few words."""
        first = len(self.names)
        self.names += [f"{meaning}-{letter}" for letter in "abcdefgh"]
        if len(self.names) >= self.words - BLOCK_SIZE:
            raise UserError(
                f"data.words={self.words} are too few: {len(self.names) - 1} of them have a meaning already"
            )
        return first

    def add_blocks(self, meanings: Iterable[str]) -> np.ndarray:
        """The first words of new blocks."""
        return np.array([self.add_block(meaning) for meaning in meanings])

    def generate_texts(self, own: np.ndarray, shortest: int, longest: int, share: float) -> Ragged:
        """A text a row: each word is, with probability `share`, from one of its row's blocks `own` (N, k)."""
        lengths = self.random.randint(shortest, longest + 1, len(own))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        total, first = int(offsets[-1]), len(self.names)
        idle = (
            first - 1 + (self.words - first + 1) ** self.random.rand(total)
        )  # few are frequent, as in a language
        owner, which = (
            np.repeat(np.arange(len(own)), lengths),
            self.random.randint(0, own.shape[1], total),
        )
        telling = own[owner, which] + self.random.randint(0, BLOCK_SIZE, total)
        values = np.where(
            self.random.rand(total) < share, telling, idle.clip(first, self.words - 1)
        )
        return Ragged(values.astype(np.int32), offsets)

    def word_names(self) -> tuple[str, ...]:
        """The word of each number."""
        idle = range(self.words - len(self.names))
        return (*self.names, *(f"word{number}" for number in idle))


def questions(
    *, rows: Count, words: Count, answers: Count, length: Count, question_length: Count
) -> Dataset:
    """A text and a question about it → the word that answers (book §7.1.2).

    The text has a topic, the question asks for one of 20 of its sides, and the answer follows from both. rows: test
    rows among them. words: different ones. answers: a multiple of 20. length, question_length: words at most.
    """
    if answers % TOPICS or answers > rows:
        raise UserError(
            f"data.answers={answers}: it must be a multiple of {TOPICS}, and at most rows={rows}"
        )
    language = _build_language(words)
    topics = language.add_blocks(f"topic{topic}" for topic in range(answers // TOPICS))
    sides = language.add_blocks(f"side{side}" for side in range(TOPICS))
    answer = language.random.permutation(np.arange(rows) % answers)
    found: RawColumns = {
        "text": language.generate_texts(
            topics[answer // TOPICS][:, None], length // 4, length, 0.3
        ),
        "question": language.generate_texts(
            sides[answer % TOPICS][:, None], question_length // 2, question_length, 0.4
        ),
        "answer": answer,
    }
    labels = tuple(f"topic{answer // TOPICS}-side{answer % TOPICS}" for answer in range(answers))
    raw = _build_dataset(
        "questions", found, {"text": "tokens", "question": "tokens"}, {"answer": "category"}
    )
    lengths = {"text": length, "question": question_length}
    return replace(_add_preprocessing(raw, language, lengths), labels={"answer": labels})


def social(*, rows: Count, words: Count, length: Count) -> Dataset:
    """Somebody's posts → age (number), income (10 groups), gender (binary), as in book §7.1.3.

    Ages are learnt in standard deviations, unlike the book's. rows: test rows among them. words: different ones.
    length: words at most.
    """
    language, random = (made := _build_language(words)), made.random
    low, high = AGE_RANGE
    decades = language.add_blocks(f"age{age}" for age in range(low, high, 10))
    groups = language.add_blocks(f"income{group}" for group in range(10))
    genders = language.add_blocks(("she", "he"))
    age, income, gender = (
        random.uniform(low, high, rows),
        random.randint(0, 10, rows),
        random.randint(0, 2, rows),
    )
    own = np.stack([decades[((age - low) // 10).astype(int)], groups[income], genders[gender]], 1)
    found: RawColumns = {
        "posts": language.generate_texts(own, length // 2, length, 0.3),
        "age": age,
        "income": income,
        "gender": gender,
    }
    kinds: dict[str, Kind] = {"age": "number", "income": "category", "gender": "binary"}
    raw = _add_preprocessing(
        _build_dataset("social", found, {"posts": "tokens"}, kinds), language, {"posts": length}
    )
    learn = {**raw.preprocessors, "age": (TargetScaler("", None),)}
    return replace(
        raw,
        preprocessors=learn,
        labels={
            "income": tuple(f"group {group}" for group in range(10)),
            "gender": ("woman", "man"),
        },
    )


def tickets(*, rows: Count, words: Count, tags: Count, length: Count | None) -> Dataset:
    """A customer's title, text and tags → how urgent it is (fraction) and whose it is (second edition, §7.2).

    rows: test rows among them. words: different ones. tags: how many there are. length: words of title and text at
    most, read one after another; null: sets of words, as in the book.
    """
    if tags < len(DEPARTMENTS) + CUSTOMERS:
        raise UserError(f"data.tags={tags}: there must be {len(DEPARTMENTS) + CUSTOMERS} or more")
    language, random = (made := _build_language(words)), made.random
    themes = language.add_blocks(DEPARTMENTS)
    urgency = language.add_blocks(f"urgency{level}" for level in range(5))
    department, level = random.randint(0, len(DEPARTMENTS), rows), random.randint(0, 5, rows)
    customer = random.randint(0, CUSTOMERS, rows)
    marked = random.rand(rows, tags) < 0.05
    marked[:, :CUSTOMERS] = np.eye(CUSTOMERS, dtype=bool)[customer]
    marked[np.arange(rows), CUSTOMERS + department] |= random.rand(rows) < 0.3
    priority = (level + customer + random.rand(rows)) / (4 + CUSTOMERS)
    found: RawColumns = {
        "title": language.generate_texts(themes[department][:, None], 3, 10, 0.25),
        "body": language.generate_texts(
            np.stack([themes[department], urgency[level]], 1), 20, 80, 0.3
        ),
        "tags": marked.astype(np.float32),
        "priority": priority,
        "department": department,
    }
    kind: Kind = "bag" if length is None else "tokens"
    kinds: dict[str, Kind] = {"title": kind, "body": kind, "tags": "multilabel"}
    raw = _build_dataset(
        "tickets", found, kinds, {"priority": "fraction", "department": "category"}
    )
    raw = _add_preprocessing(raw, language, {"title": length, "body": length})
    return replace(
        raw, labels={"department": DEPARTMENTS, "tags": tuple(f"tag{tag}" for tag in range(tags))}
    )


def similarity(*, rows: Count, words: Count, length: Count) -> Dataset:
    """Two texts → whether they are about the same (book §7.1.5). rows, words, length: as for `questions`."""
    language, random = (made := _build_language(words)), made.random
    topics = language.add_blocks(f"topic{topic}" for topic in range(6))
    similar = random.permutation(np.arange(rows) % 2)
    left = random.randint(0, len(topics), rows)
    right = np.where(similar, left, (left + random.randint(1, len(topics), rows)) % len(topics))
    found: RawColumns = {
        side: language.generate_texts(topics[topic][:, None], length // 4, length, 0.4)
        for side, topic in (("left", left), ("right", right))
    }
    found["similar"] = similar
    raw = _build_dataset(
        "similarity", found, {"left": "tokens", "right": "tokens"}, {"similar": "binary"}
    )
    return replace(
        _add_preprocessing(raw, language, dict.fromkeys(("left", "right"), length)),
        labels={"similar": ("no", "yes")},
    )


def _build_language(words: int) -> SyntheticLanguage:
    return SyntheticLanguage(words, np.random.RandomState(SEED))


def _build_dataset(
    name: str, found: RawColumns, inputs: dict[str, Kind], targets: dict[str, Kind]
) -> Dataset:
    """The dataset of these rows, the last fifth of them sealed."""
    rows = len(next(iter(found.values())))
    dev, test = (
        partial(_select_rows, found, part)
        for part in np.split(np.arange(rows), [rows - rows // TEST_FRACTION])
    )
    note = f"SYNTHETIC rows: {name} has no real data, and its figures say nothing about any"
    return Dataset(dev(), inputs, targets, test=test, preprocessors={}, note=note)


def _select_rows(found: RawColumns, which: np.ndarray) -> RawColumns:
    return {name: column[which] for name, column in found.items()}


def _add_preprocessing(
    raw: Dataset, language: SyntheticLanguage, lengths: Mapping[str, int | None]
) -> Dataset:
    """The same, its texts to become sequences, or sets of words where no length is given."""
    learn: dict[str, tuple[Preprocessor, ...]] = {}
    for name, length in lengths.items():
        cut = partial(
            PaddedSequence,
            language.words,
            pad="front",
            cut="front",
            bucket=False,
            names=language.word_names,
        )
        learn[name] = (MultiHot(language.words) if length is None else cut(length=length),)
    return replace(raw, preprocessors=learn, read_vocabulary=language.word_names)
