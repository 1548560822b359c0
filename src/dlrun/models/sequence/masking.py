"""Padding has no influence: rows of different lengths are read as if each stood alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# a batch is cut into so many by length; eight are no better, as small products cost more a row
NUM_GROUPS = 4
MAX_STEP_SHARE = 0.8  # a batch stays whole where grouping would leave more of the steps than this
MIN_ROWS = 32  # a smaller batch stays whole


class SequenceBody(nn.Module):
    """The contract of a module that reads steps, with the default of each attribute.

    `forward` takes steps (B, T, D) and how many of each row count (B,), or None for all of them; it
    returns (B, width).

    Attributes:
        width: Of the output.
        least: How many steps it needs.
        groups: Into how many groups of like length a batch is cut on the CPU.
    """

    width: int
    least: int = 1
    groups: int = NUM_GROUPS

    @property
    def padding_prefix_shared(self) -> bool:
        """Whether rows that begin alike share a state after it, which is then computed once."""
        return False


def move_padding_last(words: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Move words to the front of their rows and padding behind them.

    Args:
        words: (B, T), 0 for padding.
        least: A row with fewer words counts as that many: padding is read for the missing ones.

    Returns:
        Words (B, at least `least`), and the number of words in each row (B,).
    """
    is_word = words != 0
    steps = max(words.shape[1], least)
    # padding goes to one extra column, which is cut off
    target = torch.where(is_word, is_word.cumsum(1) - 1, steps)
    packed = words.new_zeros(len(words), steps + 1).scatter_(1, target, words)
    return packed[:, :steps], is_word.sum(1).clamp_min(least)


def reverse_steps(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return steps (T, B, D) in the opposite order, each row within its own length."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(len(x), device=x.device)[:, None]
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, source[:, :, None].expand_as(x))


def pool_steps(x: Tensor, lengths: Tensor | None, ends: str) -> Tensor:
    """Return one vector a row.

    Args:
        x: Steps (B, T, D).
        lengths: How many steps of each row count (B,); None for all.
        ends: max, average, or flatten, which ignores lengths.

    Returns:
        (B, D), or (B, T·D) for flatten.
    """
    if lengths is not None:
        counts = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[:, :, None]
        x = x.masked_fill(~counts, -torch.inf if ends == "max" else 0)
    if ends == "flatten":
        return x.flatten(1)
    if ends == "max":
        return x.amax(1)
    return x.mean(1) if lengths is None else x.sum(1) / lengths[:, None]


def run_length_groups(
    words: Tensor, lengths: Tensor, count: int, read: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Encode a batch in groups of rows of like length, without padding beyond the longest of each.

    On other devices than the CPU one large batch is faster than four.

    Args:
        words: (B, T), padding last.
        lengths: (B,).
        count: How many groups.
        read: (words, lengths) → (rows, width).
    """
    if words.device.type != "cpu":
        return read(words, lengths)
    order = lengths.argsort(stable=True)
    groups = order.chunk(count)
    widths = [int(lengths[rows[-1]]) for rows in groups]
    if not is_grouping_faster(groups, widths, words.shape[1]):
        return read(words[:, : widths[-1]], lengths)
    outputs = [
        read(words[rows, :width], lengths[rows]) for rows, width in zip(groups, widths, strict=True)
    ]
    return torch.cat(outputs)[order.argsort()]


def is_grouping_faster(groups: tuple[Tensor, ...], widths: list[int], steps: int) -> bool:
    """Return whether reading groups one after the other saves enough steps.

    Args:
        groups: Rows of each group.
        widths: Steps of each group.
        steps: Of the whole batch.
    """
    rows = [len(group) for group in groups]
    left = sum(count * width for count, width in zip(rows, widths, strict=True))
    return sum(rows) >= MIN_ROWS and left < MAX_STEP_SHARE * sum(rows) * steps
