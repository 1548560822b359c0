"""What scripts/bench times of recurrent nets: random numbers in the shapes of the book's weather and film reviews."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from dlrun.core.types import Field, Spec
from dlrun.data.loading.sequences import SequenceColumn, WindowColumn
from dlrun.data.loading.table import DenseColumn

Parts = tuple[Any, ...]  # what a Workload is made of
WORDS, STEPS = 10000, 500


class Weather(nn.Module):
    """A GRU of 32 over a series (B, T, 14), and a linear layer, as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(14, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.gru(x)[0][:, -1]))


class Reviews(nn.Module):
    """Word vectors of 32, an LSTM of 32 over the padded batch (B, T), and a linear layer, as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 32)
        self.lstm, self.head = nn.LSTM(32, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.lstm(self.words(x))[0][:, -1]))


def jena_gru() -> Parts:
    """240 steps of 14 numbers, batches of 128 (book §6.3)."""
    rows = 1280

    def columns() -> dict[str, Any]:
        windows = WindowColumn(
            torch.randn(20_000, 14), torch.randint(0, 18_000, (rows,)), torch.arange(0, 1440, 6)
        )
        return {"x": windows, "y": DenseColumn(torch.randn(rows, 1))}

    spec = Spec({"x": Field("series", (240, 14))}, {"y": Field("number", (1,))})
    return spec, columns, "gru", {}, 128, Weather


def imdb_lstm(real_lengths: bool) -> Parts:
    """Reviews in batches of 128, all of 500 words (book §6.2), or of the lengths that reviews have, bucketed."""
    rows = 1280

    def columns() -> dict[str, Any]:
        drawn = (
            (5.2 + 0.6 * torch.randn(rows)).exp().clamp(10, STEPS).long()
        )  # a mean of about 210, as cut reviews have
        lengths = drawn if real_lengths else torch.full((rows,), STEPS)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        values = torch.randint(1, WORDS, (int(starts[-1]),), dtype=torch.int32)
        x = SequenceColumn(values, starts, WORDS, STEPS, "front", fixed=not real_lengths)
        return {"x": x, "y": DenseColumn(torch.randint(0, 2, (rows, 1)).float())}

    field = Field("tokens", () if real_lengths else (STEPS,), WORDS)
    return Spec({"x": field}, {"y": Field("binary", (1,))}), columns, "lstm", {}, 128, Reviews
