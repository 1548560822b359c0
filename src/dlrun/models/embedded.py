"""Where a model keeps the vectors of words."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dlrun.core.types import Field


def embedded_words(model: nn.Module, inputs: Mapping[str, Field]) -> dict[str, Tensor]:
    """Input of words → their vectors (size, width): the first embedding of that many rows in the input's reader.

    A model without `readers` is searched as a whole. Inputs that have none are left out.
    """
    readers: dict[str, nn.Module] = dict(getattr(model, "readers", None) or {})
    found: dict[str, Tensor] = {}
    for name, field in inputs.items():
        if field.kind == "tokens":
            part = readers.get(name, model)
            tables = [module.weight for module in part.modules() if isinstance(module, nn.Embedding)]
            fitting = [weight.detach() for weight in tables if len(weight) == field.size]
            found |= {name: fitting[0]} if fitting else {}
    return found
