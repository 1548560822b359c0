"""Where numbers are computed: device, precision, determinism, memory, random streams."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch

from dlrun.core.errors import UserError

# Option numbers of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
Item = TypeVar("Item")
BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux names them, on x86 and on ARM
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device of this name.

    Args:
        name: 'cpu', 'cuda', 'cuda:1', 'mps', or 'auto': CUDA if available, then MPS, then the CPU.

    Raises:
        UserError: This machine has no such device.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise UserError(
            f"no device '{name}' here: there are {', '.join(available)} "
            "(and auto, which takes the first)"
        )
    return torch.device(name)


def available_devices() -> list[str]:
    """Names of this machine's devices, best first."""
    cuda = (
        [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(["cuda"] if cuda else []), *cuda, *mps, "cpu"]


def set_deterministic(deterministic: bool) -> None:
    """Ask torch for bitwise-identical results, at some cost of speed, or stop asking."""
    if deterministic:
        # torch refuses deterministic matrix products on CUDA without it; see its page on
        # reproducibility.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Only on a change: the call imports torch's compiler.
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
    # The benchmark picks kernels by measured time, which differs from run to run.
    torch.backends.cudnn.benchmark = not deterministic


def flush_tiny_values() -> None:
    """Round numbers below 1e-38 to zero on the CPU.

    The running averages of an optimizer shrink to such numbers wherever a unit has died, and a
    square root of one takes some hundred times as long as that of a normal number: a step of the
    MNIST network took 9.7 ms instead of 3.4.
    """
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Have glibc reuse the memory of freed arrays instead of returning it to the system.

    The system clears every page that it hands out again, which took a third of a convnet's
    training step at 150 × 150, and half of its validation. Without glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)  # large arrays come from the heap, too
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # whose end is never given back
        mallopt(M_TOP_PAD, 1 << 26)  # and grows by 64 MiB at a time


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a step is computed; a null context for fp32."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def has_slow_bf16(device: torch.device) -> bool:
    """Whether a CPU lacks bf16 units: bf16 then takes several times as long as fp32."""
    if device.type != "cpu":
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: unknown, so not known to be slow
        return False
    lines = [
        line.partition(":")[2].split()
        for line in text.splitlines()
        if line.startswith(("flags", "Features"))
    ]
    return bool(lines) and not BF16_UNITS & set(lines[0])


def iter_in_precision(
    items: Iterator[Item], device: torch.device, precision: str
) -> Iterator[Item]:
    """Iterate over the same items, each computed in a precision.

    Args:
        items: An iterator that computes, such as an objective's steps.
        device: Where it computes.
        precision: 'fp32', 'bf16' or 'fp16'.
    """
    if precision == "fp32":
        return items
    end = object()

    def computed_items() -> Iterator[Item]:
        while True:
            with autocast(device, precision):
                # Only the computation of an item: the caller's code between items is in full
                # precision.
                item = next(items, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    return computed_items()


def derive_seed(*numbers: int) -> int:
    """Derive a 63-bit seed from several numbers; (1, 2) and (2, 1) differ.

    The mixing function is splitmix64 (Steele et al. 2014).
    """
    state = 0
    for number in numbers:
        # 2**64 divided by the golden ratio: the increment of splitmix64.
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1  # torch's seeds are signed 64-bit integers


def seed_torch(number: int, device: torch.device) -> None:
    """Seed torch's generators on the CPU and on this device.

    torch.manual_seed alone also seeds every other kind of device lazily, with a stack trace for
    each: 60 to 300 microseconds.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.manual_seed(number)


def get_random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's generators: 'cpu', and 'cuda' on a CUDA device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set the generators to what `get_random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
