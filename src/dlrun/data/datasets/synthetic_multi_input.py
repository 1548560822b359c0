"""SYNTHETIC problems with several inputs or outputs, for which the book has models but no data (§7.1). Made by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from dlrun.config.constraints import Count
from dlrun.core.dataset import Preparation, Ragged, Raw, Rows
from dlrun.core.errors import Refused
from dlrun.core.types import Kind
from dlrun.data.preprocessing.numeric import MultiHot
from dlrun.data.preprocessing.padding import Padded
from dlrun.data.preprocessing.series import StandardiseTarget

SEED = 713
TEST = 5  # of so many rows, one is a test row
BLOCK = 8  # so many words mean the same
TOPICS, CUSTOMERS, RANGE = 20, 3, (18, 78)
DEPARTMENTS = ("accounts", "deliveries", "repairs", "sales")


@dataclass
class Language:
    """Words by number: blocks of BLOCK words that have a meaning come first, then those that say nothing."""

    words: int
    random: np.random.RandomState
    names: list[str] = field(default_factory=lambda: [""])

    def block(self, meaning: str) -> int:
        """The first word of a new block. Raises Refused where there are too few words."""
        first = len(self.names)
        self.names += [f"{meaning}-{letter}" for letter in "abcdefgh"]
        if len(self.names) >= self.words - BLOCK:
            raise Refused(f"data.words={self.words} are too few: {len(self.names) - 1} of them have a meaning already")
        return first

    def blocks(self, meanings: Iterable[str]) -> np.ndarray:
        """The first words of new blocks."""
        return np.array([self.block(meaning) for meaning in meanings])

    def texts(self, own: np.ndarray, shortest: int, longest: int, share: float) -> Ragged:
        """A text a row: each word is, with probability `share`, from one of its row's blocks `own` (N, k)."""
        lengths = self.random.randint(shortest, longest + 1, len(own))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        total, first = int(offsets[-1]), len(self.names)
        idle = first - 1 + (self.words - first + 1) ** self.random.rand(total)  # few are frequent, as in a language
        owner, which = np.repeat(np.arange(len(own)), lengths), self.random.randint(0, own.shape[1], total)
        telling = own[owner, which] + self.random.randint(0, BLOCK, total)
        values = np.where(self.random.rand(total) < share, telling, idle.clip(first, self.words - 1))
        return Ragged(values.astype(np.int32), offsets)

    def known(self) -> tuple[str, ...]:
        """The word of each number."""
        idle = range(self.words - len(self.names))
        return (*self.names, *(f"word{number}" for number in idle))


def questions(*, rows: Count, words: Count, answers: Count, length: Count, question_length: Count) -> Raw:
    """A text and a question about it → the word that answers (book §7.1.2).

    The text has a topic, the question asks for one of 20 of its sides, and the answer follows from both. rows: test
    rows among them. words: different ones. answers: a multiple of 20. length, question_length: words at most.
    """
    if answers % TOPICS or answers > rows:
        raise Refused(f"data.answers={answers}: it must be a multiple of {TOPICS}, and at most rows={rows}")
    language = _language(words)
    topics = language.blocks(f"topic{topic}" for topic in range(answers // TOPICS))
    sides = language.blocks(f"side{side}" for side in range(TOPICS))
    answer = language.random.permutation(np.arange(rows) % answers)
    found: Rows = {
        "text": language.texts(topics[answer // TOPICS][:, None], length // 4, length, 0.3),
        "question": language.texts(sides[answer % TOPICS][:, None], question_length // 2, question_length, 0.4),
        "answer": answer,
    }
    labels = tuple(f"topic{answer // TOPICS}-side{answer % TOPICS}" for answer in range(answers))
    raw = _raw("questions", found, {"text": "tokens", "question": "tokens"}, {"answer": "category"})
    lengths = {"text": length, "question": question_length}
    return replace(_told(raw, language, lengths), labels={"answer": labels})


def social(*, rows: Count, words: Count, length: Count) -> Raw:
    """Somebody's posts → age (number), income (10 groups), gender (binary), as in book §7.1.3.

    Ages are learnt in standard deviations, unlike the book's. rows: test rows among them. words: different ones.
    length: words at most.
    """
    language, random = (made := _language(words)), made.random
    low, high = RANGE
    decades = language.blocks(f"age{age}" for age in range(low, high, 10))
    groups = language.blocks(f"income{group}" for group in range(10))
    genders = language.blocks(("she", "he"))
    age, income, gender = random.uniform(low, high, rows), random.randint(0, 10, rows), random.randint(0, 2, rows)
    own = np.stack([decades[((age - low) // 10).astype(int)], groups[income], genders[gender]], 1)
    found: Rows = {
        "posts": language.texts(own, length // 2, length, 0.3),
        "age": age,
        "income": income,
        "gender": gender,
    }
    kinds: dict[str, Kind] = {"age": "number", "income": "category", "gender": "binary"}
    raw = _told(_raw("social", found, {"posts": "tokens"}, kinds), language, {"posts": length})
    learn = {**raw.learn, "age": (StandardiseTarget("", None),)}
    return replace(
        raw, learn=learn, labels={"income": tuple(f"group {group}" for group in range(10)), "gender": ("woman", "man")}
    )


def tickets(*, rows: Count, words: Count, tags: Count, length: Count | None) -> Raw:
    """A customer's title, text and tags → how urgent it is (fraction) and whose it is (second edition, §7.2).

    rows: test rows among them. words: different ones. tags: how many there are. length: words of title and text at
    most, read one after another; null: sets of words, as in the book.
    """
    if tags < len(DEPARTMENTS) + CUSTOMERS:
        raise Refused(f"data.tags={tags}: there must be {len(DEPARTMENTS) + CUSTOMERS} or more")
    language, random = (made := _language(words)), made.random
    themes = language.blocks(DEPARTMENTS)
    urgency = language.blocks(f"urgency{level}" for level in range(5))
    department, level = random.randint(0, len(DEPARTMENTS), rows), random.randint(0, 5, rows)
    customer = random.randint(0, CUSTOMERS, rows)
    marked = random.rand(rows, tags) < 0.05
    marked[:, :CUSTOMERS] = np.eye(CUSTOMERS, dtype=bool)[customer]
    marked[np.arange(rows), CUSTOMERS + department] |= random.rand(rows) < 0.3
    priority = (level + customer + random.rand(rows)) / (4 + CUSTOMERS)
    found: Rows = {
        "title": language.texts(themes[department][:, None], 3, 10, 0.25),
        "body": language.texts(np.stack([themes[department], urgency[level]], 1), 20, 80, 0.3),
        "tags": marked.astype(np.float32),
        "priority": priority,
        "department": department,
    }
    kind: Kind = "bag" if length is None else "tokens"
    kinds: dict[str, Kind] = {"title": kind, "body": kind, "tags": "multilabel"}
    raw = _raw("tickets", found, kinds, {"priority": "fraction", "department": "category"})
    raw = _told(raw, language, {"title": length, "body": length})
    return replace(raw, labels={"department": DEPARTMENTS, "tags": tuple(f"tag{tag}" for tag in range(tags))})


def similarity(*, rows: Count, words: Count, length: Count) -> Raw:
    """Two texts → whether they are about the same (book §7.1.5). rows, words, length: as for `questions`."""
    language, random = (made := _language(words)), made.random
    topics = language.blocks(f"topic{topic}" for topic in range(6))
    similar = random.permutation(np.arange(rows) % 2)
    left = random.randint(0, len(topics), rows)
    right = np.where(similar, left, (left + random.randint(1, len(topics), rows)) % len(topics))
    found: Rows = {
        side: language.texts(topics[topic][:, None], length // 4, length, 0.4)
        for side, topic in (("left", left), ("right", right))
    }
    found["similar"] = similar
    raw = _raw("similarity", found, {"left": "tokens", "right": "tokens"}, {"similar": "binary"})
    return replace(_told(raw, language, dict.fromkeys(("left", "right"), length)), labels={"similar": ("no", "yes")})


def _language(words: int) -> Language:
    return Language(words, np.random.RandomState(SEED))


def _raw(name: str, found: Rows, inputs: dict[str, Kind], targets: dict[str, Kind]) -> Raw:
    """The dataset of these rows, the last fifth of them sealed."""
    rows = len(next(iter(found.values())))
    dev, test = (partial(_some, found, part) for part in np.split(np.arange(rows), [rows - rows // TEST]))
    note = f"SYNTHETIC rows: {name} has no real data, and its figures say nothing about any"
    return Raw(dev(), inputs, targets, test=test, learn={}, note=note)


def _some(found: Rows, which: np.ndarray) -> Rows:
    return {name: column[which] for name, column in found.items()}


def _told(raw: Raw, language: Language, lengths: Mapping[str, int | None]) -> Raw:
    """The same, its texts to become sequences, or sets of words where no length is given."""
    learn: dict[str, tuple[Preparation, ...]] = {}
    for name, length in lengths.items():
        cut = partial(Padded, language.words, pad="front", cut="front", bucket=False, names=language.known)
        learn[name] = (MultiHot(language.words) if length is None else cut(length=length),)
    return replace(raw, learn=learn, words=language.known)
