"""The settings of the engine, the workflow and a sweep, as conf/engine, conf/workflow and conf/sweep give them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from dlrun.config.constraints import Count, Natural, NonNegative, Positive, Probability

if TYPE_CHECKING:
    from dlrun.core.types import Spec


BATCHES_PER_EPOCH = 256  # an epoch, about, where a batch may have any size
MAX_INFERENCE_ROWS = 1 << 14  # numbers in a batch of small rows
DEFAULTS_OF_OLD_RUNS = {
    "devices": None,
    "shard": False,
}  # what runs of an older dlrun did not say of their engine


@dataclass(frozen=True, kw_only=True)
class Settings:
    """epochs: visits of the training rows. max_steps: stop after so many optimizer steps. accumulate: batches a step.
    batch_size: rows of a training batch; auto = about a 256th of the development rows, from 16 to 512 (see `sized`).
    epoch_batches: training batches that make an epoch; null = all of them, so many others of them each time.

    eval_batch_size: rows a batch when nothing is learnt; null = the larger of batch_size and 256, and up to
    1024 of rows of a few numbers.
    clip_norm, clip_value: bounds on the gradient. ema: decay of the running average of the weights that is used for
    evaluation. compile: true = the network; step = the whole training step with the optimizer, for a small network that
    is trained for long on the CPU. save_every: seconds between checkpoints. overfit: train and validate on the same so
    many rows, and say whether the model can learn them by heart. devices: how many processes share every batch, each on
    a device of its own (of the kind that `device` says), or the names of the devices; null = this process alone. shard:
    each of them keeps only a part of the weights, for a model that does not fit one device.
    """

    epochs: Count
    batch_size: Count | Literal["auto"]
    eval_batch_size: Count | None
    max_steps: Count | None
    epoch_batches: Count | None
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    accumulate: Count
    clip_norm: Positive | None
    clip_value: Positive | None
    ema: Probability | None
    compile: bool | Literal["step"]
    deterministic: bool
    save_every: NonNegative
    overfit: Count | None
    devices: Count | list[str] | None
    shard: bool

    @property
    def batch_rows(self) -> int:
        """Rows of a training batch, once it is known for how many rows."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    def with_batch_size(self, rows: int) -> Settings:
        """The same with a batch size for so many development rows, where that is `auto`: a power of two."""
        if self.batch_size != "auto":
            return self
        return replace(
            self,
            batch_size=min(
                512, max(16, 1 << max(0, round(math.log2(max(1, rows) / BATCHES_PER_EPOCH))))
            ),
        )

    @property
    def single_device(self) -> str:
        """The name of the device of a process that is alone."""
        return self.devices[0] if isinstance(self.devices, list) and self.devices else self.device

    def get_inference_batch_size(self, spec: Spec) -> int:
        """Rows of a batch of such inputs when nothing is learnt; of small rows many, for a batch has a price too."""
        known = all(
            field.kind != "bag" and (field.kind != "tokens" or field.shape)
            for field in spec.inputs.values()
        )
        numbers = sum(math.prod(field.shape) for field in spec.inputs.values())
        small = MAX_INFERENCE_ROWS // max(1, numbers) if known and numbers else 0
        return self.eval_batch_size or max(self.batch_rows, 256, min(small, 1024))


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
