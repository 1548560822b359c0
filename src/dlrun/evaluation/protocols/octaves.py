"""An image in octaves: one fit a scale, the smallest first, each starting from the one before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlrun.config.annotations import Count
from dlrun.core.dataset import Dataset
from dlrun.core.types import FitJob, Result
from dlrun.evaluation.protocols.plans import RowSplit


@dataclass(frozen=True)
class ImageScales:
    """Fits of an objective with a setting `octave`, of which 0 is the full size (book §8.2)."""

    count: int

    def __call__(self, results: list[Result]) -> FitJob | None:
        done = len(results)
        if done >= self.count:
            return None
        start = results[-1].job.name if results else ""
        return FitJob(
            stage=f"octave-{done + 1}",
            # The smallest scale has the highest number.
            patch={"objective.octave": self.count - 1 - done},
            start=start,
        )

    def split_rows(self, dataset: Dataset, job: FitJob, seed: int) -> RowSplit:
        return np.arange(len(dataset)), None


def octaves(*, count: Count) -> ImageScales:
    """The image at so many scales; nothing is held out."""
    return ImageScales(count)
