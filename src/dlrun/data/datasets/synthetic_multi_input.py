"""SYNTHETIC data of several inputs or outputs: the book has models for them, but no data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from dlrun.config.annotations import Count
from dlrun.core.dataset import Dataset, Preprocessor, Ragged, RawColumns
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.preprocessing.padding import MultiHot, PaddedSequence
from dlrun.data.preprocessing.series import TargetScaler

SEED = 713
TEST_FRACTION = 5  # one of so many rows is a test row
BLOCK_SIZE = 8  # words of the same meaning
TOPICS, CUSTOMERS, AGE_RANGE = 20, 3, (18, 78)
DEPARTMENTS = ("accounts", "deliveries", "repairs", "sales")


@dataclass
class SyntheticLanguage:
    """Words by number: first blocks of BLOCK_SIZE words with a meaning, then words without one.

    Attributes:
        words: Number of words.
        random: Source of all random numbers.
        names: Names of the words with a meaning; 0 is padding, with an empty name.
    """

    words: int
    random: np.random.RandomState
    names: list[str] = field(default_factory=lambda: [""])

    def add_block(self, meaning: str) -> int:
        """Add a block of words.

        Args:
            meaning: What they mean, which is part of their names.

        Returns:
            The number of the first word.

        Raises:
            UserError: There are too few words.
        """
        first = len(self.names)
        # As many letters as BLOCK_SIZE.
        self.names += [f"{meaning}-{letter}" for letter in "abcdefgh"]
        # At least a block of words without a meaning must be left to fill the texts.
        if len(self.names) >= self.words - BLOCK_SIZE:
            raise UserError(
                f"data.words={self.words} are too few: {len(self.names) - 1} of them have a "
                "meaning already"
            )
        return first

    def add_blocks(self, meanings: Iterable[str]) -> np.ndarray:
        """Add blocks of words, and return the number of the first word of each."""
        return np.array([self.add_block(meaning) for meaning in meanings])

    def generate_texts(
        self, row_blocks: np.ndarray, shortest: int, longest: int, probability: float
    ) -> Ragged:
        """Draw a text per row.

        Args:
            row_blocks: First words of the blocks (N, k) that each row's text is about.
            shortest: Least number of words.
            longest: Largest number of words.
            probability: How probable it is that a word comes from one of the row's blocks.
        """
        lengths = self.random.randint(shortest, longest + 1, len(row_blocks))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        total, first = int(offsets[-1]), len(self.names)
        # Few words are frequent and many are rare, as in a language.
        common = first - 1 + (self.words - first + 1) ** self.random.rand(total)
        row = np.repeat(np.arange(len(row_blocks)), lengths)
        block = self.random.randint(0, row_blocks.shape[1], total)
        meaningful = row_blocks[row, block] + self.random.randint(0, BLOCK_SIZE, total)
        values = np.where(
            self.random.rand(total) < probability, meaningful, common.clip(first, self.words - 1)
        )
        return Ragged(values.astype(np.int32), offsets)

    def word_names(self) -> tuple[str, ...]:
        """Return the word of each number."""
        numbers = range(self.words - len(self.names))
        return (*self.names, *(f"word{number}" for number in numbers))


def questions(
    *, rows: Count, words: Count, answers: Count, length: Count, question_length: Count
) -> Dataset:
    """A text and a question about it → the word that answers (book §7.1.2).

    The text has a topic, the question asks for one of its 20 sides, and the answer follows from
    both.

    Args:
        rows: Number of rows, with test rows.
        words: Number of different words.
        answers: Number of different answers, a multiple of 20.
        length: Largest number of words in a text.
        question_length: Largest number of words in a question.

    Raises:
        UserError: `answers` is no multiple of 20 or above `rows`, or `words` are too few.
    """
    if answers % TOPICS or answers > rows:
        raise UserError(
            f"data.answers={answers}: it must be a multiple of {TOPICS}, and at most rows={rows}"
        )
    language = _build_language(words)
    topics = language.add_blocks(f"topic{topic}" for topic in range(answers // TOPICS))
    sides = language.add_blocks(f"side{side}" for side in range(TOPICS))
    # Every answer equally often, and known from neither text nor question alone.
    answer = language.random.permutation(np.arange(rows) % answers)
    columns: RawColumns = {
        "text": language.generate_texts(
            topics[answer // TOPICS][:, None], length // 4, length, 0.3
        ),
        "question": language.generate_texts(
            sides[answer % TOPICS][:, None], question_length // 2, question_length, 0.4
        ),
        "answer": answer,
    }
    labels = tuple(f"topic{answer // TOPICS}-side{answer % TOPICS}" for answer in range(answers))
    dataset = _build_dataset(
        "questions", columns, {"text": "tokens", "question": "tokens"}, {"answer": "category"}
    )
    lengths = {"text": length, "question": question_length}
    return replace(_add_preprocessing(dataset, language, lengths), labels={"answer": labels})


def social(*, rows: Count, words: Count, length: Count) -> Dataset:
    """Somebody's posts → age (number), income (10 groups) and gender (binary), as in book §7.1.3.

    Ages are learned in standard deviations, unlike in the book.

    Args:
        rows: Number of rows, with test rows.
        words: Number of different words.
        length: Largest number of words in a row.

    Raises:
        UserError: `words` are too few.
    """
    language = _build_language(words)
    random = language.random
    low, high = AGE_RANGE
    decades = language.add_blocks(f"age{age}" for age in range(low, high, 10))
    groups = language.add_blocks(f"income{group}" for group in range(10))
    genders = language.add_blocks(("she", "he"))
    age = random.uniform(low, high, rows)
    income = random.randint(0, 10, rows)
    gender = random.randint(0, 2, rows)
    blocks = np.stack(
        [decades[((age - low) // 10).astype(int)], groups[income], genders[gender]], 1
    )
    columns: RawColumns = {
        "posts": language.generate_texts(blocks, length // 2, length, 0.3),
        "age": age,
        "income": income,
        "gender": gender,
    }
    kinds: dict[str, Kind] = {"age": "number", "income": "category", "gender": "binary"}
    dataset = _add_preprocessing(
        _build_dataset("social", columns, {"posts": "tokens"}, kinds), language, {"posts": length}
    )
    preprocessors = {**dataset.preprocessors, "age": (TargetScaler("", None),)}
    return replace(
        dataset,
        preprocessors=preprocessors,
        labels={
            "income": tuple(f"group {group}" for group in range(10)),
            "gender": ("woman", "man"),
        },
    )


def tickets(*, rows: Count, words: Count, tags: Count, length: Count | None) -> Dataset:
    """A customer's title, text and tags → urgency (fraction) and department (2nd edition, §7.2).

    Args:
        rows: Number of rows, with test rows.
        words: Number of different words.
        tags: Number of different tags.
        length: Largest number of words in title and body, as sequences; None: bags of words, as
            in the book.

    Raises:
        UserError: `tags` or `words` are too few.
    """
    if tags < len(DEPARTMENTS) + CUSTOMERS:
        raise UserError(f"data.tags={tags}: there must be {len(DEPARTMENTS) + CUSTOMERS} or more")
    language, random = (made := _build_language(words)), made.random
    themes = language.add_blocks(DEPARTMENTS)
    urgency = language.add_blocks(f"urgency{level}" for level in range(5))
    department, level = random.randint(0, len(DEPARTMENTS), rows), random.randint(0, 5, rows)
    customer = random.randint(0, CUSTOMERS, rows)
    tag_table = random.rand(rows, tags) < 0.05
    # One tag always names the customer; another one tells the department now and then.
    tag_table[:, :CUSTOMERS] = np.eye(CUSTOMERS, dtype=bool)[customer]
    tag_table[np.arange(rows), CUSTOMERS + department] |= random.rand(rows) < 0.3
    # Between 0 and 1; text and tags decide it but for noise of one level of urgency.
    priority = (level + customer + random.rand(rows)) / (4 + CUSTOMERS)
    columns: RawColumns = {
        "title": language.generate_texts(themes[department][:, None], 3, 10, 0.25),
        "body": language.generate_texts(
            np.stack([themes[department], urgency[level]], 1), 20, 80, 0.3
        ),
        "tags": tag_table.astype(np.float32),
        "priority": priority,
        "department": department,
    }
    kind: Kind = "bag" if length is None else "tokens"
    kinds: dict[str, Kind] = {"title": kind, "body": kind, "tags": "multilabel"}
    dataset = _build_dataset(
        "tickets", columns, kinds, {"priority": "fraction", "department": "category"}
    )
    dataset = _add_preprocessing(dataset, language, {"title": length, "body": length})
    return replace(
        dataset,
        labels={"department": DEPARTMENTS, "tags": tuple(f"tag{tag}" for tag in range(tags))},
    )


def similarity(*, rows: Count, words: Count, length: Count) -> Dataset:
    """Two texts → whether they are about the same topic (book §7.1.5).

    Args:
        rows: Number of rows, with test rows.
        words: Number of different words.
        length: Largest number of words in a text.

    Raises:
        UserError: `words` are too few.
    """
    language, random = (made := _build_language(words)), made.random
    topics = language.add_blocks(f"topic{topic}" for topic in range(6))
    # As many pairs of equal topics as of different ones: chance is one half.
    similar = random.permutation(np.arange(rows) % 2)
    left = random.randint(0, len(topics), rows)
    # Where the texts differ, a topic at least one and at most all but one further on.
    right = np.where(similar, left, (left + random.randint(1, len(topics), rows)) % len(topics))
    columns: RawColumns = {
        side: language.generate_texts(topics[topic][:, None], length // 4, length, 0.4)
        for side, topic in (("left", left), ("right", right))
    }
    columns["similar"] = similar
    dataset = _build_dataset(
        "similarity", columns, {"left": "tokens", "right": "tokens"}, {"similar": "binary"}
    )
    return replace(
        _add_preprocessing(dataset, language, dict.fromkeys(("left", "right"), length)),
        labels={"similar": ("no", "yes")},
    )


def _build_language(words: int) -> SyntheticLanguage:
    return SyntheticLanguage(words, np.random.RandomState(SEED))


def _build_dataset(
    name: str, columns: RawColumns, inputs: dict[str, Kind], targets: dict[str, Kind]
) -> Dataset:
    """Return the dataset of these rows, the last fifth of them as test rows."""
    rows = len(next(iter(columns.values())))
    dev, test = (
        partial(_select_rows, columns, split)
        for split in np.split(np.arange(rows), [rows - rows // TEST_FRACTION])
    )
    note = f"SYNTHETIC rows: {name} has no real data, and its figures say nothing about any"
    return Dataset(dev(), inputs, targets, {}, test, note=note, synthetic=True)


def _select_rows(columns: RawColumns, rows: np.ndarray) -> RawColumns:
    return {name: column[rows] for name, column in columns.items()}


def _add_preprocessing(
    dataset: Dataset, language: SyntheticLanguage, lengths: Mapping[str, int | None]
) -> Dataset:
    """Return the dataset with its texts as sequences, without a length as bags of words."""
    preprocessors: dict[str, tuple[Preprocessor, ...]] = {}
    for name, length in lengths.items():
        pad = partial(
            PaddedSequence,
            language.words,
            pad="front",
            cut="front",
            bucket=False,
            names=language.word_names,
        )
        preprocessors[name] = (MultiHot(language.words) if length is None else pad(length=length),)
    return replace(dataset, preprocessors=preprocessors, read_vocabulary=language.word_names)
