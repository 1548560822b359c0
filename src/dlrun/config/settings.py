"""The settings of the engine, workflows, sweeps and all protocols; their values stand in conf/."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from dlrun.config.constraints import Count, Natural, NonNegative, Positive, Probability

if TYPE_CHECKING:
    from dlrun.core.types import Spec


BATCHES_PER_EPOCH = 256  # about; batch_size=auto is a power of two
MAX_INFERENCE_ROWS = 1 << 14  # numbers in a batch of small rows
# Settings that runs of earlier versions do not have.
DEFAULTS_OF_OLD_RUNS = {"devices": None, "shard": False}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the engine, as conf/engine gives them.

    Attributes:
        epochs: Visits of the training rows.
        batch_size: Rows of a training batch; auto: about a 256th of the development rows, from 16
            to 512, see `with_batch_size`.
        eval_batch_size: Rows of a batch in evaluation; null: the larger of batch_size and 256, and
            up to 1024 for rows of a few numbers.
        max_steps: Stop after this many optimizer steps.
        epoch_batches: Training batches of an epoch; null: all. Each epoch takes other ones.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Of a training step; the weights stay fp32.
        accumulate: Batches of one optimizer step.
        clip_norm: The largest norm of the gradient.
        clip_value: The largest value in the gradient.
        ema: Decay of the running average of the weights that evaluation uses.
        compile: true: the network; step: the whole training step with the optimizer, for a small
            network that is trained for long on the CPU.
        deterministic: Bitwise-identical results on one machine.
        save_every: Seconds between checkpoints.
        overfit: Train and validate on the same few rows, and report whether the model can
            memorize them.
        devices: Number of processes that share every batch, each on a device of its own of the kind
            `device`, or the devices' names; null: this process alone.
        shard: Each process keeps only a part of the weights, for models larger than one device.
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
        """Rows of a training batch, after `with_batch_size`."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    def with_batch_size(self, rows: int) -> Settings:
        """A copy whose batch size is known.

        Args:
            rows: Number of development rows; `auto` becomes a power of two near a 256th of it.
        """
        if self.batch_size != "auto":
            return self
        exponent = round(math.log2(max(1, rows) / BATCHES_PER_EPOCH))
        return replace(self, batch_size=min(512, max(16, 1 << max(0, exponent))))

    @property
    def single_device(self) -> str:
        """The device of a process that is alone."""
        return self.devices[0] if isinstance(self.devices, list) and self.devices else self.device

    def get_inference_batch_size(self, spec: Spec) -> int:
        """Rows of a batch in evaluation and prediction.

        Args:
            spec: Its inputs; batches of small rows are large, since each batch has a fixed cost.
        """
        is_known = all(
            field.kind != "bag" and (field.kind != "tokens" or field.shape)
            for field in spec.inputs.values()
        )
        numbers = sum(math.prod(field.shape) for field in spec.inputs.values())
        # Bags and sequences of any length have no fixed size, and keep the usual batch.
        small = MAX_INFERENCE_ROWS // max(1, numbers) if is_known and numbers else 0
        return self.eval_batch_size or max(self.batch_rows, 256, min(small, 1024))


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """The settings of `dlrun workflow`; conf/workflow says what each of them means."""

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
    """The settings of `dlrun -m`; conf/sweep says what each of them means."""

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


def parallel_fits_mode(config: Mapping[str, Any]) -> bool | str:
    """protocol.stacked: true, false or auto.

    Runs of earlier versions have no such key, and trained one fit after the other.
    """
    mode: bool | str = config["protocol"].get("stacked", False)
    return mode


def remove_common_settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's node without the settings that all protocols share."""
    return {key: value for key, value in node.items() if key not in ("stacked", "seed")}


def get_split_seed(config: Mapping[str, Any]) -> int:
    """What decides which rows are held out: protocol.seed, else the general seed."""
    seed: int | None = config["protocol"].get("seed")
    return int(config["seed"]) if seed is None else seed
