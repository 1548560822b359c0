"""How a text becomes token numbers, and numbers text again: the vocabulary is that of the training windows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import SlidingWindows
from dlrun.data.preprocessing.text import UNKNOWN_SYMBOL

TokenUnit = Literal["character", "word"]
WORD_PATTERN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]|\n")
OPEN, CLOSE = set("([{“‘«$#"), set(".,;:!?)]}”’»%…")  # marks without a blank behind, or before them
VISIBLE_SYMBOLS = {"\n": "⏎", " ": "␣", "\t": "⇥"}
FIRST_TOKEN_ID = 2  # 0 is padding, 1 any token without a number of its own


def tokenize(text: str, unit: TokenUnit) -> list[str]:
    """The tokens of a text: its characters; or its words, marks and line ends, each by itself."""
    return list(text) if unit == "character" else WORD_PATTERN.findall(text)


def index_tokens(text: str, unit: TokenUnit) -> tuple[np.ndarray, tuple[str, ...]]:
    """The tokens of a text as numbers (int32), and what each number stands for."""
    if unit == "character":
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        different, values = np.unique(points, return_inverse=True)
        return values.astype(np.int32), tuple(map(chr, different.tolist()))
    names: dict[str, int] = {}
    found = [names.setdefault(token, len(names)) for token in tokenize(text, unit)]
    return np.array(found, np.int32), tuple(names)


def get_token_separator(before: str, token: str, unit: TokenUnit) -> str:
    """What stands between two tokens: a blank between words, nothing around line ends and before most marks."""
    if (
        unit == "character"
        or not before
        or "\n" in (before, token)
        or token in CLOSE
        or before in OPEN
    ):
        return ""
    return " "


def join_tokens(tokens: Sequence[str], unit: TokenUnit) -> str:
    """The text of these tokens; of words without the blanks that nobody can know of."""
    pairs = zip(("", *tokens), tokens, strict=False)
    return "".join(get_token_separator(before, token, unit) + token for before, token in pairs)


@dataclass(frozen=True, eq=False)
class TokenEncoder:
    """The numbers of tokens: the most frequent one of the training windows has 2, 1 is any that has no number.

    names: what the numbers in the raw column stand for. most: so many tokens have a number; None: all those that are
    there, but of words only those that are there twice, or else there would be nothing to learn of unknown ones.
    input: the input column whose numbers a target has, '' for the input itself.
    """

    unit: TokenUnit
    lower: bool
    names: tuple[str, ...]
    max_tokens: int | None
    input: str = ""
    entries: tuple[str, ...] | None = None

    def with_fitted_inputs(self, learnt: Mapping[str, tuple[Any, ...]]) -> TokenEncoder:
        """The same with what the input's tokens are."""
        return replace(self, entries=learnt[self.input][0].entries) if self.input else self

    def fit(self, column: SlidingWindows) -> TokenEncoder:
        """Learn which tokens stand in these windows, each place counted once."""
        if self.entries is not None:
            return self
        counts = np.bincount(column.unique_rows(), minlength=len(self.names))
        there = np.flatnonzero(counts > (self.unit == "word")).tolist()
        order = sorted(there, key=lambda number: (-counts[number], self.names[number]))
        return replace(
            self, entries=tuple(self.names[number] for number in order[: self.max_tokens])
        )

    def __call__(self, column: Any) -> Any:
        known = self._token_ids()
        table = np.array([known.get(name, 1) for name in self.names], np.int32)
        if isinstance(column, SlidingWindows):
            return replace(column, values=table[column.values])
        return table[column]

    def _token_ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.entries or (), FIRST_TOKEN_ID)}

    @property
    def labels(self) -> tuple[str, ...]:
        """What the numbers are called, blanks and line ends made visible."""
        return (
            "",
            UNKNOWN_SYMBOL,
            *(VISIBLE_SYMBOLS.get(name, name) for name in self.entries or ()),
        )

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        """The numbers of a text's tokens, and the different tokens that have none and are left out."""
        tokens, known = tokenize(text.lower() if self.lower else text, self.unit), self._token_ids()
        strange = dict.fromkeys(token for token in tokens if token not in known)
        return [known[token] for token in tokens if token in known], list(strange)

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """What these numbers stand for, letter by letter."""
        return [("", UNKNOWN_SYMBOL, *(self.entries or ()))[number] for number in numbers]

    def state(self) -> dict[str, Any]:
        """How texts are cut, and the tokens in their order, the first of which has number 2."""
        about = {"unit": self.unit, "lower": self.lower}
        return about | ({"as": self.input} if self.input else {"entries": list(self.entries or ())})
