"""Language models: the probabilities of the next token at each position, and how one is drawn."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, Probability
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec
from dlrun.models.layers import Init, initialize_weights
from dlrun.models.model import Model, TokenReader
from dlrun.models.sequence.recurrent import Cell, DropoutRates, Recurrent, State


class RecurrentLanguageModel(Model):
    """Token vectors, recurrent layers, and from each state the logits of the next token.

    Attributes:
        input: Name of the text.
        target: Name of the target.
        embedding: Token → vector.
        body: The recurrent layers.
        dropout: Of vectors and of the last layer's states.
        head: From a state to logits.
    """

    def __init__(
        self, names: tuple[str, str], size: int, embedding: int, body: Recurrent, dropout: float
    ) -> None:
        super().__init__()
        self.input, self.target = names
        self.embedding, self.body = nn.Embedding(size, embedding), body
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(body.width, size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens (B, T) → logits (B, T, size)."""
        return {self.target: self._read(batch[self.input], None)[0]}

    def token_reader(self) -> TokenReader:
        return self.read_tokens

    def read_tokens(
        self, tokens: Tensor, states: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """Return the logits of the next token, and the states after reading.

        Args:
            tokens: (B, T).
            states: Of each layer, from which reading goes on; None at the beginning of a text.

        Returns:
            Logits (B, size), and the states.
        """
        logits, states = self._read(tokens, states)
        return logits[:, -1], states

    def _read(self, tokens: Tensor, states: list[State] | None) -> tuple[Tensor, list[State]]:
        (steps,), last_states = self.body.read(self.dropout(self.embedding(tokens)), None, states)
        # steps are (T, B, units); logits are (B, T, size)
        return self.head(self.dropout(steps.transpose(0, 1))), [state for (state,) in last_states]


class CausalLanguageModel(Model):
    """A Transformer whose positions see earlier ones only, norms before each part (GPT-2, 2019).

    Attributes:
        input: Name of the text.
        target: Name of the target.
        length: Number of positions, that of a window.
        embedding: Token → vector.
        positions: Position → vector.
        dropout: Of the sum of both.
        blocks: Attention and dense layers.
        norm: After the last block.
        head: From a vector to logits.
    """

    def __init__(
        self,
        names: tuple[str, str],
        field: Field,
        embedding: int,
        blocks: nn.ModuleList,
        dropout: float,
    ) -> None:
        super().__init__()
        self.input, self.target = names
        self.length = field.shape[0]
        self.embedding = nn.Embedding(field.size, embedding)
        self.positions = nn.Embedding(self.length, embedding)
        self.dropout, self.blocks = nn.Dropout(dropout), blocks
        self.norm, self.head = nn.LayerNorm(embedding), nn.Linear(embedding, field.size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens (B, T), T at most `length` → logits (B, T, size)."""
        tokens = batch[self.input]
        steps = tokens.shape[1]
        hidden = self.dropout(self.embedding(tokens) + self.positions.weight[:steps])
        causal_mask = nn.Transformer.generate_square_subsequent_mask(
            steps, device=hidden.device, dtype=hidden.dtype
        )
        for block in self.blocks:
            hidden = block(hidden, src_mask=causal_mask, is_causal=True)
        return {self.target: self.head(self.norm(hidden))}


def language_lstm(
    spec: Spec, *, units: Count | list[Count], embedding: Count, dropout: Probability, init: Init
) -> nn.Module:
    """An LSTM that predicts the next token at each position (Graves 2013).

    Args:
        spec: One text, and its next tokens.
        units: Of the recurrent layers.
        embedding: Width of a token's vector.
        dropout: Of the vectors and of the last layer's states.
        init: Whose starting weights.

    Raises:
        UserError: The data are no text.
    """
    return _build_recurrent(spec, "lstm", units, (embedding, dropout, init))


def language_gru(
    spec: Spec, *, units: Count | list[Count], embedding: Count, dropout: Probability, init: Init
) -> nn.Module:
    """The same with gated recurrent units (Cho 2014); arguments: see `language_lstm`."""
    return _build_recurrent(spec, "gru", units, (embedding, dropout, init))


def _build_recurrent(
    spec: Spec, cell: Cell, units: Any, style: tuple[int, float, Init]
) -> nn.Module:
    embedding, dropout, init = style
    layers = [(count, "tanh") for count in (units if isinstance(units, list) else [units])]
    names, field = get_text_field(spec, f"language_{cell}")
    body = Recurrent(embedding, cell, layers, DropoutRates(), False, "last")
    model = RecurrentLanguageModel(names, field.size, embedding, body, dropout)
    initialize_weights(model, init)
    return model


def language_transformer(
    spec: Spec,
    *,
    embedding: Count,
    blocks: Count,
    heads: Count,
    dense: Count,
    dropout: Probability,
    activation: Literal["gelu", "relu"],
    init: Init,
) -> nn.Module:
    """A small GPT with learned positions, as many as a window has tokens.

    Args:
        spec: One text, and its next tokens.
        embedding: Width of a token's vector.
        blocks: Number of blocks.
        heads: Attention heads of a block; they share its width.
        dense: Width of a block's hidden layer.
        dropout: In each block, and of the vectors.
        activation: Of a block's hidden layer.
        init: Whose starting weights.

    Raises:
        UserError: The data are no text, or the heads cannot share the width.
    """
    if embedding % heads:
        raise UserError(
            f"vectors of model.embedding={embedding} numbers cannot be shared out to "
            f"model.heads={heads}"
        )
    names, field = get_text_field(spec, "language_transformer")
    options: Any = {"activation": activation, "batch_first": True, "norm_first": True}
    layers = [
        nn.TransformerEncoderLayer(embedding, heads, dense, dropout, **options)
        for _ in range(blocks)
    ]
    model = CausalLanguageModel(names, field, embedding, nn.ModuleList(layers), dropout)
    initialize_weights(model, init)
    if init == "torch":
        for table in (model.embedding, model.positions):
            # as in GPT-2
            nn.init.normal_(cast(nn.Embedding, table).weight, std=0.02)
    return model


def get_text_field(
    spec: Spec, model: str, kinds: tuple[str, ...] = ("tokens",)
) -> tuple[tuple[str, str], Field]:
    """Return the names of the one input and the one target, and the input's field.

    Args:
        spec: One text, and its next tokens.
        model: Name of the model, for messages.
        kinds: What the target may be.

    Raises:
        UserError: The data are no text.
    """
    (name, field), *more_inputs = spec.inputs.items()
    (target, target_field), *more_targets = spec.targets.items()
    if (
        more_inputs
        or more_targets
        or field.kind != "tokens"
        or target_field.kind not in kinds
        or not field.shape
    ):
        listed = ", ".join(
            f"{key} ({column.kind})" for key, column in (spec.inputs | spec.targets).items()
        )
        raise UserError(
            f"model={model} reads one text and says what comes next in it, and these data have "
            f"{listed}"
        )
    return (name, target), field


NUM_SPECIAL_TOKENS = 2  # padding and the unknown token, which are never generated


def token_probabilities(
    logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Return how likely each token is to be drawn: logits / temperature, renormalized (book §8.1).

    Args:
        logits: Of each token (size,).
        temperature: 0 always draws the most likely token.
        top_k: Only so many of the most likely tokens may be drawn.
        top_p: Only the most likely tokens that together have this probability may be drawn, the
            most likely one in any case (Holtzman et al. 2020).

    Returns:
        Probabilities (size,), double precision.
    """
    # double precision: a low temperature makes large exponents
    logits = logits.double().clone()
    logits[:NUM_SPECIAL_TOKENS] = -torch.inf
    if temperature == 0:
        # dividing by 0 is not possible, but its limit is the most likely token
        top_k, temperature = 1, 1.0
    probabilities = (logits / temperature).softmax(-1)
    if top_k is None and top_p is None:
        return probabilities
    # stable: of equally likely tokens the first one wins on every device
    ranked, order = probabilities.sort(descending=True, stable=True)
    allowed = torch.ones_like(ranked, dtype=torch.bool)
    if top_k is not None:
        allowed[top_k:] = False
    if top_p is not None:
        # what comes before a token must be below the limit, so that the limit is reached
        allowed &= ranked.cumsum(0) - ranked < top_p
        allowed[0] = True
    chosen = torch.zeros_like(probabilities).scatter(0, order, ranked * allowed)
    return chosen / chosen.sum()
