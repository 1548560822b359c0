"""Language models: at each place of a text, how likely each token is to come next."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn

from dlrun.config.constraints import Count, Probability
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec
from dlrun.models.layers import Init, initialize_weights
from dlrun.models.model import Model, TokenReader
from dlrun.models.sequence.recurrent import Cell, DropoutRates, Recurrent, State


class RecurrentLanguageModel(Model):
    """A vector for each token, recurrent layers, and from each of their states the logits of the next token."""

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
        """Logits (B, size) of what comes after these tokens (B, T), and the states that the next ones go on from."""
        logits, states = self._read(tokens, states)
        return logits[:, -1], states

    def _read(self, tokens: Tensor, states: list[State] | None) -> tuple[Tensor, list[State]]:
        (steps,), last = self.body.read(self.dropout(self.embedding(tokens)), None, states)
        return self.head(self.dropout(steps.transpose(0, 1))), [state for (state,) in last]


class CausalLanguageModel(Model):
    """A Transformer in which no place sees a later one; norms stand before attention and dense layers (GPT-2, 2019)."""

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
        self.embedding, self.positions = (
            nn.Embedding(field.size, embedding),
            nn.Embedding(self.length, embedding),
        )
        self.dropout, self.blocks = nn.Dropout(dropout), blocks
        self.norm, self.head = nn.LayerNorm(embedding), nn.Linear(embedding, field.size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens (B, T), T at most `length` → logits (B, T, size)."""
        tokens = batch[self.input]
        steps = tokens.shape[1]
        x = self.dropout(self.embedding(tokens) + self.positions.weight[:steps])
        later = nn.Transformer.generate_square_subsequent_mask(
            steps, device=x.device, dtype=x.dtype
        )
        for block in self.blocks:
            x = block(x, src_mask=later, is_causal=True)
        return {self.target: self.head(self.norm(x))}


def language_lstm(
    spec: Spec, *, units: Count | list[Count], embedding: Count, dropout: Probability, init: Init
) -> nn.Module:
    """An LSTM that answers at each place (Graves 2013). dropout: of vectors and of what the last layer says."""
    return _build_recurrent(spec, "lstm", units, (embedding, dropout, init))


def language_gru(
    spec: Spec, *, units: Count | list[Count], embedding: Count, dropout: Probability, init: Init
) -> nn.Module:
    """The same of gated recurrent units (Cho 2014)."""
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
    """A small GPT: learnt positions, as many as a window has tokens. dense: width of a block's hidden layer."""
    if embedding % heads:
        raise UserError(
            f"vectors of model.embedding={embedding} numbers cannot be shared out to model.heads={heads}"
        )
    names, field = get_text_field(spec, "language_transformer")
    made: Any = {"activation": activation, "batch_first": True, "norm_first": True}
    layers = [
        nn.TransformerEncoderLayer(embedding, heads, dense, dropout, **made) for _ in range(blocks)
    ]
    model = CausalLanguageModel(names, field, embedding, nn.ModuleList(layers), dropout)
    initialize_weights(model, init)
    if init == "torch":
        for table in (model.embedding, model.positions):
            nn.init.normal_(cast(nn.Embedding, table).weight, std=0.02)
    return model


def get_text_field(
    spec: Spec, model: str, kinds: tuple[str, ...] = ("tokens",)
) -> tuple[tuple[str, str], Field]:
    """The names of the one input and the one target, and the input's field. Raises UserError for other data."""
    (name, field), *others = spec.inputs.items()
    (target, answer), *more = spec.targets.items()
    if others or more or field.kind != "tokens" or answer.kind not in kinds or not field.shape:
        there = ", ".join(
            f"{key} ({each.kind})" for key, each in (spec.inputs | spec.targets).items()
        )
        raise UserError(
            f"model={model} reads one text and says what comes next in it, and these data have {there}"
        )
    return (name, target), field
