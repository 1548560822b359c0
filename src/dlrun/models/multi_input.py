"""A model of several inputs: each is encoded to a vector, and the vectors are combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, EncoderPart, NonNegative, Probability
from dlrun.config.compatibility import SEQUENCE_KINDS, find_encoder_errors
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec
from dlrun.models.dense import DenseModel, build_dense
from dlrun.models.layers import (
    Activation,
    Init,
    InputProjection,
    SafeModuleDict,
    initialize_weights,
)
from dlrun.models.model import Model

MERGED_INPUT = "together"  # name of the one input of the tail, where vectors are merged before it


class MergeLayer(nn.Module):
    """Merges vectors into one: their sum, or their mean with learned weights (attention).

    Vectors that are not as wide as the widest are projected to its width by a linear layer, and all
    inputs without an encoder by one layer together. Returns (B, width).

    Attributes:
        names: Inputs that are vectors.
        width: Of the result.
        projections: Input → linear layer, for narrower vectors.
        rest: Linear layer over the other inputs; None where there are none.
        score: From a vector to its attention score; None for a sum.
    """

    def __init__(self, inputs: Mapping[str, Field], read: list[str], attention: bool) -> None:
        super().__init__()
        widths = {name: inputs[name].num_outputs for name in read}
        unread = {name: field for name, field in inputs.items() if name not in widths}
        self.names, self.width = read, max(widths.values())
        narrow = {
            name: nn.Linear(width, self.width)
            for name, width in widths.items()
            if width != self.width
        }
        self.projections = SafeModuleDict(narrow)
        self.rest = InputProjection(unread, self.width) if unread else None
        self.score = nn.Linear(self.width, 1, bias=False) if attention else None

    def forward(self, batch: Batch) -> Tensor:
        vectors = {name: batch[name] for name in self.names}
        vectors |= {name: layer(batch[name]) for name, layer in self.projections.items()}
        unread = [] if self.rest is None else [self.rest(batch)]
        stacked = torch.stack([*vectors.values(), *unread], 1)
        if self.score is None:
            # stacked is (B, vectors, width)
            return stacked.sum(1)
        # the scores (B, vectors, 1) are weights that add up to 1
        return (self.score(stacked).softmax(1) * stacked).sum(1)


class MultiInputModel(Model):
    """An encoder for each text, series or image, and a dense tail over all inputs.

    Attributes:
        readers: Name → module from a column (B, …) to vectors (B, width).
        read_by: Input → name of its encoder; several inputs may share one.
        dropout: Of the vectors.
        combiner: Merges the vectors; None where they are concatenated in the tail.
        tail: Dense layers over the vectors and all other inputs.
    """

    def __init__(
        self,
        readers: nn.ModuleDict,
        read_by: dict[str, str],
        dropout: nn.Module,
        combiner: MergeLayer | None,
        tail: DenseModel,
    ) -> None:
        super().__init__()
        # Called so in the weights of earlier versions.
        self.readers, self.read_by = readers, read_by
        self.dropout, self.combiner, self.tail = dropout, combiner, tail
        self.note = ""  # what the encoders found in files of word vectors

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        encoded = {
            name: self.dropout(self.readers[encoder](batch[name]))
            for name, encoder in self.read_by.items()
        }
        # a vector takes the place of the column that it was made of
        columns = {**batch, **encoded}
        joined = columns if self.combiner is None else {MERGED_INPUT: self.combiner(columns)}
        return cast(dict[str, Tensor], self.tail(joined))

    def penalty(self) -> Tensor | None:
        """Return the penalty on the hidden kernels of the tail; encoders have none."""
        return self.tail.penalty()


def combined(
    spec: Spec,
    *,
    encoder: EncoderPart,
    encoders: dict[str, EncoderPart],
    share: list[list[str]],
    combine: Literal["concat", "add", "attention"],
    dense: list[Count],
    activation: Activation,
    dropout: Probability,
    l1: NonNegative,
    l2: NonNegative,
    init: Init,
) -> nn.Module:
    """An encoder for each text and series, then a dense tail.

    Args:
        spec: Inputs and targets.
        encoder: Encoder of every text and series that `encoders` does not name.
        encoders: Input → its encoder.
        share: Groups of inputs that share one encoder, with one set of weights (book §7.1.5).
        combine: concat (with all other inputs), add, or attention (a mean with learned weights).
        dense: Hidden layers of the tail, see `dense`.
        activation: Of the tail.
        dropout: Of the encoders' outputs.
        l1: Strength of the L1 penalty on hidden kernels of the tail.
        l2: Strength of the L2 penalty on hidden kernels of the tail.
        init: Whose starting weights.

    Raises:
        UserError: A name is not an input, or inputs that differ share an encoder.
    """
    _check_names(spec, encoders, share)
    read_by = assign_encoders(spec, encoders, share)
    builders = {**dict.fromkeys(read_by.values(), encoder), **encoders}
    modules = {
        name: build_input_encoder(name, builders[name], spec.inputs[name])
        for name in dict.fromkeys(read_by.values())
    }
    vectors = {
        name: Field("number", (cast(int, modules[owner].width),)) for name, owner in read_by.items()
    }
    inputs: dict[str, Field] = {**spec.inputs, **vectors}
    combiner = None
    if combine != "concat" and vectors:
        combiner = MergeLayer(inputs, list(vectors), combine == "attention")
        # the tail reads the merged vector alone
        inputs = {MERGED_INPUT: Field("number", (combiner.width,))}
    tail = DenseModel(*build_dense(spec, inputs, dense, 0, (activation, 0.0, False)), l1, l2)
    model = MultiInputModel(SafeModuleDict(modules), read_by, nn.Dropout(dropout), combiner, tail)
    initialize_weights(model, init)
    # an image encoder has no note: it reads no file
    notes = [getattr(module, "note", "") for module in modules.values()]
    model.note = "; ".join(filter(None, notes))
    return model


def _check_names(spec: Spec, encoders: Mapping[str, Any], share: list[list[str]]) -> None:
    kinds = {name: field.kind for name, field in spec.inputs.items()}
    names: dict[str, Any] = dict.fromkeys(encoders, "")
    for error in find_encoder_errors(names, share, kinds):  # type: ignore[arg-type]
        raise UserError(error)


def build_input_encoder(
    name: str, encoder: Callable[[Field], nn.Module], field: Field
) -> nn.Module:
    """Return the module that encodes an input.

    Args:
        name: Name of the input.
        encoder: Makes the module of a field.
        field: The input.

    Raises:
        UserError: The encoder cannot read it; the message names the input.
    """
    try:
        return encoder(field)
    except UserError as error:
        raise UserError(f"input '{name}': {error}") from error


def assign_encoders(
    spec: Spec, encoders: Mapping[str, Any], share: list[list[str]]
) -> dict[str, str]:
    """Return input → name of its encoder: its own name, or that of a member of its group.

    Args:
        spec: The inputs.
        encoders: Input → its encoder.
        share: Groups of inputs that share an encoder, the one that `encoders` names for a member.

    Raises:
        UserError: Two encoders are named for a group, or its members differ.
    """
    encoded = [
        name
        for name, field in spec.inputs.items()
        if field.kind in SEQUENCE_KINDS or name in encoders
    ]
    owners = {name: name for name in encoded}
    for group in share:
        named = [name for name in group if name in encoders]
        if len(named) > 1:
            raise UserError(
                f"model.share: {' and '.join(named)} share one encoder, but model.encoders names "
                "one for each"
            )
        # the encoder has this name in checkpoints
        owner = (named or group)[0]
        for name in group:
            check_compatible(spec, owner, name)
            owners[name] = owner
    return {name: owners[name] for name in spec.inputs if name in owners}


def check_compatible(spec: Spec, name: str, shared_name: str) -> None:
    """Check that one encoder can read both of two inputs.

    Args:
        spec: The inputs.
        name: Of the first one.
        shared_name: Of the second one.

    Raises:
        UserError: They differ in kind or shape, or number their words differently.
    """
    first, second = spec.inputs[name], spec.inputs[shared_name]
    differing = {
        "kind": f"{first.kind} and {second.kind}",
        "shape": f"shapes {first.shape} and {second.shape}",
        "size": f"{first.size} and {second.size} different words",
        "labels": "their words have different numbers",
    }
    for attribute, reason in differing.items():
        if getattr(first, attribute) != getattr(second, attribute):
            hint = ""
            if first.kind == "tokens":
                hint = "; texts learn their words together with data.share_words=true"
            raise UserError(
                f"model.share: {name} and {shared_name} are not alike ({reason}): one encoder "
                f"cannot read both{hint}"
            )
