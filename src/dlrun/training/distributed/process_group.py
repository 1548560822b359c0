"""Several processes that train one model together: which of them this is, what all of them know, and what they add up.

With one process, everything here answers at once with what it was given. Who starts the processes says in the
environment which is which, as torchrun does: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
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
from dlrun.core.errors import Refused
from dlrun.core.random import mix
from dlrun.data.loading.partition import Share, share

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # whoever starts the processes sees one die; a slow one is waited for
STORE = "DLRUN_STORE"  # a file by which processes of one machine find each other, instead of an address
DEVICES = "DLRUN_DEVICES"  # the device of each process, where that was chosen


@dataclass
class Here:
    """This process: number `rank` of `size`, number `local` of those on this machine.

    device: the name of the one that is its own; '' for what the settings say. share: its part of the batch at hand.
    common: the state of the random generators that all processes have in common.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    device: str = ""
    share: Share | None = None
    common: dict[str, Tensor] | None = None


here = Here()


def start(kind: str = "auto") -> None:
    """Join the other processes. kind: engine.device, which says what each of them computes on. Raises Refused."""
    rank, size, local = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = own_device(kind, local)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    else:
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        torch.set_num_threads(max(1, torch.get_num_threads() // neighbours))
    store = os.environ.get(STORE)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
        init_method=f"file://{store}" if store else "env://",
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    here.rank, here.size, here.local, here.device = rank, size, local, device


def own_device(kind: str, local: int) -> str:
    """The name of the device of process number `local` on this machine. Raises Refused where there are too few."""
    if DEVICES in os.environ:
        return str(runtime.choose_device(os.environ[DEVICES].split(",")[local]))
    there = [name for name in runtime.devices() if name.startswith("cuda:")]
    if kind == "cpu" or (kind == "auto" and not there):
        return "cpu"
    if local >= len(there):
        raise Refused(f"process {local + 1} of this machine has no device of its own: there are {len(there)} of CUDA")
    return there[local]


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
    here.__dict__.update(Here().__dict__)


def leave(code: int) -> NoReturn:
    """End this process now, with this exit code.

    Left to the interpreter, threads of torch's process groups now and then abort it, after all that was to do is done.
    """
    stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def agreed(value: T) -> T:
    """The first process's value, in every process."""
    if here.size == 1:
        return value
    box = [value if here.rank == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


def told(compute: Callable[[], T]) -> T:
    """What the first process alone computes, in every process; what it raises, too."""
    if here.size == 1:
        return compute()
    found: tuple[Any, Exception | None] = (None, None)
    if here.rank == 0:
        try:
            found = (compute(), None)
        except Exception as error:
            found = (None, error)
    value, raised = agreed(found)
    if raised is not None:
        raise raised
    return cast(T, value)


def everyone(value: T) -> list[T]:
    """The values of all processes, in their order, in every process. Tensors in them must be on the CPU."""
    if here.size == 1:
        return [value]
    found: list[Any] = [None] * here.size
    dist.all_gather_object(found, value)
    return found


def in_turn(make: Callable[[], T]) -> T:
    """Have the first process of each machine make it before the others do, which find what it kept in a cache."""
    if here.size == 1:
        return make()
    if here.local:
        dist.barrier()
        return make()
    try:
        return make()
    finally:
        dist.barrier()


def add_up(values: Tensor) -> Tensor:
    """The sum over all processes, in the place of the values."""
    if here.size > 1:
        dist.all_reduce(values)
    return values


def spread(tensors: list[Tensor]) -> None:
    """Set tensors to what the first process has in them."""
    for tensor in tensors if here.size > 1 else []:
        dist.broadcast(tensor, src=0)


def begin(whole: int, held: int) -> int:
    """Take up a batch of `whole` rows, of which this process holds so many; answers with how many of these count."""
    here.share = share(whole, here.rank, here.size)
    if here.share.held != held:
        raise RuntimeError(f"process {here.rank + 1} should hold {here.share.held} rows of {whole}, and holds {held}")
    return here.share.rows


def end() -> None:
    """No batch is at hand any more."""
    here.share = None


def whole(rows: int) -> int:
    """How many rows the batch at hand has in all processes together."""
    return rows if here.share is None else here.share.whole


def seed(number: int, device: torch.device) -> None:
    """Begin random numbers anew: those that all processes have in common, and each process's own."""
    random.seed(number, device)
    if here.size > 1:
        here.common = random.random_state(device)
        random.seed(mix(number, here.rank), device)


@contextmanager
def in_common(device: torch.device) -> Iterator[None]:
    """Inside, random numbers are those that all processes have in common."""
    own = random.random_state(device)
    if here.common is not None:
        random.restore_random_state(here.common, device)
    yield
    here.common = random.random_state(device)
    random.restore_random_state(own, device)


def drawn(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """So many random rows, as draw(n) makes n of them: this process's part of those of the whole batch at hand."""
    if here.size == 1 or here.share is None:
        return draw(rows)
    device = torch.device(here.device or "cpu")
    with in_common(device):
        found = draw(here.share.whole)
    return found[here.share.first : here.share.first + rows]


def noise_like(values: Tensor) -> Tensor:
    """Standard normal numbers in the shape of these rows (B, …), however the whole batch is shared."""
    if here.size == 1 or here.share is None:
        return torch.randn_like(values)
    about: dict[str, Any] = {"dtype": values.dtype, "device": values.device}
    return drawn(lambda count: torch.randn(count, *values.shape[1:], **about), len(values))


def deviation(values: Tensor) -> Tensor:
    """The standard deviation (…) across the rows (B, …) of the whole batch at hand, over B."""
    if here.size == 1 or here.share is None:
        return values.std(0, correction=0)
    counted = values[: here.share.rows]
    mean = add_up(counted.sum(0)) / here.share.whole
    return (add_up((counted - mean).square().sum(0)) / here.share.whole).sqrt()
