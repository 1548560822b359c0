"""Settings of the engine and of a config's root, and the check that nothing else stands there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from dlrun.config import parts
from dlrun.config.annotations import MAX_INTEGER, Count, Natural, NonNegative, Positive, Probability
from dlrun.config.compatibility import PER_TARGET_OVERRIDES
from dlrun.config.parts import truncate_value
from dlrun.core.files import is_safe_name

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


# Groups with one part each.
SINGLE_PARTS = (
    "data",
    "model",
    "objective",
    "loss",
    "optimizer",
    "scheduler",
    "protocol",
    "engine",
    "stages",
)
PART_LISTS = ("metric", "callback", "augment")  # any number of each
ADDED_LATER = ("objective",)  # runs of earlier versions have none
REQUIRED_KEYS = (
    *(group for group in SINGLE_PARTS if group not in ADDED_LATER),
    *PART_LISTS,
    "task",
    "source",
    "loss_weights",
)
# Key of the root → its type, and the type in words.
TYPES: dict[str, tuple[Any, str]] = {
    "seed": (int, "a whole number of at most 63 bits"),
    "repeat": (int, "a whole number from 1 up"),
    "reason": (str, "text"),
    "test": (bool, "true or false"),
    "output": (str, "a folder"),
    "plugins": (list, "a list of package names"),
}
NUMBER = (int, float)
# What an experiment says of the book's result, in conf/experiment.
BOOK: dict[str, Any] = {
    "section": str,
    "measure": str,
    "figure": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
}


def find_structure_errors(config: dict[str, Any]) -> Iterator[str]:
    """What a config lacks, and values in the place of mappings or the reverse.

    With such faults nothing else can be judged.
    """
    for key in (*REQUIRED_KEYS, *TYPES):
        if key not in config:
            yield f"the config has no '{key}'"
    for key in (*PART_LISTS, "task"):
        if not isinstance(config.get(key, {}), dict):
            value = truncate_value(config[key])
            yield f"{key}={value}: it must be a mapping; choose one by name: {key}=NAME"
    for group in parts.PER_TARGET_KINDS:
        for target, node in get_parts_by_target(config, group):
            if not is_part_node(node, group):
                choose = PER_TARGET_OVERRIDES[group].format(target)
                value = truncate_value(node)
                yield f"{group}.{target}={value}: it must be of parts; choose by name: {choose}"
    yield from find_task_errors(config.get("task"))
    yield from find_inner_structure_errors(config)


def find_task_errors(task: Any) -> Iterator[str]:
    """Faults of a task's description."""
    if not isinstance(task, dict):
        return
    if not isinstance(name := task.get("name"), str) or not is_safe_name(name):
        yield f"task.name={truncate_value(name)}: it must be text, and the name of a folder"
    for key in ("inputs", "targets"):
        columns = task.get(key)
        # Without kinds no model can be checked against the columns.
        named = isinstance(columns, dict) and all(
            isinstance(kind, str) for kind in columns.values()
        )
        if columns is not None and not named:
            yield (
                f"task.{key}={truncate_value(columns)}: "
                "it must be a mapping of columns to kinds, such as {age: number}"
            )


def find_inner_structure_errors(config: dict[str, Any]) -> Iterator[str]:
    """Faults of mappings that no part's signature describes."""
    stages: Any = config.get("stages")
    for name in ("first", "then") if isinstance(stages, dict) else ():
        if not isinstance(stages.get(name) or {}, dict):
            yield (
                f"stages.{name}={truncate_value(stages[name])}: "
                "it must be a mapping, such as {model: {dropout: 0.5}}"
            )
    book = config.get("book")
    if book is not None and not (
        isinstance(book, dict) and all(isinstance(book.get(k), BOOK[k]) for k in BOOK)
    ):
        yield (
            f"book={truncate_value(book)}: it must be null, or have {', '.join(BOOK)}, "
            "as experiments set it"
        )
    weights = config.get("loss_weights")
    if weights is not None and not (
        isinstance(weights, dict) and all(map(is_weight, weights.values()))
    ):
        yield (
            f"loss_weights={truncate_value(weights)}: "
            "it must give each target a number from 0 up, such as {price: 1, rooms: 0.1}"
        )


def is_weight(value: Any) -> bool:
    """Whether a value is a finite number from 0 up."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value >= 0
        and math.isfinite(value)
    )


def find_root_errors(config: dict[str, Any]) -> Iterator[str]:
    """Faults of the settings at the root."""
    for key, (expected_type, text) in TYPES.items():
        value = config[key]
        # bool is a subclass of int in Python.
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        is_outside = is_integer and (key == "repeat" and value < 1 or abs(value) > MAX_INTEGER)
        if (
            not isinstance(value, expected_type)
            or (expected_type is int and not is_integer)
            or is_outside
        ):
            yield f"{key}={truncate_value(value)}: it must be {text}"
    if config["source"] not in ("official", "sample"):
        yield f"source={truncate_value(config['source'])}: it must be official or sample"
    if isinstance(config["protocol"], dict):
        yield from _find_protocol_errors(config)


def _find_protocol_errors(config: dict[str, Any]) -> Iterator[str]:
    """Faults of the settings that every protocol has, which are in no protocol's signature."""
    stacked = parallel_fits_mode(config)
    if stacked not in (True, False, "auto"):
        yield f"protocol.stacked={truncate_value(stacked)}: it must be true, false or auto"
    seed = config["protocol"].get("seed")
    if seed is not None and (
        not isinstance(seed, int) or isinstance(seed, bool) or abs(seed) > MAX_INTEGER
    ):
        yield (
            f"protocol.seed={truncate_value(seed)}: "
            "it must be a whole number, or null for that of seed"
        )


def get_parts_by_target(config: dict[str, Any], group: str) -> list[tuple[str, Any]]:
    """Target → its own loss or metrics; one entry TARGET where that is no mapping."""
    node = config.get(group) or {}
    return list(node.items()) if isinstance(node, dict) else [("TARGET", node)]


def is_part_node(node: Any, group: str) -> bool:
    """Whether this is a part, or for metrics a mapping of parts."""
    nodes = list(node.values()) if group == "metrics" and isinstance(node, dict) else [node]
    return bool(nodes) and all(
        isinstance(part_node, dict) and "_target_" in part_node for part_node in nodes
    )
