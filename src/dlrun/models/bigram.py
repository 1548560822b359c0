"""What comes next, judged by the token before it alone: counted, and a stiffer baseline than how often each occurs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Spec
from dlrun.data.loading.sequences import WindowColumn
from dlrun.data.loading.table import Table
from dlrun.models.language.language_model import get_text_field
from dlrun.models.model import Model

MAX_TOKENS = 10_000  # tokens, whose pairs still fit into memory


class Bigram(Model):
    """Pairs of the training rows in a table of logarithms (size, size), which is in a buffer: nothing to train.

    Pairs that were not seen are made up for by how often the second token occurs (Witten & Bell 1991); before `solve`
    all tokens are as likely.
    """

    table: Tensor

    def __init__(self, names: tuple[str, str], size: int) -> None:
        super().__init__()
        self.input, self.target = names
        self.register_buffer("table", torch.zeros(size, size))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens (B, T) → logits (B, T, size), or (B, size) where the target is what comes after the last one."""
        tokens = batch[self.input]
        one = self.target in batch and batch[self.target].dim() == 1
        return {self.target: self.table[tokens[:, -1] if one else tokens]}

    def row_cross_entropy(self, batch: Batch) -> Tensor:
        """The cross-entropy of each row (B,), without a table of answers for each place."""
        tokens, right = batch[self.input], batch[self.target]
        before = tokens[:, -1] if right.dim() == 1 else tokens
        return -self.table[before, right].reshape(len(right), -1).mean(1)

    def solve(self, table: Table) -> None:
        """Count the pairs of these rows, each place of the text once, however many windows see it."""
        column, size = table.columns[self.input], len(self.table)
        assert isinstance(column, WindowColumn)
        values, places = column.values.long(), column.counts.nonzero()[:, 0]
        pairs = torch.bincount(values[places] * size + values[places + 1], minlength=size * size)
        self.table.copy_(smooth_counts(pairs.reshape(size, size).float()).log())


def smooth_counts(pairs: Tensor) -> Tensor:
    """Counts of pairs (size, size) → how likely the second token is after the first, never 0.

    A token with k different followers in n places gives k / (n + k) of what comes next to the tokens by themselves.
    """
    alone = (pairs.sum(0) + 1) / (pairs.sum() + len(pairs))
    followers = (pairs > 0).sum(1, keepdim=True).clamp_min(1)
    return (pairs + followers * alone) / (pairs.sum(1, keepdim=True) + followers)


def bigram(spec: Spec) -> nn.Module:
    """How often each token follows another one in the training rows. Raises UserError for too many different tokens."""
    names, field = get_text_field(spec, "bigram", ("tokens", "category"))
    if field.size > MAX_TOKENS:
        raise UserError(
            f"model=bigram: {field.size:,} different tokens make too many pairs: data.vocabulary={MAX_TOKENS - 2}"
        )
    return Bigram(names, field.size)
