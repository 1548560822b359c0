"""The settings of the engine and of the workflow, as conf/engine/ and conf/workflow/ give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dlrun.ranges import Count, Natural, NonNegative, Positive, Probability


@dataclass(frozen=True, kw_only=True)
class Settings:
    """epochs: visits of the training rows. max_steps: stop after so many optimizer steps. accumulate: batches a step.
    epoch_batches: training batches that make an epoch; null = all of them, so many others of them each time.

    eval_batch_size: rows a batch when nothing is learnt; null = the larger of batch_size and 256.
    clip_norm, clip_value: bounds on the gradient. ema: decay of the running average of the weights that is used for
    evaluation. save_every: seconds between checkpoints. overfit: train and validate on the same so many rows, and say
    whether the model can learn them by heart.
    """

    epochs: Count
    batch_size: Count
    eval_batch_size: Count | None
    max_steps: Count | None
    epoch_batches: Count | None
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    accumulate: Count
    clip_norm: Positive | None
    clip_value: Positive | None
    ema: Probability | None
    compile: bool
    deterministic: bool
    save_every: NonNegative
    overfit: Count | None

    @property
    def rows_at_once(self) -> int:
        """Rows of a batch when nothing is learnt."""
        return self.eval_batch_size or max(self.batch_size, 256)


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """What `dlrun workflow` tries, as conf/workflow/ gives it; there stands what each of them means."""

    budget: str | int
    measure: str
    protocol: Literal["auto", "task"]
    small: dict[str, Any]
    ladder: dict[str, Any]
    study: dict[str, Any]
    search: Natural
    space: dict[str, Any]
    patience: Probability
    seeds: Count
