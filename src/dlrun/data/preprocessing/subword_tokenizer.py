"""Sub-words by byte-pair encoding (Sennrich et al. 2016), with the tokenizers library: the extra dlrun[subwords]."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

UNKNOWN_TOKEN = "[UNK]"


def train_bpe(texts: Iterable[str], size: int) -> str:
    """Learn at most `size` pieces, characters and what often stands together; answers with them as JSON.

    A piece that begins a word begins with ▁, for a blank.
    """
    made = Tokenizer(models.BPE(unk_token=UNKNOWN_TOKEN))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[UNKNOWN_TOKEN], show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    text: str = made.to_str()
    return text


def tokenize_bpe(model: str, texts: list[str]) -> list[list[str]]:
    """The pieces of each text; a character that training texts lack is [UNK]. Every different word is cut once."""
    rows = [text.split() for text in texts]
    words = list(dict.fromkeys(chain.from_iterable(rows)))
    pieces = {
        word: found.tokens
        for word, found in zip(words, Tokenizer.from_str(model).encode_batch(words), strict=True)
    }
    return [list(chain.from_iterable(map(pieces.__getitem__, row))) for row in rows]
