"""A small Transformer encoder over the steps of a sequence (second edition, chapter 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.models.sequence.masking import SequenceBody, pool_steps


class TransformerEncoder(SequenceBody):
    """Learned positions, then blocks of attention and dense layers (Vaswani et al. 2017).

    Norms stand after each part. The book's heads are as wide as its vectors; these share the width,
    as is usual.

    Attributes:
        enter: Projects steps to the width of the positions.
        positions: A vector a step; no sequence may be longer.
        width: Of the output.
        blocks: The layers.
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
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, dense, dropout, batch_first=True)
            for _ in range(blocks)
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode steps.

        Args:
            x: (B, T, D).
            lengths: How many steps of each row count (B,); None for all.

        Returns:
            The maximum over the steps (B, width).

        Raises:
            UserError: The sequence is longer than there are positions.
        """
        steps = x.shape[1]
        if steps > self.positions.num_embeddings:
            raise UserError(
                f"a sequence of {steps} steps is longer than "
                f"positions={self.positions.num_embeddings} of the transformer: "
                f"say positions={steps}, or cut the texts (data.length)"
            )
        # (B, T, width) + (T, width)
        x = self.enter(x) + self.positions.weight[:steps]
        padding_mask = None
        if lengths is not None:
            padding_mask = torch.arange(steps, device=x.device) >= lengths[:, None]
        for block in self.blocks:
            x = block(x, src_key_padding_mask=padding_mask)
        return pool_steps(x, lengths, "max")
