"""The answer that an autoencoder has to beat: the mean of the training rows, whatever the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from dlrun.core.dataset import Source
from dlrun.core.types import Batch, Step

LEAST = 1e-6  # a pixel that is black in all training rows is answered with this chance of being white


class MeanRow(nn.Module):
    """Nothing to learn. The mean is taken, from training rows alone, when the first batch is measured.

    read: batch → rows (B, *shape). logits: rows are pixels, and answers their log-odds. measure: answers and rows →
    the step that the objective to be compared would yield.
    """

    mean: Tensor

    def __init__(
        self,
        train: Source,
        read: Callable[[Batch], Tensor],
        shape: tuple[int, ...],
        logits: bool,
        measure: Callable[[Tensor, Tensor], Step],
    ) -> None:
        super().__init__()
        self.train_rows, self.read, self.logits, self.measure = train, read, logits, measure
        self.groups: dict[str, list[nn.Parameter]] = {}
        self.known = False
        self.register_buffer("mean", torch.zeros(shape), persistent=False)

    def steps(self, batch: Batch) -> Iterator[Step]:
        if not self.known:
            self.mean.copy_(self.average())
            self.known = True
        rows = self.read(batch)
        answer = self.mean.clamp(LEAST, 1 - LEAST).logit() if self.logits else self.mean
        yield self.measure(answer.expand_as(rows), rows)

    def average(self) -> Tensor:
        """The mean of all training rows."""
        total, count = torch.zeros_like(self.mean, dtype=torch.float64, device="cpu"), 0
        for batch in self.train_rows.batches(512):
            rows = self.read(batch)
            total += rows.double().sum(0).cpu()
            count += len(rows)
        return (total / count).float()
