"""How much memory training takes, part by part, and where each number comes from."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from dlrun.core.types import Batch
from dlrun.interpret.sandbox import restore_trainer_state
from dlrun.training.optimizers import get_unwrapped_step
from dlrun.training.trainer import Trainer


@dataclass(frozen=True)
class MemoryPart:
    """One part of the memory.

    Attributes:
        name: weights, gradients, optimizer, batch, activations or average.
        size: In bytes.
        source: Where the number comes from.
    """

    name: str
    size: int
    source: str


def estimate_memory(trainer: Trainer, batch: Batch) -> list[MemoryPart]:
    """Return the memory of one training step, part by part.

    The rows of the data and torch itself are not counted.

    Args:
        trainer: A fit.
        batch: The batch of the step.
    """
    objective, optimization = trainer.objective, trainer.optimization
    weights = count_tensor_bytes(objective.state_dict().values())
    trainable = count_tensor_bytes(
        parameter for parameter in objective.parameters() if parameter.requires_grad
    )
    state = sum(map(count_optimizer_bytes, optimization.optimizers.values()))
    rows = f"measured: one batch of {trainer.settings.batch_rows:,} rows at most"
    saved = "measured: what the backward pass of that batch needs"
    parts = [
        MemoryPart("weights", weights, "every parameter and buffer"),
        MemoryPart("gradients", trainable, "one for each trainable parameter"),
        MemoryPart("optimizer", state, "measured after a step on a copy"),
        MemoryPart("batch", count_tensor_bytes(batch.values()), rows),
        MemoryPart("activations", count_saved_bytes(trainer, batch), saved),
    ]
    if optimization.ema_parameters:
        source = "running average of the weights (engine.ema)"
        parts.append(MemoryPart("average", trainable, source))
    return parts


def count_optimizer_bytes(optimizer: Optimizer) -> int:
    """Return the size in bytes of an optimizer's state after its first step, measured on a copy."""
    spare = copy.deepcopy(optimizer)
    for parameter in (parameter for group in spare.param_groups for parameter in group["params"]):
        # state is made at the first step; gradients of 0 are enough for it
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with torch.no_grad():
        get_unwrapped_step(spare)()
    values = [value for state in spare.state.values() for value in state.values()]
    return count_tensor_bytes(value for value in values if isinstance(value, Tensor))


def count_saved_bytes(trainer: Trainer, batch: Batch) -> int:
    """Return the bytes that a training step saves for backward, without weights and batch."""
    present = (
        dense
        for tensor in (*trainer.objective.state_dict().values(), *batch.values())
        for dense in iter_dense_tensors(tensor)
    )
    present_storages = {dense.untyped_storage().data_ptr() for dense in present}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        for dense in iter_dense_tensors(tensor):
            storage = dense.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with (
        restore_trainer_state(trainer),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        trainer.objective.train()
        # the steps are held until all is counted: memory that is freed would be used again
        steps = list(trainer.runner.steps(batch))
    saved_bytes = sum(size for storage, size in saved.items() if storage not in present_storages)
    del steps
    return saved_bytes


def iter_dense_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that a tensor is stored in: itself, or the three of a sparse one."""
    if tensor.layout == torch.sparse_csr:
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    else:
        yield tensor


def count_tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the size of these tensors in bytes."""
    return sum(
        dense.numel() * dense.element_size()
        for tensor in tensors
        for dense in iter_dense_tensors(tensor)
    )
