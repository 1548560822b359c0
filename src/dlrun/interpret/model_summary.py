"""A model layer by layer: what comes out of each for one real batch, and how many parameters it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.types import Batch
from dlrun.interpret.sandbox import count_batch_rows
from dlrun.training.module_trace import iter_tensors


@dataclass(frozen=True)
class LayerSummary:
    """One module. shape: what came out, its rows written as B. parameters: those that no layer before it has."""

    name: str
    kind: str
    shape: str
    parameters: int
    trainable: int


def summarize_layers(model: nn.Module, batch: Batch) -> list[LayerSummary]:
    """Every module that was called and has no called module inside, or has parameters of its own, in their order.

    Measured on this batch in evaluation mode; the model is left as it was.
    """
    outputs = collect_module_outputs(model, batch)
    names = {module: name for name, module in model.named_modules()}
    seen: set[int] = set()
    found = []
    for module, output in outputs.items():  # what is inside a module comes before it
        own = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen.update(map(id, own))
        if own or not any(inner in outputs for inner in module.modules() if inner is not module):
            sizes = [(parameter.numel(), parameter.requires_grad) for parameter in own]
            counts = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
            shape = ", ".join(
                format_shape(tensor, count_batch_rows(batch)) for tensor in iter_tensors(output)
            )
            found.append(
                LayerSummary(names[module] or "(model)", type(module).__name__, shape, *counts)
            )
    return found


def collect_module_outputs(model: nn.Module, batch: Batch) -> dict[nn.Module, Any]:
    """What each module answers to the batch (at its first call), in the order in which they are done."""
    outputs: dict[nn.Module, Any] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        outputs.setdefault(module, output)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return outputs


def format_shape(tensor: Tensor, rows: int) -> str:
    """(B, 64) for a tensor of this many rows."""
    first, *rest = tensor.shape or (1,)
    return f"({', '.join(map(str, ['B' if first == rows else first, *rest]))})"
