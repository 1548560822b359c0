"""The settings of the engine, the workflow and a sweep, as conf/engine, conf/workflow and conf/sweep give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dlrun.ranges import Count, Natural, NonNegative, Positive, Probability

LATER = {"devices": None, "shard": False}  # what runs of an older dlrun did not say of their engine


@dataclass(frozen=True, kw_only=True)
class Settings:
    """epochs: visits of the training rows. max_steps: stop after so many optimizer steps. accumulate: batches a step.
    epoch_batches: training batches that make an epoch; null = all of them, so many others of them each time.

    eval_batch_size: rows a batch when nothing is learnt; null = the larger of batch_size and 256.
    clip_norm, clip_value: bounds on the gradient. ema: decay of the running average of the weights that is used for
    evaluation. save_every: seconds between checkpoints. overfit: train and validate on the same so many rows, and say
    whether the model can learn them by heart. devices: how many processes share every batch, each on a device of its
    own (of the kind that `device` says), or the names of the devices; null = this process alone. shard: each of them
    keeps only a part of the weights, for a model that does not fit one device.
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
    devices: Count | list[str] | None
    shard: bool

    @property
    def own_device(self) -> str:
        """The name of the device of a process that is alone."""
        return self.devices[0] if isinstance(self.devices, list) and self.devices else self.device

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


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What `dlrun -m` tries and how, as conf/sweep/ gives it; there stands what each of them means."""

    method: Literal["grid", "random", "tpe"]
    prune: Literal["halving", "hyperband", "median"] | None
    startup: Count
    factor: Count
    least: Count
    jobs: Count
    share: Count
    devices: list[str] | None
    trials: Count | None
    limit: Positive | None
    seed: int
    measure: str | list[str] | None
    zip: list[str]
    retry: bool
    fresh: bool
