"""The process group of data-parallel training: rank and size, collective calls, shared randomness.

The launcher sets the environment as
torchrun does: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from dlrun.core import device as random
from dlrun.core import device as runtime
from dlrun.core.device import derive_seed
from dlrun.core.environment import ProcessGroup
from dlrun.core.errors import UserError
from dlrun.data.loading.table import BatchPartition, partition_batch

T = TypeVar("T")
TIMEOUT = timedelta(days=1)  # whoever starts the processes sees one die; a slow one is waited for
STORE = (
    "DLRUN_STORE"  # a file by which processes of one machine find each other, instead of an address
)
DEVICES = "DLRUN_DEVICES"  # the device of each process, where that was chosen


class TorchGroup(ProcessGroup):
    """This process among all that torch's default process group holds.

    One run has one of these: what it holds besides ranks belongs to that run alone.

    Attributes:
        batch_share: Its share of the current batch; None between batches.
        shared_state: State of the random generators that all processes have in common.
    """

    def __init__(self, rank: int, world_size: int, local_rank: int, device: str) -> None:
        self.rank, self.world_size = rank, world_size
        self.local_rank, self.device = local_rank, device
        self.batch_share: BatchPartition | None = None
        self.shared_state: dict[str, Tensor] | None = None

    def broadcast_object(self, value: T) -> T:
        box = [value if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def on_main_process(self, compute: Callable[[], T]) -> T:
        outcome: tuple[Any, Exception | None] = (None, None)
        if self.rank == 0:
            try:
                outcome = (compute(), None)
            except Exception as error:
                outcome = (None, error)
        value, raised = self.broadcast_object(outcome)
        if raised is not None:
            raise raised
        return cast(T, value)

    def all_gather_object(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def local_main_process_first(self, compute: Callable[[], T]) -> T:
        if self.local_rank:
            dist.barrier()
            return compute()
        try:
            return compute()
        finally:
            dist.barrier()

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in the place of the values."""
        dist.all_reduce(values)
        return values

    def broadcast_tensors(self, tensors: list[Tensor]) -> None:
        """Set tensors to what the first process has in them."""
        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    def begin_batch(self, batch_rows: int, local_rows: int) -> int:
        """Begin a batch of which each process has a share.

        Args:
            batch_rows: Rows of the whole batch.
            local_rows: Rows that this process holds.

        Returns:
            How many of these count: a process without rows holds one that does not.

        Raises:
            RuntimeError: if it holds another number of rows than its share.
        """
        self.batch_share = share = partition_batch(batch_rows, self.rank, self.world_size)
        if share.local_rows != local_rows:
            raise RuntimeError(
                f"process {self.rank + 1} should hold {share.local_rows} "
                f"rows of {batch_rows}, and holds {local_rows}"
            )
        return share.counted_rows

    def end_batch(self) -> None:
        """No batch is at hand any more."""
        self.batch_share = None

    def get_global_batch_size(self, rows: int) -> int:
        """How many rows the batch at hand has in all processes together."""
        return rows if self.batch_share is None else self.batch_share.batch_rows

    def seed(self, number: int, device: torch.device) -> None:
        super().seed(number, device)
        self.shared_state = random.get_random_state(device)
        random.seed_torch(derive_seed(number, self.rank), device)

    @contextmanager
    def shared_random_state(self, device: torch.device) -> Iterator[None]:
        """Inside, random numbers come from the generators that all processes share."""
        local_state = random.get_random_state(device)
        if self.shared_state is not None:
            random.restore_random_state(self.shared_state, device)
        yield
        self.shared_state = random.get_random_state(device)
        random.restore_random_state(local_state, device)

    def draw_for_batch(self, draw: Callable[[int], Tensor], rows: int) -> Tensor:
        share = self.batch_share
        if share is None:
            return draw(rows)
        with self.shared_random_state(torch.device(self.device or "cpu")):
            drawn = draw(share.batch_rows)
        return drawn[share.first : share.first + rows]

    def randn_for_batch(self, values: Tensor) -> Tensor:
        if self.batch_share is None:
            return super().randn_for_batch(values)
        options: dict[str, Any] = {"dtype": values.dtype, "device": values.device}
        return self.draw_for_batch(
            lambda count: torch.randn(count, *values.shape[1:], **options), len(values)
        )

    def batch_std(self, values: Tensor) -> Tensor:
        share = self.batch_share
        if share is None:
            return super().batch_std(values)
        counted = values[: share.counted_rows]
        mean = self.all_reduce_sum(counted.sum(0)) / share.batch_rows
        squares = self.all_reduce_sum((counted - mean).square().sum(0))
        return (squares / share.batch_rows).sqrt()


def join_group(kind: str = "auto") -> TorchGroup:
    """Join the other processes.

    Args:
        kind: engine.device, the kind of device that each of them computes on.

    Raises:
        UserError: if this machine has too few devices.
    """
    rank, size, local = (
        int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    )
    device = get_local_device(kind, local)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    else:
        neighbors = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        # Processes of one machine share its cores.
        torch.set_num_threads(max(1, torch.get_num_threads() // neighbors))
    store = os.environ.get(STORE)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
        init_method=f"file://{store}" if store else "env://",
        rank=rank,
        world_size=size,
        timeout=TIMEOUT,
    )
    return TorchGroup(rank, size, local, device)


def get_joined_group(kind: str) -> TorchGroup:
    """The group that this process has joined, for a new run.

    Args:
        kind: engine.device, as for `join_group`.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    return TorchGroup(dist.get_rank(), dist.get_world_size(), local, get_local_device(kind, local))


def get_local_device(kind: str, local: int) -> str:
    """The name of a process's device.

    Args:
        kind: engine.device.
        local: Number of the process on this machine.

    Raises:
        UserError: if this machine has too few devices.
    """
    if DEVICES in os.environ:
        return str(runtime.choose_device(os.environ[DEVICES].split(",")[local]))
    cuda_devices = [name for name in runtime.available_devices() if name.startswith("cuda:")]
    if kind == "cpu" or (kind == "auto" and not cuda_devices):
        return "cpu"
    if local >= len(cuda_devices):
        raise UserError(
            f"process {local + 1} of this machine has no device of its own: there are "
            f"{len(cuda_devices)} of CUDA"
        )
    return cuda_devices[local]


def leave_group() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End this process now, with this exit code.

    Left to the interpreter, threads of torch's process groups now and then abort it, after all work
    is done.
    """
    leave_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's teardown, see above.
    os._exit(code)
