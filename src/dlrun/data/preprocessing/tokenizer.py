"""Cuts texts into tokens, words, characters or sub-words, each as a number."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from dlrun.core.dataset import Ragged
from dlrun.core.errors import UserError

TokenKind = Literal["words", "characters", "subwords"]
Punctuation = Literal["strip", "blank", "keep"]

NUM_CODE_POINTS = 0x110000  # code points that there are
PUNCTUATION_TABLES: dict[str, dict[int, str | None]] = {
    "strip": dict.fromkeys(map(ord, string.punctuation)),
    "blank": {**dict.fromkeys(map(ord, string.punctuation), " "), ord("'"): "'"},
    "keep": {},
}


@dataclass
class TokenCache:
    """What has been cut already, so that no text is cut twice. The numbers of words depend on it, and nothing else."""

    token_ids: dict[str, int] = field(default_factory=lambda: _make_id_table())
    encoded_texts: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """How a text becomes tokens.

    tokens: words stand between blanks (any Unicode ones); characters are code points, blanks among them; subwords are
    pieces of words (byte-pair encoding, Sennrich et al. 2016; the tokenizers library), at most `size` different ones,
    learnt on training texts. lower: in small letters. punctuation: the 32 ASCII marks are left out (`strip`: what lower
    and this do is Keras' TextVectorization, but that it makes ASCII letters small only), or become blanks, apostrophes
    apart (`blank`: as Keras' Tokenizer does), or stay (`keep`). model: what sub-words have learnt, as JSON.
    """

    tokens: TokenKind
    lower: bool
    punctuation: Punctuation
    size: int
    model: str = ""
    cache: TokenCache = field(default_factory=TokenCache)

    @property
    def separator(self) -> str:
        """What stands between the tokens of an n-gram."""
        return "" if self.tokens == "characters" else " "

    def fit(self, texts: np.ndarray) -> Tokenizer:
        """Learn the sub-words of these texts; of words and characters there is nothing to learn."""
        if self.tokens != "subwords":
            return self
        model = _import_bpe_tokenizer().train(map(self.normalize, texts.tolist()), self.size)
        return replace(self, model=model, cache=TokenCache())

    def __call__(self, texts: np.ndarray) -> Ragged:
        """The token numbers of each text (N,), a row each; what they stand for, `names` and `numbers` know."""
        rows = texts.tolist()
        if self.tokens == "characters":
            plain = list(map(self.normalize, rows))
            points = np.frombuffer(
                "".join(plain).encode("utf-32-le", "surrogatepass"), np.uint32
            ).astype(np.int32)
            return Ragged(points, np.cumsum([0, *map(len, plain)]))
        new = [text for text in dict.fromkeys(rows) if text not in self.cache.encoded_texts]
        self.cache.encoded_texts.update(zip(new, self._tokenize(new), strict=True))
        found = [self.cache.encoded_texts[text] for text in rows]
        return Ragged(
            np.concatenate([*found, np.empty(0, np.int32)]), np.cumsum([0, *map(len, found)])
        )

    def normalize(self, text: str) -> str:
        """A text in small letters and without punctuation, as far as that is asked for."""
        text = text.lower() if self.lower else text
        return (
            text.translate(PUNCTUATION_TABLES[self.punctuation])
            if self.punctuation != "keep"
            else text
        )

    def ids_to_tokens(self, numbers: Iterable[int]) -> list[str]:
        """The tokens that these numbers stand for."""
        if self.tokens == "characters":
            return list(map(chr, numbers))
        known = list(self.cache.token_ids)
        return [known[number] for number in numbers]

    def tokens_to_ids(self, names: Sequence[str]) -> np.ndarray:
        """The number of each of these tokens; -1 for one that no text had so far."""
        if self.tokens == "characters":
            return np.array([ord(name) for name in names], np.int64)
        return np.array([self.cache.token_ids.get(name, -1) for name in names], np.int64)

    def __len__(self) -> int:
        return NUM_CODE_POINTS if self.tokens == "characters" else len(self.cache.token_ids)

    def _tokenize(self, texts: list[str]) -> Iterable[np.ndarray]:
        plain = map(self.normalize, texts)
        lists = (
            map(str.split, plain)
            if self.tokens == "words"
            else _import_bpe_tokenizer().cut(self.model, list(plain))
        )
        number = self.cache.token_ids.__getitem__
        return (np.fromiter(map(number, tokens), np.int32, len(tokens)) for tokens in lists)


def _make_id_table() -> dict[str, int]:
    """A mapping that gives every new key the next number."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    return numbers


def _import_bpe_tokenizer() -> Any:
    """The module that needs the tokenizers library. Raises UserError where that is not installed."""
    try:
        from dlrun.data.preprocessing import subword_tokenizer
    except ImportError as error:
        raise UserError(
            f"text.tokens=subwords needs the library tokenizers ({error}): pip install 'dlrun[subwords]', "
            f"or take text.tokens=words or characters"
        ) from error
    return subword_tokenizer
