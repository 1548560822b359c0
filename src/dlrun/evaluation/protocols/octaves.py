"""A picture in octaves: one fit a scale, the smallest first, each beginning where the one before has ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlrun.config.constraints import Count
from dlrun.core.dataset import Raw
from dlrun.core.types import Job, Result
from dlrun.evaluation.protocols.plans import Rows


@dataclass(frozen=True)
class Octaves:
    """So many fits of an objective that has a setting `octave`, of which 0 is the full size (book §8.2)."""

    count: int

    def __call__(self, results: list[Result]) -> Job | None:
        done = len(results)
        if done >= self.count:
            return None
        start = results[-1].job.name if results else ""
        return Job(stage=f"octave-{done + 1}", patch={"objective.octave": self.count - 1 - done}, start=start)

    def rows(self, raw: Raw, job: Job, seed: int) -> Rows:
        return np.arange(len(raw)), None


def octaves(*, count: Count) -> Octaves:
    """The picture at so many scales; nothing is held out."""
    return Octaves(count)
