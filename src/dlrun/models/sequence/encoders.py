"""Readers: what turns one input into a vector. Each function answers with what makes the module once a Field is known.

The module takes the input's column as a batch has it, tokens (B, T) int64 with 0 for padding or series (B, T, F), and
answers (B, width); `width` is an attribute of it. Tokens are read through word vectors, a series as it is.

Settings that several readers have: embedding, vectors, freeze: see `build_word_vectors`. mask: padding changes nothing;
without it, padding is read like a word, as Keras does unless it is told to mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, Probability
from dlrun.core.errors import UserError
from dlrun.core.types import Field
from dlrun.models.layers import Activation
from dlrun.models.sequence.conv1d import ConvEncoder, ConvLayers, ConvRecurrentEncoder
from dlrun.models.sequence.embeddings import OneHot, WordVectors, build_word_vectors
from dlrun.models.sequence.masking import (
    NUM_GROUPS,
    is_grouping_faster,
    move_padding_last,
    pool_steps,
    run_length_groups,
)
from dlrun.models.sequence.recurrent import Cell, DropoutRates, Recurrent
from dlrun.models.sequence.transformer import TransformerEncoder

InputEncoder = Callable[[Field], nn.Module]


class EmbeddingEncoder(nn.Module):
    """A vector for each word; they are laid side by side, or averaged or the largest taken of those that are there."""

    def __init__(self, field: Field, words: WordVectors | OneHot, ends: str) -> None:
        super().__init__()
        if ends == "flatten" and not field.shape:
            raise UserError(
                "ends=flatten needs texts of one length: say data.bucket=false, or ends=average"
            )
        self.words, self.ends, self.note = words, ends, words.note
        self.width = words.embedding_dim * (field.shape[0] if ends == "flatten" else 1)

    def forward(self, words: Tensor) -> Tensor:
        if self.ends == "flatten":
            return pool_steps(self.words(words), None, "flatten")
        packed, lengths = move_padding_last(words, 1)
        return pool_steps(self.words(packed), lengths, self.ends)


class SequenceEncoder(nn.Module):
    """An input read step by step. body: (steps (B, T, D), lengths or None) → (B, width). words: None for a series.

    reverse: the last step is read first.
    """

    def __init__(
        self, words: WordVectors | OneHot | None, body: nn.Module, mask: bool, reverse: bool = False
    ) -> None:
        super().__init__()
        self.words, self.body, self.mask, self.reverse = words, body, mask, reverse
        self.width, self.note = body.width, "" if words is None else words.note
        self.least: int = getattr(body, "least", 1)
        self.groups: int = getattr(body, "groups", NUM_GROUPS)

    def forward(self, column: Tensor) -> Tensor:
        column = column.flip(1) if self.reverse else column
        if self.words is None:
            return cast(Tensor, self.body(column))
        if self.mask:
            return run_length_groups(
                *move_padding_last(column, self.least), self.groups, self._read
            )
        if column.device.type == "cpu" and getattr(self.body, "padding_prefix_shared", False):
            return self._after_padding(column)
        missing = max(0, self.least - column.shape[1])
        return self._read(nn.functional.pad(column, (0, missing)) if missing else column)

    def _read(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        assert self.words is not None
        return cast(Tensor, self.body(self.words(words), lengths))

    def _after_padding(self, words: Tensor) -> Tensor:
        """The same as `_read`, where the state after the padding in front is the same for all rows: computed once.

        Rows are read in groups of about one length, from where the longest of the group begins.
        """
        body, steps = cast(Recurrent, self.body), words.shape[1]
        first = (words != 0).to(torch.uint8).argmax(1)
        empty = torch.where(words.any(1), first, steps - 1)  # of padding only: its last one is read
        order = empty.argsort(stable=True)
        groups = order.chunk(self.groups)
        begins = [int(empty[rows[0]]) for rows in groups]
        if not is_grouping_faster(groups, [steps - begin for begin in begins], steps):
            return self._read(words)
        answers, states, done = [], None, 0
        for rows, begin in zip(groups, begins, strict=True):
            if begin > done:
                padding = self.words(words.new_zeros(1, begin - done))  # type: ignore[misc]
                states, done = [last[0] for last in body.read(padding, None, states)[1]], begin
            begun = states and [
                tuple(part.expand(len(rows), -1) for part in state) for state in states
            ]
            answers.append(body(self.words(words[rows, begin:]), None, begun))  # type: ignore[misc]
        return torch.cat(answers)[order.argsort()]


def _build_word_vectors(
    field: Field, embedding: int, vectors: str | None, freeze: bool
) -> tuple[WordVectors | OneHot | None, int]:
    """What makes steps of an input, word vectors or, for a series, nothing, and how wide they are."""
    if field.kind == "series":
        if vectors is not None:
            raise UserError(f"vectors={vectors} are for words, and the input is a series")
        return None, field.shape[-1]
    words = build_word_vectors(field, embedding, vectors, freeze)
    return words, words.embedding_dim


def _pair_units_activations(units: Any, activation: Any) -> list[tuple[int, str]]:
    """Units and activation of each recurrent layer; one activation is that of all."""
    counts = units if isinstance(units, list) else [units]
    names = activation if isinstance(activation, list) else [activation] * len(counts)
    if len(names) != len(counts):
        raise UserError(
            f"activation={names} has {len(names)} names for {len(counts)} layers of units"
        )
    return list(zip(counts, names, strict=True))


def embedding(
    *, units: Count, ends: Literal["flatten", "average", "max"], vectors: str | None, freeze: bool
) -> InputEncoder:
    """Word vectors of `units` numbers (book §6.1). ends: how the words of a text become one vector.

    Only `flatten` knows where words stand, and reads padding like a word.
    """
    return lambda field: EmbeddingEncoder(
        field, build_word_vectors(field, units, vectors, freeze), ends
    )


def recurrent(
    *,
    cell: Cell,
    units: Count | list[Count],
    bidirectional: bool,
    reverse: bool,
    dropout: Probability,
    recurrent_dropout: Probability,
    activation: Activation | list[Activation],
    ends: Literal["last", "average", "max"],
    mask: bool,
    embedding: Count,
    vectors: str | None,
    freeze: bool,
) -> InputEncoder:
    """A recurrent net (book §6.2, §6.3); several `units` are layers on top of each other.

    reverse: the last step is read first. dropout: of each layer's inputs, recurrent_dropout: of its state, both with
    one mask a sequence. activation: other than tanh it is slow, as it is with recurrent_dropout. A layer has torch's
    two biases, one more a gate than in the book; a GRU resets after its product, which in the book's Keras came before.
    """
    drops, layers = (
        DropoutRates(dropout, recurrent_dropout),
        _pair_units_activations(units, activation),
    )

    def make(field: Field) -> nn.Module:
        words, width = _build_word_vectors(field, embedding, vectors, freeze)
        body = Recurrent(width, cell, layers, drops, bidirectional, ends)
        return SequenceEncoder(words, body, mask, reverse)

    return make


def conv1d(
    *,
    filters: list[Count],
    kernel: Count,
    pool: list[Count],
    activation: Activation,
    ends: Literal["max", "average", "flatten"],
    mask: bool,
    embedding: Count,
    vectors: str | None,
    freeze: bool,
) -> InputEncoder:
    """Convolutions over the steps, without padding at the ends (book §6.4). pool: steps after each, 1 for none.

    ends: what becomes of the steps that are left; `flatten` knows where they stand, and reads padding like a word.
    """

    def make(field: Field) -> nn.Module:
        words, width = _build_word_vectors(field, embedding, vectors, freeze)
        front = ConvLayers(width, filters, kernel, pool, activation)
        return SequenceEncoder(
            words, ConvEncoder(front, ends, field.shape), mask and ends != "flatten"
        )

    return make


def conv_gru(
    *,
    filters: list[Count],
    kernel: Count,
    pool: list[Count],
    activation: Activation,
    units: Count | list[Count],
    dropout: Probability,
    recurrent_dropout: Probability,
    mask: bool,
    embedding: Count,
    vectors: str | None,
    freeze: bool,
) -> InputEncoder:
    """Convolutions that shorten the sequence, then a GRU over what is left (book §6.4); see `conv1d`, `recurrent`."""
    drops, layers = DropoutRates(dropout, recurrent_dropout), _pair_units_activations(units, "tanh")

    def make(field: Field) -> nn.Module:
        words, width = _build_word_vectors(field, embedding, vectors, freeze)
        front = ConvLayers(width, filters, kernel, pool, activation)
        then = Recurrent(front.width, "gru", layers, drops, False, "last")
        return SequenceEncoder(words, ConvRecurrentEncoder(front, then, field.shape), mask)

    return make


def transformer(
    *,
    blocks: Count,
    heads: Count,
    dense: Count,
    dropout: Probability,
    positions: Count,
    mask: bool,
    embedding: Count,
    vectors: str | None,
    freeze: bool,
) -> InputEncoder:
    """A Transformer encoder with learnt positions, then the largest over the steps (second edition, chapter 11).

    dense: width of a block's hidden layer. positions: the longest text, where the data do not say it. A series is
    brought to `embedding` numbers a step by a linear layer.
    """

    def make(field: Field) -> nn.Module:
        words, width = _build_word_vectors(field, embedding, vectors, freeze)
        enter, inside = (
            (nn.Linear(width, embedding), embedding) if words is None else (nn.Identity(), width)
        )
        longest = field.shape[0] if field.shape else positions
        places = nn.Embedding(longest, inside)
        return SequenceEncoder(
            words, TransformerEncoder(enter, places, heads, dense, blocks, dropout), mask
        )

    return make
