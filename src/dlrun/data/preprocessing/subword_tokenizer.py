"""Byte-pair encoding (Sennrich et al. 2016) with the tokenizers library: extra dlrun[subwords]."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

UNKNOWN_TOKEN = "[UNK]"


def train_bpe(texts: Iterable[str], size: int) -> str:
    """Train a tokenizer of at most `size` pieces: characters, and what often stands together.

    A piece that begins a word begins with ▁.

    Returns:
        The tokenizer as JSON.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN_TOKEN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[UNKNOWN_TOKEN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    model: str = tokenizer.to_str()
    return model


def tokenize_bpe(model: str, texts: list[str]) -> list[list[str]]:
    """The pieces of each text; a character that training texts lack is [UNK]."""
    rows = [text.split() for text in texts]
    # Texts repeat their words: every distinct word is encoded once.
    words = list(dict.fromkeys(chain.from_iterable(rows)))
    encodings = Tokenizer.from_str(model).encode_batch(words)
    pieces = {word: code.tokens for word, code in zip(words, encodings, strict=True)}
    return [list(chain.from_iterable(map(pieces.__getitem__, row))) for row in rows]
