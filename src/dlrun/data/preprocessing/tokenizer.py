"""Cuts texts into tokens, words, characters or sub-words, each as a number."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Ragged
from dlrun.core.errors import Refused

Tokens = Literal["words", "characters", "subwords"]
Punctuation = Literal["strip", "blank", "keep"]

CHARACTERS = 0x110000  # code points that there are
TABLES: dict[str, dict[int, str | None]] = {
    "strip": dict.fromkeys(map(ord, string.punctuation)),
    "blank": {**dict.fromkeys(map(ord, string.punctuation), " "), ord("'"): "'"},
    "keep": {},
}


@dataclass
class Seen:
    """What has been cut already, so that no text is cut twice. The numbers of words depend on it, and nothing else."""

    numbers: dict[str, int] = field(default_factory=lambda: _counting())
    texts: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Cutter:
    """How a text becomes tokens.

    tokens: words stand between blanks (any Unicode ones); characters are code points, blanks among them; subwords are
    pieces of words (byte-pair encoding, Sennrich et al. 2016; the tokenizers library), at most `size` different ones,
    learnt on training texts. lower: in small letters. punctuation: the 32 ASCII marks are left out (`strip`: what lower
    and this do is Keras' TextVectorization, but that it makes ASCII letters small only), or become blanks, apostrophes
    apart (`blank`: as Keras' Tokenizer does), or stay (`keep`). model: what sub-words have learnt, as JSON.
    """

    tokens: Tokens
    lower: bool
    punctuation: Punctuation
    size: int
    model: str = ""
    seen: Seen = field(default_factory=Seen)

    @property
    def glue(self) -> str:
        """What stands between the tokens of an n-gram."""
        return "" if self.tokens == "characters" else " "

    def fit(self, texts: np.ndarray) -> Cutter:
        """Learn the sub-words of these texts; of words and characters there is nothing to learn."""
        if self.tokens != "subwords":
            return self
        model = _subwords().train(map(self.plain, texts.tolist()), self.size)
        return replace(self, model=model, seen=Seen())

    def __call__(self, texts: np.ndarray) -> Ragged:
        """The token numbers of each text (N,), a row each; what they stand for, `names` and `numbers` know."""
        rows = texts.tolist()
        if self.tokens == "characters":
            plain = list(map(self.plain, rows))
            points = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int32)
            return Ragged(points, np.cumsum([0, *map(len, plain)]))
        new = [text for text in dict.fromkeys(rows) if text not in self.seen.texts]
        self.seen.texts.update(zip(new, self._cut(new), strict=True))
        found = [self.seen.texts[text] for text in rows]
        return Ragged(np.concatenate([*found, np.empty(0, np.int32)]), np.cumsum([0, *map(len, found)]))

    def plain(self, text: str) -> str:
        """A text in small letters and without punctuation, as far as that is asked for."""
        text = text.lower() if self.lower else text
        return text.translate(TABLES[self.punctuation]) if self.punctuation != "keep" else text

    def names(self, numbers: Iterable[int]) -> list[str]:
        """The tokens that these numbers stand for."""
        if self.tokens == "characters":
            return list(map(chr, numbers))
        known = list(self.seen.numbers)
        return [known[number] for number in numbers]

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """The number of each of these tokens; -1 for one that no text had so far."""
        if self.tokens == "characters":
            return np.array([ord(name) for name in names], np.int64)
        return np.array([self.seen.numbers.get(name, -1) for name in names], np.int64)

    def __len__(self) -> int:
        return CHARACTERS if self.tokens == "characters" else len(self.seen.numbers)

    def _cut(self, texts: list[str]) -> Iterable[np.ndarray]:
        plain = map(self.plain, texts)
        lists = map(str.split, plain) if self.tokens == "words" else _subwords().cut(self.model, list(plain))
        number = self.seen.numbers.__getitem__
        return (np.fromiter(map(number, tokens), np.int32, len(tokens)) for tokens in lists)


def _counting() -> dict[str, int]:
    """A mapping that gives every new key the next number."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    return numbers


def _subwords() -> Any:
    """The module that needs the tokenizers library. Raises Refused where that is not installed."""
    try:
        from dlrun.data.preprocessing import subword_tokenizer
    except ImportError as error:
        raise Refused(
            f"text.tokens=subwords needs the library tokenizers ({error}): pip install 'dlrun[subwords]', "
            f"or take text.tokens=words or characters"
        ) from error
    return subword_tokenizer
