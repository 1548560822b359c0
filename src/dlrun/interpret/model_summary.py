"""A model layer by layer: output shape for one real batch, and number of parameters."""

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
    """One module.

    Attributes:
        name: As in `named_modules`; (model) for the model itself.
        kind: Name of its class.
        shape: Shape of its output; the number of rows is written as B.
        parameters: Number of its parameters, without those of layers before it (shared weights).
        trainable: How many of them are trained.
    """

    name: str
    kind: str
    shape: str
    parameters: int
    trainable: int


def summarize_layers(model: nn.Module, batch: Batch) -> list[LayerSummary]:
    """Return a summary of every layer, in order of execution.

    Modules that call other modules are left out, unless they have parameters of their own. The
    model is run in evaluation mode and left as it was.

    Args:
        model: A network.
        batch: A batch of real rows.
    """
    outputs = collect_module_outputs(model, batch)
    names = {module: name for name, module in model.named_modules()}
    counted: set[int] = set()
    summaries = []
    for module, output in outputs.items():  # inner modules come first
        parameters = [
            parameter for parameter in module.parameters() if id(parameter) not in counted
        ]
        # shared weights belong to the first layer that has them
        counted.update(map(id, parameters))
        if parameters or not any(
            inner in outputs for inner in module.modules() if inner is not module
        ):
            sizes = [(parameter.numel(), parameter.requires_grad) for parameter in parameters]
            counts = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
            shape = ", ".join(
                format_shape(tensor, count_batch_rows(batch)) for tensor in iter_tensors(output)
            )
            summaries.append(
                LayerSummary(names[module] or "(model)", type(module).__name__, shape, *counts)
            )
    return summaries


def collect_module_outputs(model: nn.Module, batch: Batch) -> dict[nn.Module, Any]:
    """Return module → output at its first call, in order of completion, in evaluation mode."""
    outputs: dict[nn.Module, Any] = {}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        outputs.setdefault(module, output)

    hooks = [module.register_forward_hook(record) for module in model.modules()]
    # modules may be in different modes: a frozen base stays in evaluation
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
    """Return a tensor's shape as text: (B, 64) where the first dimension is the number of rows."""
    first, *sizes = tensor.shape or (1,)
    return f"({', '.join(map(str, ['B' if first == rows else first, *sizes]))})"
