"""Seeds: derived from other seeds, set for all generators, saved and restored."""

from __future__ import annotations

import torch


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
