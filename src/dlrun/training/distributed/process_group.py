"""The process group of data-parallel training: rank and size, collective calls, shared randomness.

With one process, everything returns what it was given. The launcher sets the environment as
torchrun does: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from dlrun.core import device as runtime
from dlrun.core import random
from dlrun.core.errors import UserError
from dlrun.core.random import derive_seed
from dlrun.data.loading.partition import BatchPartition, partition_batch

T = TypeVar("T")
TIMEOUT = timedelta(days=1)  # whoever starts the processes sees one die; a slow one is waited for
STORE = (
    "DLRUN_STORE"  # a file by which processes of one machine find each other, instead of an address
)
DEVICES = "DLRUN_DEVICES"  # the device of each process, where that was chosen


@dataclass
class ProcessGroup:
    """This process among all.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        local_rank: Number of this process on its machine.
        device: Name of its own device; '' for the one that the settings name.
        batch_share: Its share of the current batch; None between batches.
        shared_state: State of the random generators that all processes have in common.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: str = ""
    batch_share: BatchPartition | None = None
    shared_state: dict[str, Tensor] | None = None


this_process = ProcessGroup()


def join_group(kind: str = "auto") -> None:
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
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        # Processes of one machine share its cores.
        torch.set_num_threads(max(1, torch.get_num_threads() // neighbours))
    store = os.environ.get(STORE)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
        init_method=f"file://{store}" if store else "env://",
        rank=rank,
        world_size=size,
        timeout=TIMEOUT,
    )
    this_process.rank, this_process.world_size, this_process.local_rank, this_process.device = (
        rank,
        size,
        local,
        device,
    )


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
    # The same object: other modules have imported it.
    this_process.__dict__.update(ProcessGroup().__dict__)


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


def broadcast_object(value: T) -> T:
    """The first process's value, in every process."""
    if this_process.world_size == 1:
        return value
    box = [value if this_process.rank == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


def on_main_process(compute: Callable[[], T]) -> T:
    """The result of the first process, or its exception, in every process."""
    if this_process.world_size == 1:
        return compute()
    outcome: tuple[Any, Exception | None] = (None, None)
    if this_process.rank == 0:
        try:
            outcome = (compute(), None)
        except Exception as error:
            outcome = (None, error)
    value, raised = broadcast_object(outcome)
    if raised is not None:
        raise raised
    return cast(T, value)


def all_gather_object(value: T) -> list[T]:
    """The values of all processes in the order of ranks; tensors in them must be on the CPU."""
    if this_process.world_size == 1:
        return [value]
    values: list[Any] = [None] * this_process.world_size
    dist.all_gather_object(values, value)
    return values


def local_main_process_first(compute: Callable[[], T]) -> T:
    """Compute first in one process of each machine; the others then find its result in a cache."""
    if this_process.world_size == 1:
        return compute()
    if this_process.local_rank:
        dist.barrier()
        return compute()
    try:
        return compute()
    finally:
        dist.barrier()


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all processes, in the place of the values."""
    if this_process.world_size > 1:
        dist.all_reduce(values)
    return values


def broadcast_tensors(tensors: list[Tensor]) -> None:
    """Set tensors to what the first process has in them."""
    for tensor in tensors if this_process.world_size > 1 else []:
        dist.broadcast(tensor, src=0)


def begin_batch(batch_rows: int, local_rows: int) -> int:
    """Begin a batch of which each process has a share.

    Args:
        batch_rows: Rows of the whole batch.
        local_rows: Rows that this process holds.

    Returns:
        How many of these count: a process without rows holds one that does not.

    Raises:
        RuntimeError: if it holds another number of rows than its share.
    """
    this_process.batch_share = partition_batch(
        batch_rows, this_process.rank, this_process.world_size
    )
    if this_process.batch_share.local_rows != local_rows:
        raise RuntimeError(
            f"process {this_process.rank + 1} should hold {this_process.batch_share.local_rows} "
            f"rows of {batch_rows}, and holds {local_rows}"
        )
    return this_process.batch_share.counted_rows


def end_batch() -> None:
    """No batch is at hand any more."""
    this_process.batch_share = None


def get_global_batch_size(rows: int) -> int:
    """How many rows the batch at hand has in all processes together."""
    return rows if this_process.batch_share is None else this_process.batch_share.batch_rows


def seed_processes(number: int, device: torch.device) -> None:
    """Seed the generators: those that all processes share, and each process's own."""
    random.seed_torch(number, device)
    if this_process.world_size > 1:
        this_process.shared_state = random.get_random_state(device)
        random.seed_torch(derive_seed(number, this_process.rank), device)


@contextmanager
def shared_random_state(device: torch.device) -> Iterator[None]:
    """Inside, random numbers come from the generators that all processes share."""
    local_state = random.get_random_state(device)
    if this_process.shared_state is not None:
        random.restore_random_state(this_process.shared_state, device)
    yield
    this_process.shared_state = random.get_random_state(device)
    random.restore_random_state(local_state, device)


def draw_for_batch(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """Random rows for this process's share of a batch, the same as one process would draw.

    Args:
        draw: Count → so many random rows.
        rows: Of this process.
    """
    if this_process.world_size == 1 or this_process.batch_share is None:
        return draw(rows)
    device = torch.device(this_process.device or "cpu")
    with shared_random_state(device):
        drawn = draw(this_process.batch_share.batch_rows)
    return drawn[this_process.batch_share.first : this_process.batch_share.first + rows]


def randn_for_batch(values: Tensor) -> Tensor:
    """Standard normal numbers like these rows (B, …), the same as one process would draw."""
    if this_process.world_size == 1 or this_process.batch_share is None:
        return torch.randn_like(values)
    options: dict[str, Any] = {"dtype": values.dtype, "device": values.device}
    return draw_for_batch(
        lambda count: torch.randn(count, *values.shape[1:], **options), len(values)
    )


def global_batch_std(values: Tensor) -> Tensor:
    """The standard deviation (…) over the rows (B, …) of the whole batch, divided by B."""
    if this_process.world_size == 1 or this_process.batch_share is None:
        return values.std(0, correction=0)
    counted = values[: this_process.batch_share.counted_rows]
    mean = all_reduce_sum(counted.sum(0)) / this_process.batch_share.batch_rows
    return (
        all_reduce_sum((counted - mean).square().sum(0)) / this_process.batch_share.batch_rows
    ).sqrt()
