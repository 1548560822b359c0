"""A bigram model: the next token, predicted from counts of what follows the token before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Spec
from dlrun.data.loading.sequences import WindowColumn
from dlrun.data.loading.table import Table
from dlrun.models.language.language_model import get_text_field
from dlrun.models.model import Model

MAX_TOKENS = 10_000  # more tokens make more pairs than fit into memory


class Bigram(Model):
    """Log-probabilities of the next token, in a buffer: nothing to train.

    Pairs that do not occur are smoothed by the frequency of the second token (Witten & Bell 1991).
    Before `solve` all tokens are equally likely.

    Attributes:
        input: Name of the text.
        target: Name of the target.
        table: Log-probabilities (size, size): row = token before, column = next token.
    """

    table: Tensor

    def __init__(self, names: tuple[str, str], size: int) -> None:
        super().__init__()
        self.input, self.target = names
        self.register_buffer("table", torch.zeros(size, size))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens (B, T) → logits (B, T, size), or (B, size) if the target follows the last one."""
        tokens = batch[self.input]
        # a target of one dimension is what follows the window, not each of its tokens
        predicts_last = self.target in batch and batch[self.target].dim() == 1
        return {self.target: self.table[tokens[:, -1] if predicts_last else tokens]}

    def row_cross_entropy(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of each row (B,), without computing all logits."""
        tokens, targets = batch[self.input], batch[self.target]
        previous = tokens[:, -1] if targets.dim() == 1 else tokens
        return -self.table[previous, targets].reshape(len(targets), -1).mean(1)

    def solve(self, table: Table) -> None:
        """Count the pairs of the training rows, each position once, however many windows see it."""
        column, size = table.columns[self.input], len(self.table)
        assert isinstance(column, WindowColumn)
        values = column.values.long()
        # a position counts once, though neighboring windows share it
        positions = column.counts.nonzero()[:, 0]
        pairs = torch.bincount(
            values[positions] * size + values[positions + 1], minlength=size * size
        )
        # logarithms, as they are logits: a softmax of them gives the probabilities back
        self.table.copy_(smooth_counts(pairs.reshape(size, size).float()).log())


def smooth_counts(pairs: Tensor) -> Tensor:
    """Return how likely each token follows another, never 0 (Witten & Bell 1991).

    A token with k different followers in n positions gives k / (n + k) of the probability to the
    frequencies of the tokens by themselves.

    Args:
        pairs: Counts (size, size).
    """
    # one is added, so that a token that never occurs has a probability too
    unigram = (pairs.sum(0) + 1) / (pairs.sum() + len(pairs))
    # at least one, so that an unseen token falls back on the unigram frequencies
    followers = (pairs > 0).sum(1, keepdim=True).clamp_min(1)
    return (pairs + followers * unigram) / (pairs.sum(1, keepdim=True) + followers)


def bigram(spec: Spec) -> nn.Module:
    """A bigram model of the training rows.

    Args:
        spec: One text, and its next tokens.

    Raises:
        UserError: The data are no text, or there are too many different tokens.
    """
    names, field = get_text_field(spec, "bigram", ("tokens", "category"))
    if field.size > MAX_TOKENS:
        raise UserError(
            f"model=bigram: {field.size:,} different tokens make too many pairs: "
            f"data.vocabulary={MAX_TOKENS - 2}"
        )
    return Bigram(names, field.size)
