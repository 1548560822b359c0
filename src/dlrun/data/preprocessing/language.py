"""Text ↔ token ids of a language model; the vocabulary is that of the training windows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Preprocessor, SlidingWindows
from dlrun.data.preprocessing.padding import UNKNOWN_SYMBOL

TokenUnit = Literal["character", "word"]
WORD_PATTERN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]|\n")
OPEN, CLOSE = (
    set("([{“‘«$#"),
    set(".,;:!?)]}”’»%…"),
)  # punctuation without a blank after, or before it
VISIBLE_SYMBOLS = {"\n": "⏎", " ": "␣", "\t": "⇥"}
FIRST_TOKEN_ID = 2  # 0 is padding, 1 any token outside the vocabulary


def tokenize(text: str, unit: TokenUnit) -> list[str]:
    """Split a text into its characters; or into its words, punctuation and line ends."""
    return list(text) if unit == "character" else WORD_PATTERN.findall(text)


def index_tokens(text: str, unit: TokenUnit) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode a text by its own tokens.

    Returns:
        The id of each token (T,), int32, and the token that each id stands for.
    """
    if unit == "character":
        # One pass over the code points: a novel has a million, too many for a Python loop.
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        unique_points, ids = np.unique(points, return_inverse=True)
        return ids.astype(np.int32), tuple(map(chr, unique_points.tolist()))
    index: dict[str, int] = {}
    token_ids = [index.setdefault(token, len(index)) for token in tokenize(text, unit)]
    return np.array(token_ids, np.int32), tuple(index)


def get_token_separator(previous: str, token: str, unit: TokenUnit) -> str:
    """A blank between words; nothing around line ends and before most punctuation."""
    if unit == "character" or not previous or "\n" in (previous, token):
        return ""
    return "" if token in CLOSE or previous in OPEN else " "


def join_tokens(tokens: Sequence[str], unit: TokenUnit) -> str:
    """The text of these tokens; the blanks between words are guessed."""
    pairs = zip(("", *tokens), tokens, strict=False)
    return "".join(get_token_separator(previous, token, unit) + token for previous, token in pairs)


@dataclass(frozen=True, eq=False)
class TokenEncoder(Preprocessor):
    """Numbers tokens by frequency in the training windows: the first has id 2; 1 is unknown.

    Attributes:
        unit: What a token is.
        lower: Whether texts are lowercased.
        names: What the numbers in the raw column stand for.
        max_tokens: The size of the vocabulary; None takes every token, but words only from two
            occurrences on, or there would be no unknown token to train on.
        input: For a target, the input column whose vocabulary it shares; '' for the input itself.
        entries: The fitted vocabulary, in the order of its ids.
    """

    unit: TokenUnit
    lower: bool
    names: tuple[str, ...]
    max_tokens: int | None
    input: str = ""
    entries: tuple[str, ...] | None = None

    def with_fitted_inputs(self, fitted: Mapping[str, tuple[Any, ...]]) -> TokenEncoder:
        """A copy with the vocabulary of its input."""
        return replace(self, entries=fitted[self.input][0].entries) if self.input else self

    def fit(self, column: SlidingWindows) -> TokenEncoder:
        """Fit the vocabulary, counting each position of the text once."""
        if self.entries is not None:
            return self
        counts = np.bincount(column.unique_rows(), minlength=len(self.names))
        frequent = np.flatnonzero(counts > (self.unit == "word")).tolist()
        # Ties are broken by name, so that the same text always gives the same ids.
        order = sorted(frequent, key=lambda number: (-counts[number], self.names[number]))
        entries = tuple(self.names[number] for number in order[: self.max_tokens])
        return replace(self, entries=entries)

    def __call__(self, column: Any) -> Any:
        ids = self._token_ids()
        lookup = np.array([ids.get(name, 1) for name in self.names], np.int32)
        if isinstance(column, SlidingWindows):
            return replace(column, values=lookup[column.values])
        return lookup[column]

    def _token_ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.entries or (), FIRST_TOKEN_ID)}

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each id, blanks and line ends made visible."""
        visible = (VISIBLE_SYMBOLS.get(name, name) for name in self.entries or ())
        return ("", UNKNOWN_SYMBOL, *visible)

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        """The ids of a text's tokens, and the distinct unknown tokens, which are left out."""
        ids = self._token_ids()
        tokens = tokenize(text.lower() if self.lower else text, self.unit)
        unknown = dict.fromkeys(token for token in tokens if token not in ids)
        return [ids[token] for token in tokens if token in ids], list(unknown)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The token of each id."""
        return [("", UNKNOWN_SYMBOL, *(self.entries or ()))[token_id] for token_id in ids]

    def state(self) -> dict[str, Any]:
        """How texts are tokenized, and the vocabulary, whose first entry has id 2."""
        settings = {"unit": self.unit, "lower": self.lower}
        return settings | (
            {"as": self.input} if self.input else {"entries": list(self.entries or ())}
        )
