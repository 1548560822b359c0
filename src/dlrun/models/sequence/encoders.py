"""Encoders: each function here returns what makes a module from one input to a vector.

The module takes the input's column as a batch has it, tokens (B, T) int64 with 0 for padding or
series (B, T, F), and returns (B, width); `width` is an attribute of it. Tokens are read through
word vectors, a series as it is.

Arguments that several encoders have: `embedding`, `vectors` and `freeze`, see `build_word_vectors`;
`mask`: padding has no influence. Without it, padding is read like a word, as Keras does by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, Probability
from dlrun.core.errors import UserError
from dlrun.core.types import Field
from dlrun.models.layers import Activation
from dlrun.models.sequence.conv1d import ConvEncoder, ConvLayers, ConvRecurrentEncoder
from dlrun.models.sequence.embeddings import OneHot, WordVectors, build_word_vectors
from dlrun.models.sequence.masking import (
    SequenceBody,
    is_grouping_faster,
    move_padding_last,
    pool_steps,
    run_length_groups,
)
from dlrun.models.sequence.recurrent import Cell, DropoutRates, Recurrent
from dlrun.models.sequence.transformer import TransformerEncoder

InputEncoder = Callable[[Field], nn.Module]


class EmbeddingEncoder(nn.Module):
    """A vector for each word; they are concatenated, or their mean or maximum is taken.

    Attributes:
        words: Word number → vector.
        ends: flatten, average or max.
        note: How many words a file of vectors has.
        width: Of the output.
    """

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
    """An input that is read step by step.

    Attributes:
        words: Word number → vector; None for a series.
        body: (steps (B, T, D), lengths or None) → (B, width).
        mask: Whether padding has no influence.
        reverse: Whether the last step is read first.
        width: Of the output.
        note: How many words a file of vectors has.
        least: How many steps the body needs.
        groups: Into how many groups of like length a batch is cut.
    """

    def __init__(
        self,
        words: WordVectors | OneHot | None,
        body: SequenceBody,
        mask: bool,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.words, self.body, self.mask, self.reverse = words, body, mask, reverse
        self.width, self.note = body.width, "" if words is None else words.note
        self.least, self.groups = body.least, body.groups

    def forward(self, column: Tensor) -> Tensor:
        column = column.flip(1) if self.reverse else column
        if self.words is None:
            return cast(Tensor, self.body(column))
        if self.mask:
            return run_length_groups(
                *move_padding_last(column, self.least), self.groups, self._read
            )
        # on a GPU one large batch is faster than several smaller ones
        if column.device.type == "cpu" and self.body.padding_prefix_shared:
            return self._after_padding(column)
        missing = max(0, self.least - column.shape[1])
        return self._read(nn.functional.pad(column, (0, missing)) if missing else column)

    def _read(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        assert self.words is not None
        return cast(Tensor, self.body(self.words(words), lengths))

    def _after_padding(self, words: Tensor) -> Tensor:
        """Return the same as `_read`, computing the state after leading padding once for all rows.

        Rows are read in groups of like length, from where the longest row of the group begins.
        """
        body, steps = cast(Recurrent, self.body), words.shape[1]
        first = (words != 0).to(torch.uint8).argmax(1)
        # of a row of padding only, the last step is read
        begins = torch.where(words.any(1), first, steps - 1)
        order = begins.argsort(stable=True)
        groups = order.chunk(self.groups)
        group_begins = [int(begins[rows[0]]) for rows in groups]
        if not is_grouping_faster(groups, [steps - begin for begin in group_begins], steps):
            return self._read(words)
        outputs, states, done = [], None, 0
        for rows, begin in zip(groups, group_begins, strict=True):
            if begin > done:
                padding = self.words(words.new_zeros(1, begin - done))  # type: ignore[misc]
                _, last_states = body.read(padding, None, states)
                # one direction only, see `padding_prefix_shared`
                states, done = [directions[0] for directions in last_states], begin
            initial = states and [
                tuple(tensor.expand(len(rows), -1) for tensor in state) for state in states
            ]
            steps_read = self.words(words[rows, begin:])  # type: ignore[misc]
            outputs.append(body(steps_read, None, initial))
        return torch.cat(outputs)[order.argsort()]


def _build_word_vectors(
    field: Field, embedding: int, vectors: str | None, freeze: bool
) -> tuple[WordVectors | OneHot | None, int]:
    """Return the word vectors of an input, None for a series, and the width of a step."""
    if field.kind == "series":
        if vectors is not None:
            raise UserError(f"vectors={vectors} are for words, and the input is a series")
        return None, field.shape[-1]
    words = build_word_vectors(field, embedding, vectors, freeze)
    return words, words.embedding_dim


def _pair_units_activations(units: Any, activation: Any) -> list[tuple[int, str]]:
    """Return units and activation of each recurrent layer; one activation is that of all."""
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
    """Word vectors, and one vector of them (book §6.1).

    Args:
        units: Width of a vector.
        ends: flatten, average or max. Only flatten keeps positions, and reads padding like a word.
        vectors: A file of vectors, see `build_word_vectors`.
        freeze: Whether they are kept as they are.
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
    """A recurrent net (book §6.2, §6.3).

    A layer has torch's two biases, one more a gate than in the book; a GRU resets after its
    product, which in the book's Keras came before.

    Args:
        cell: rnn, lstm or gru.
        units: Of each layer; several are stacked.
        bidirectional: Whether each layer reads in both directions.
        reverse: Whether the last step is read first.
        dropout: Of each layer's inputs, with one mask a sequence.
        recurrent_dropout: Of each layer's state, with one mask a sequence; slow.
        activation: Of each layer; other than tanh it is slow.
        ends: last (the last state), average or max over the steps.
        mask: Whether padding has no influence.
        embedding: Width of a word's vector.
        vectors: A file of vectors, see `build_word_vectors`.
        freeze: Whether they are kept as they are.
    """
    drops = DropoutRates(dropout, recurrent_dropout)
    layers = _pair_units_activations(units, activation)

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
    """Convolutions over the steps, without padding at the ends (book §6.4).

    Args:
        filters: Of each convolution.
        kernel: Steps of a kernel.
        pool: Steps that are pooled after each convolution; 1 for none.
        activation: After each.
        ends: max, average or flatten of the steps that are left. Only flatten keeps positions, and
            reads padding like a word.
        mask: Whether padding has no influence.
        embedding: Width of a word's vector.
        vectors: A file of vectors, see `build_word_vectors`.
        freeze: Whether they are kept as they are.
    """

    def make(field: Field) -> nn.Module:
        words, width = _build_word_vectors(field, embedding, vectors, freeze)
        front = ConvLayers(width, filters, kernel, pool, activation)
        # positions are kept by flatten, so padding cannot be moved to the end
        masks = mask and ends != "flatten"
        return SequenceEncoder(words, ConvEncoder(front, ends, field.shape), masks)

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
    """Convolutions that shorten a sequence, then a GRU (book §6.4); see `conv1d`, `recurrent`."""
    drops, layers = DropoutRates(dropout, recurrent_dropout), _pair_units_activations(units, "tanh")

    def make(field: Field) -> nn.Module:
        words, width = _build_word_vectors(field, embedding, vectors, freeze)
        front = ConvLayers(width, filters, kernel, pool, activation)
        recurrent_net = Recurrent(front.width, "gru", layers, drops, False, "last")
        return SequenceEncoder(words, ConvRecurrentEncoder(front, recurrent_net, field.shape), mask)

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
    """A Transformer encoder with learned positions, then the maximum over the steps.

    Second edition, chapter 11.

    Args:
        blocks: Number of blocks.
        heads: Attention heads of a block.
        dense: Width of a block's hidden layer.
        dropout: In each block.
        positions: Length of the longest text, where the data do not tell it.
        mask: Whether padding has no influence.
        embedding: Width of a word's vector; the steps of a series are projected to it.
        vectors: A file of vectors, see `build_word_vectors`.
        freeze: Whether they are kept as they are.
    """

    def make(field: Field) -> nn.Module:
        words, width = _build_word_vectors(field, embedding, vectors, freeze)
        enter: nn.Module = nn.Identity()
        if words is None:
            enter, width = nn.Linear(width, embedding), embedding
        longest = field.shape[0] if field.shape else positions
        body = TransformerEncoder(
            enter, nn.Embedding(longest, width), heads, dense, blocks, dropout
        )
        return SequenceEncoder(words, body, mask)

    return make
