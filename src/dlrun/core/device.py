"""Where and how numbers are computed: device, precision, seeds, determinism."""

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

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc, malloc.h
Item = TypeVar("Item")
BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux names them, on x86 and on ARM
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device of this name; 'auto' is CUDA where there is one, then MPS, then the CPU. Raises UserError."""
    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise UserError(
            f"no device '{name}' here: there are {', '.join(there)} (and auto, which takes the first)"
        )
    return torch.device(name)


def available_devices() -> list[str]:
    """The names of the devices of this machine, best first."""
    cuda = (
        [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(["cuda"] if cuda else []), *cuda, *mps, "cpu"]


def set_deterministic(wanted: bool) -> None:
    """Ask torch for the same bits every time, at some cost of speed, or stop asking."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler
        torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = not wanted


def flush_tiny_values() -> None:
    """Round numbers below 1e-38 to zero on the CPU.

    An optimizer's running averages shrink to such numbers wherever a unit has died, and a square root of one costs some
    hundred times that of a normal number: a step of the MNIST network took 9.7 ms instead of 3.4.
    """
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Have glibc keep the memory of large arrays for the next ones, instead of giving it back after each.

    The system clears every page that it hands out again, which took a third of a convnet's training step at 150 × 150,
    and half of its validation. Elsewhere than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in (
            (M_MMAP_MAX, 0),
            (M_TRIM_THRESHOLD, 2**31 - 1),
            (M_TOP_PAD, 1 << 26),
        ):
            mallopt(parameter, value)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a step is computed; nothing at all for fp32."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def has_slow_bf16(device: torch.device) -> bool:
    """Whether a CPU is known to have no units for bf16, which then takes several times as long as fp32."""
    try:
        text = (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
            if device.type == "cpu"
            else ""
        )
    except OSError:
        text = ""
    lines = [
        line.partition(":")[2].split()
        for line in text.splitlines()
        if line.startswith(("flags", "Features"))
    ]
    return bool(lines) and not BF16_UNITS & set(lines[0])


def iter_in_precision(
    found: Iterator[Item], device: torch.device, precision: str
) -> Iterator[Item]:
    """The same items, each computed in a precision."""
    if precision == "fp32":
        return found
    missing = object()

    def each() -> Iterator[Item]:
        while True:
            with autocast(device, precision):
                item = next(found, missing)
            if item is missing:
                return
            yield item  # type: ignore[misc]

    return each()
