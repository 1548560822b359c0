"""Splits texts into words, characters or sub-words, each as an id."""

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

NUM_CODE_POINTS = 0x110000  # of Unicode
PUNCTUATION_TABLES: dict[str, dict[int, str | None]] = {
    "strip": dict.fromkeys(map(ord, string.punctuation)),
    "blank": {**dict.fromkeys(map(ord, string.punctuation), " "), ord("'"): "'"},
    "keep": {},
}


@dataclass
class TokenCache:
    """What has been tokenized already, so that no text is tokenized twice.

    Attributes:
        token_ids: The id of each token, in the order of their first appearance.
        encoded_texts: The ids of each text.
    """

    token_ids: dict[str, int] = field(default_factory=lambda: _make_id_table())
    encoded_texts: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """How a text becomes tokens.

    Attributes:
        tokens: "words" stand between blanks (any of Unicode's); "characters" are code points,
            blanks among them; "subwords" are byte-pair encoded (Sennrich et al. 2016).
        lower: Whether texts are lowercased.
        punctuation: What becomes of the 32 ASCII marks. "strip" leaves them out, which with `lower`
            is Keras' TextVectorization, but that it lowercases ASCII letters only; "blank" makes
            them blanks, apostrophes apart, as Keras' Tokenizer does; "keep" leaves them.
        size: At most so many sub-words are trained.
        model: The trained sub-word tokenizer, as JSON.
        cache: What has been tokenized already.
    """

    tokens: TokenKind
    lower: bool
    punctuation: Punctuation
    size: int
    model: str = ""
    cache: TokenCache = field(default_factory=TokenCache)

    @property
    def separator(self) -> str:
        """The separator between the tokens of an n-gram."""
        return "" if self.tokens == "characters" else " "

    def fit(self, texts: np.ndarray) -> Tokenizer:
        """Train the sub-words on these texts; words and characters need no training."""
        if self.tokens != "subwords":
            return self
        model = _import_bpe_tokenizer().train_bpe(map(self.normalize, texts.tolist()), self.size)
        # A new model gives other ids: what was cached is void.
        return replace(self, model=model, cache=TokenCache())

    def __call__(self, texts: np.ndarray) -> Ragged:
        """Tokenize texts (N,).

        Returns:
            The token ids of each text, one row a text; see `ids_to_tokens`.
        """
        rows = texts.tolist()
        if self.tokens == "characters":
            normalized = list(map(self.normalize, rows))
            # All texts at once: their code points are the ids.
            joined = "".join(normalized).encode("utf-32-le", "surrogatepass")
            points = np.frombuffer(joined, np.uint32).astype(np.int32)
            return Ragged(points, np.cumsum([0, *map(len, normalized)]))
        # Folds and evaluations tokenize the same texts again and again.
        new = [text for text in dict.fromkeys(rows) if text not in self.cache.encoded_texts]
        self.cache.encoded_texts.update(zip(new, self._tokenize(new), strict=True))
        encoded = [self.cache.encoded_texts[text] for text in rows]
        values = np.concatenate([*encoded, np.empty(0, np.int32)])
        return Ragged(values, np.cumsum([0, *map(len, encoded)]))

    def normalize(self, text: str) -> str:
        """A text lowercased and without punctuation, as far as that is set."""
        text = text.lower() if self.lower else text
        if self.punctuation == "keep":
            return text
        return text.translate(PUNCTUATION_TABLES[self.punctuation])

    def ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id."""
        if self.tokens == "characters":
            return list(map(chr, ids))
        names = list(self.cache.token_ids)
        return [names[token_id] for token_id in ids]

    def tokens_to_ids(self, names: Sequence[str]) -> np.ndarray:
        """The id of each token; -1 for one that no text had so far."""
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
            else _import_bpe_tokenizer().tokenize_bpe(self.model, list(plain))
        )
        number = self.cache.token_ids.__getitem__
        return (np.fromiter(map(number, tokens), np.int32, len(tokens)) for tokens in lists)


def _make_id_table() -> dict[str, int]:
    """A mapping that gives every new key the next id."""
    ids: defaultdict[str, int] = defaultdict()
    # Looking a token up is what gives it an id.
    ids.default_factory = ids.__len__
    return ids


def _import_bpe_tokenizer() -> Any:
    """The module that needs the tokenizers library, which may not be installed."""
    try:
        from dlrun.data.preprocessing import subword_tokenizer
    except ImportError as error:
        raise UserError(
            f"text.tokens=subwords needs the library tokenizers ({error}): "
            "pip install 'dlrun[subwords]', or take text.tokens=words or characters"
        ) from error
    return subword_tokenizer
