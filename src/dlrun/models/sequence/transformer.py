"""A small Transformer encoder over the steps of a sequence (second edition, chapter 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.models.sequence.masking import pool_steps


class TransformerEncoder(nn.Module):
    """Learnt positions, then blocks of attention and two dense layers, normalised after each (Vaswani et al. 2017).

    enter: brings steps to as many numbers as `positions` have, one vector a step: no sequence may be longer. The book's
    heads are as wide as its vectors; these share the width, as is usual.
    """

    def __init__(
        self,
        enter: nn.Module,
        positions: nn.Embedding,
        heads: int,
        dense: int,
        blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        width = positions.embedding_dim
        if width % heads:
            raise UserError(f"vectors of {width} numbers cannot be shared out to heads={heads}")
        self.enter, self.positions, self.width = enter, positions, width
        make = lambda: nn.TransformerEncoderLayer(width, heads, dense, dropout, batch_first=True)  # noqa: E731
        self.blocks = nn.ModuleList(make() for _ in range(blocks))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Steps (B, T, D), of which the first `lengths` of each row count, → (B, width), the largest over the steps."""
        steps = x.shape[1]
        if steps > self.positions.num_embeddings:
            raise UserError(
                f"a sequence of {steps} steps is longer than positions={self.positions.num_embeddings} of the "
                f"transformer: say positions={steps}, or cut the texts (data.length)"
            )
        x = self.enter(x) + self.positions.weight[:steps]
        hidden = (
            None if lengths is None else torch.arange(steps, device=x.device) >= lengths[:, None]
        )
        for block in self.blocks:
            x = block(x, src_key_padding_mask=hidden)
        return pool_steps(x, lengths, "max")
