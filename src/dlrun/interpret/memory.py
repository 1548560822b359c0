"""How much memory training takes, part by part, and where each figure comes from."""

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
    """One part of the memory in bytes. how: where the figure comes from."""

    name: str
    size: int
    source: str


def estimate_memory(trainer: Trainer, batch: Batch) -> list[MemoryPart]:
    """Memory of one training step on this batch. The rows of the data and torch itself are not counted."""
    weights = list(trainer.objective.state_dict().values())
    learns = [parameter for parameter in trainer.objective.parameters() if parameter.requires_grad]
    found = [
        MemoryPart("weights", count_tensor_bytes(weights), "every parameter and buffer"),
        MemoryPart("gradients", count_tensor_bytes(learns), "one for each trainable parameter"),
        MemoryPart(
            "optimizer",
            sum(map(count_optimizer_bytes, trainer.optimization.optimizers.values())),
            "measured after a step on a copy",
        ),
        MemoryPart(
            "batch",
            count_tensor_bytes(batch.values()),
            f"measured: one batch of {trainer.settings.batch_rows:,} rows at most",
        ),
        MemoryPart(
            "activations",
            count_saved_bytes(trainer, batch),
            "measured: what the backward pass of that batch needs",
        ),
    ]
    if trainer.optimization.ema_parameters:
        found.append(
            MemoryPart(
                "average", count_tensor_bytes(learns), "running average of the weights (engine.ema)"
            )
        )
    return found


def count_optimizer_bytes(optimizer: Optimizer) -> int:
    """What an optimizer remembers after its first step, in bytes, found on a copy with gradients of 0."""
    spare = copy.deepcopy(optimizer)
    for parameter in (parameter for group in spare.param_groups for parameter in group["params"]):
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with torch.no_grad():
        get_unwrapped_step(spare)()
    return count_tensor_bytes(
        value
        for state in spare.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def count_saved_bytes(trainer: Trainer, batch: Batch) -> int:
    """Bytes that a training step keeps for its backward pass, besides weights and the batch itself."""
    before = (
        part
        for tensor in (*trainer.objective.state_dict().values(), *batch.values())
        for part in iter_dense_tensors(tensor)
    )
    known = {part.untyped_storage().data_ptr() for part in before}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        for part in iter_dense_tensors(tensor):
            storage = part.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with (
        restore_trainer_state(trainer),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        trainer.objective.train()
        steps = list(
            trainer.steps(batch)
        )  # held until all are counted: what is freed gives its place to others
    kept_back = sum(size for place, size in found.items() if place not in known)
    del steps
    return kept_back


def iter_dense_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that a tensor is stored in: itself, or the parts of a sparse one."""
    if tensor.layout == torch.sparse_csr:
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    else:
        yield tensor


def count_tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """The size of all of these together."""
    return sum(
        part.numel() * part.element_size()
        for tensor in tensors
        for part in iter_dense_tensors(tensor)
    )
