"""The processes that share a run, as everything that has to know of them is given them.

Nothing heavy is imported here: a command names a group before torch is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


def is_rank() -> bool:
    """Return whether this process was started as one of several, by dlrun or by torchrun."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


class ProcessGroup:
    """This process among those that share a run: every hook, with what one process does.

    It is passed along, from whoever carries out a run down to the objective: two runs in one
    process share nothing. Several processes have a `training.distributed.process_group.TorchGroup`.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        local_rank: Number of this process on its machine.
        device: Name of its own device; '' for the one that the settings name.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: str = ""

    def broadcast_object(self, value: T) -> T:
        """The first process's value, in every process."""
        return value

    def on_main_process(self, compute: Callable[[], T]) -> T:
        """The result of the first process, or its exception, in every process."""
        return compute()

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all processes in the order of ranks; tensors in them are on the CPU."""
        return [value]

    def local_main_process_first(self, compute: Callable[[], T]) -> T:
        """Compute first in one process of each machine; the others find its result in a cache."""
        return compute()

    def seed(self, number: int, device: torch.device) -> None:
        """Seed the generators: those that all processes share, and each process's own."""
        from dlrun.core import random

        random.seed_torch(number, device)

    def draw_for_batch(self, draw: Callable[[int], Tensor], rows: int) -> Tensor:
        """Random rows for this process's share of a batch, the same as one process would draw.

        Args:
            draw: Count → so many random rows.
            rows: Of this process.
        """
        return draw(rows)

    def randn_for_batch(self, values: Tensor) -> Tensor:
        """Standard normal numbers like these rows (B, …), the same as one process would draw."""
        import torch

        return torch.randn_like(values)

    def batch_std(self, values: Tensor) -> Tensor:
        """The standard deviation (…) over the rows (B, …) of the whole batch, divided by B."""
        return values.std(0, correction=0)


# Without state, so that everyone may share it.
ONE_PROCESS = ProcessGroup()
