"""How a text becomes token numbers, and numbers text again: the vocabulary is that of the training windows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Windowed
from dlrun.data.preprocessing.text import UNKNOWN

Unit = Literal["character", "word"]
WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]|\n")
OPEN, CLOSE = set("([{“‘«$#"), set(".,;:!?)]}”’»%…")  # marks without a blank behind, or before them
VISIBLE = {"\n": "⏎", " ": "␣", "\t": "⇥"}
FIRST = 2  # 0 is padding, 1 any token without a number of its own


def cut(text: str, unit: Unit) -> list[str]:
    """The tokens of a text: its characters; or its words, marks and line ends, each by itself."""
    return list(text) if unit == "character" else WORD.findall(text)


def numbered(text: str, unit: Unit) -> tuple[np.ndarray, tuple[str, ...]]:
    """The tokens of a text as numbers (int32), and what each number stands for."""
    if unit == "character":
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        different, values = np.unique(points, return_inverse=True)
        return values.astype(np.int32), tuple(map(chr, different.tolist()))
    names: dict[str, int] = {}
    found = [names.setdefault(token, len(names)) for token in cut(text, unit)]
    return np.array(found, np.int32), tuple(names)


def glue(before: str, token: str, unit: Unit) -> str:
    """What stands between two tokens: a blank between words, nothing around line ends and before most marks."""
    if unit == "character" or not before or "\n" in (before, token) or token in CLOSE or before in OPEN:
        return ""
    return " "


def joined(tokens: Sequence[str], unit: Unit) -> str:
    """The text of these tokens; of words without the blanks that nobody can know of."""
    pairs = zip(("", *tokens), tokens, strict=False)
    return "".join(glue(before, token, unit) + token for before, token in pairs)


@dataclass(frozen=True, eq=False)
class Tokens:
    """The numbers of tokens: the most frequent one of the training windows has 2, 1 is any that has no number.

    names: what the numbers in the raw column stand for. most: so many tokens have a number; None: all those that are
    there, but of words only those that are there twice, or else there would be nothing to learn of unknown ones.
    input: the input column whose numbers a target has, '' for the input itself.
    """

    unit: Unit
    lower: bool
    names: tuple[str, ...]
    most: int | None
    input: str = ""
    entries: tuple[str, ...] | None = None

    def beside(self, learnt: Mapping[str, tuple[Any, ...]]) -> Tokens:
        """The same with what the input's tokens are."""
        return replace(self, entries=learnt[self.input][0].entries) if self.input else self

    def fit(self, column: Windowed) -> Tokens:
        """Learn which tokens stand in these windows, each place counted once."""
        if self.entries is not None:
            return self
        counts = np.bincount(column.seen(), minlength=len(self.names))
        there = np.flatnonzero(counts > (self.unit == "word")).tolist()
        order = sorted(there, key=lambda number: (-counts[number], self.names[number]))
        return replace(self, entries=tuple(self.names[number] for number in order[: self.most]))

    def __call__(self, column: Any) -> Any:
        known = self._known()
        table = np.array([known.get(name, 1) for name in self.names], np.int32)
        if isinstance(column, Windowed):
            return replace(column, values=table[column.values])
        return table[column]

    def _known(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.entries or (), FIRST)}

    @property
    def labels(self) -> tuple[str, ...]:
        """What the numbers are called, blanks and line ends made visible."""
        return ("", UNKNOWN, *(VISIBLE.get(name, name) for name in self.entries or ()))

    def numbers(self, text: str) -> tuple[list[int], list[str]]:
        """The numbers of a text's tokens, and the different tokens that have none and are left out."""
        tokens, known = cut(text.lower() if self.lower else text, self.unit), self._known()
        strange = dict.fromkeys(token for token in tokens if token not in known)
        return [known[token] for token in tokens if token in known], list(strange)

    def tokens(self, numbers: Iterable[int]) -> list[str]:
        """What these numbers stand for, letter by letter."""
        return [("", UNKNOWN, *(self.entries or ()))[number] for number in numbers]

    def state(self) -> dict[str, Any]:
        """How texts are cut, and the tokens in their order, the first of which has number 2."""
        about = {"unit": self.unit, "lower": self.lower}
        return about | ({"as": self.input} if self.input else {"entries": list(self.entries or ())})
