"""A model of several inputs: each is read to a vector by a reader of its own, and the vectors are combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dlrun.config.compatibility import SEQUENCE_KINDS, find_encoder_errors
from dlrun.config.constraints import Count, NonNegative, Probability, ReaderPart
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

MERGED_INPUT = "together"  # the one input of the tail, where vectors are made one before it


class MergeLayer(nn.Module):
    """Vectors made one vector: added up, or averaged by weights that the vectors themselves ask for (attention).

    inputs: all inputs as fields, those of `read` being vectors. Those that are not as wide as the widest are brought to
    its width by a linear layer, and all that no reader has read by one together. Answers (B, width).
    """

    def __init__(self, inputs: Mapping[str, Field], read: list[str], attends: bool) -> None:
        super().__init__()
        widths = {name: inputs[name].num_outputs for name in read}
        rest = {name: field for name, field in inputs.items() if name not in widths}
        self.names, self.width = read, max(widths.values())
        narrow = {
            name: nn.Linear(width, self.width)
            for name, width in widths.items()
            if width != self.width
        }
        self.projections = SafeModuleDict(narrow)
        self.rest = InputProjection(rest, self.width) if rest else None
        self.score = nn.Linear(self.width, 1, bias=False) if attends else None

    def forward(self, batch: Batch) -> Tensor:
        read = {name: batch[name] for name in self.names}
        read |= {name: layer(batch[name]) for name, layer in self.projections.items()}
        stacked = torch.stack(
            [*read.values(), *([] if self.rest is None else [self.rest(batch)])], 1
        )
        if self.score is None:
            return stacked.sum(1)
        return (self.score(stacked).softmax(1) * stacked).sum(1)


class MultiInputModel(Model):
    """readers: name → module from a column (B, …) to vectors (B, width). read_by: input → the name of its reader.

    combiner: None where all that was read joins in the tail side by side, with all other inputs.
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
        self.readers, self.read_by = readers, read_by
        self.dropout, self.combiner, self.tail = dropout, combiner, tail
        self.note = ""  # stands beside every result: what its readers found in files

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        read = {
            name: self.dropout(self.readers[reader](batch[name]))
            for name, reader in self.read_by.items()
        }
        whole = {**batch, **read}
        joined = whole if self.combiner is None else {MERGED_INPUT: self.combiner(whole)}
        return cast(dict[str, Tensor], self.tail(joined))

    def penalty(self) -> Tensor | None:
        """The penalty on the hidden kernels of the tail; encoders have none."""
        return self.tail.penalty()


def combined(
    spec: Spec,
    *,
    reader: ReaderPart,
    readers: dict[str, ReaderPart],
    share: list[list[str]],
    combine: Literal["concat", "add", "attention"],
    dense: list[Count],
    activation: Activation,
    dropout: Probability,
    l1: NonNegative,
    l2: NonNegative,
    init: Init,
) -> nn.Module:
    """Every text and series is read by `reader`, an input named in `readers` by that one; a dense tail follows.

    share: groups of inputs that one reader reads, with one set of weights (book §7.1.5). combine: whether what was read
    goes on side by side, with all other inputs; or is added up; or averaged with learnt weights. dropout: of what the
    readers answer. dense: hidden layers of the tail, see `dense`. UserError: names that are no input, unlike sharers.
    """
    kinds = {name: field.kind for name, field in spec.inputs.items()}
    for fault in find_encoder_errors(dict.fromkeys(readers, ""), share, kinds):  # type: ignore[arg-type]
        raise UserError(fault)
    read_by = assign_encoders(spec, readers, share)
    reading = {**dict.fromkeys(read_by.values(), reader), **readers}
    modules = {
        name: build_input_encoder(name, reading[name], spec.inputs[name])
        for name in dict.fromkeys(read_by.values())
    }
    seen = {
        name: Field("number", (cast(int, modules[owner].width),)) for name, owner in read_by.items()
    }
    inputs: dict[str, Field] = {**spec.inputs, **seen}
    combiner = (
        None
        if combine == "concat" or not seen
        else MergeLayer(inputs, list(seen), combine == "attention")
    )
    joined = inputs if combiner is None else {MERGED_INPUT: Field("number", (combiner.width,))}
    hidden, heads = build_dense(spec, joined, dense, 0, (activation, 0.0, False))
    model = MultiInputModel(
        SafeModuleDict(modules),
        read_by,
        nn.Dropout(dropout),
        combiner,
        DenseModel(hidden, heads, l1, l2),
    )
    initialize_weights(model, init)
    model.note = "; ".join(
        note for module in modules.values() if (note := getattr(module, "note", ""))
    )
    return model


def build_input_encoder(name: str, reader: Callable[[Field], nn.Module], field: Field) -> nn.Module:
    """The module that reads this input. Raises UserError, naming the input, where the reader cannot read it."""
    try:
        return reader(field)
    except UserError as fault:
        raise UserError(f"input '{name}': {fault}") from fault


def assign_encoders(
    spec: Spec, readers: Mapping[str, Any], share: list[list[str]]
) -> dict[str, str]:
    """Input → the input by whose name its reader goes: its own, or the one of its group that names a reader."""
    read = [
        name
        for name, field in spec.inputs.items()
        if field.kind in SEQUENCE_KINDS or name in readers
    ]
    owners = {name: name for name in read}
    for group in share:
        named = [name for name in group if name in readers]
        if len(named) > 1:
            raise UserError(
                f"model.share: {' and '.join(named)} share one reader, but model.readers names one for each"
            )
        owner = (named or group)[0]
        for name in group:
            check_compatible(spec, owner, name)
            owners[name] = owner
    return {name: owners[name] for name in spec.inputs if name in owners}


def check_compatible(spec: Spec, one: str, other: str) -> None:
    """Refuse two inputs that no single reader can read: of other kinds, shapes, or with other numbers for words."""
    first, second = spec.inputs[one], spec.inputs[other]
    differing = {
        "kind": f"{first.kind} and {second.kind}",
        "shape": f"shapes {first.shape} and {second.shape}",
        "size": f"{first.size} and {second.size} different words",
        "labels": "their words have different numbers",
    }
    for what, reason in differing.items():
        if getattr(first, what) != getattr(second, what):
            way_out = (
                "; texts learn their words together with data.share_words=true"
                if first.kind == "tokens"
                else ""
            )
            raise UserError(
                f"model.share: {one} and {other} are not alike ({reason}): one reader cannot read both{way_out}"
            )
