"""What padding means to a reader: nothing. Rows of different lengths are read as if each stood alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NUM_GROUPS = 4  # a batch is cut into so many by length; eight are no better, as small products cost more a row
MAX_STEP_SHARE = 0.8  # of the steps must be what is left, or the batch stays whole
MIN_ROWS = 32  # a smaller batch stays whole


def move_padding_last(words: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Words (B, T) moved to the front of their rows, padding (0) behind them, and how many each row has.

    A row of fewer than `least` words counts as that many: it is read with padding for words.
    """
    there = words != 0
    steps = max(words.shape[1], least)
    place = torch.where(there, there.cumsum(1) - 1, steps)
    packed = words.new_zeros(len(words), steps + 1).scatter_(1, place, words)
    return packed[:, :steps], there.sum(1).clamp_min(least)


def reverse_steps(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Steps (T, B, D) in the opposite order, each row within its own length."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(len(x), device=x.device)[:, None]
    place = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, place[:, :, None].expand_as(x))


def pool_steps(x: Tensor, lengths: Tensor | None, ends: str) -> Tensor:
    """Steps (B, T, D) as one vector a row (B, D), or (B, T·D) for `flatten`: padded steps count for nothing."""
    if lengths is not None:
        there = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[:, :, None]
        x = x.masked_fill(~there, -torch.inf if ends == "max" else 0)
    if ends == "flatten":
        return x.flatten(1)
    if ends == "max":
        return x.amax(1)
    return x.mean(1) if lengths is None else x.sum(1) / lengths[:, None]


def run_length_groups(
    words: Tensor, lengths: Tensor, count: int, read: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """read(words, lengths), in `count` groups of rows of like length, without padding beyond the longest of each.

    words (B, T) and lengths (B,) as from `move_padding_last`. Only on the CPU: elsewhere one large batch is quicker than four.
    """
    if words.device.type != "cpu":
        return read(words, lengths)
    order = lengths.argsort(stable=True)
    groups = order.chunk(count)
    widths = [int(lengths[rows[-1]]) for rows in groups]
    if not is_grouping_faster(groups, widths, words.shape[1]):
        return read(words[:, : widths[-1]], lengths)
    answers = [
        read(words[rows, :width], lengths[rows]) for rows, width in zip(groups, widths, strict=True)
    ]
    return torch.cat(answers)[order.argsort()]


def is_grouping_faster(groups: tuple[Tensor, ...], widths: list[int], steps: int) -> bool:
    """Whether reading the groups one after the other, so many steps each, saves enough of all rows' `steps`."""
    rows = [len(group) for group in groups]
    left = sum(count * width for count, width in zip(rows, widths, strict=True))
    return sum(rows) >= MIN_ROWS and left < MAX_STEP_SHARE * sum(rows) * steps
