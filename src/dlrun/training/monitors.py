"""What callbacks monitor: the metrics of the history and their better directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError, format_names
from dlrun.core.objective import Objective
from dlrun.core.types import Field, Score, Spec
from dlrun.evaluation import metrics
from dlrun.training.callbacks import (
    BestCheckpoint,
    Callback,
    CollapseDetector,
    EarlyStopping,
    StopAtThreshold,
)
from dlrun.training.schedules import Plateau
from dlrun.training.trainer import Trainer

STOPPING_CALLBACKS = (CollapseDetector, EarlyStopping, StopAtThreshold)
MONITORING_CALLBACKS = (BestCheckpoint, *STOPPING_CALLBACKS)
Monitoring = TypeVar(
    "Monitoring",
    bound=BestCheckpoint | CollapseDetector | EarlyStopping | StopAtThreshold | Plateau,
)


def build_callbacks(
    nodes: Mapping[str, Any], trainer: Trainer, schedule: Any, plugins: tuple[str, ...]
) -> list[Callback]:
    """The callbacks that these nodes describe, in the order in which they are called.

    Those that monitor a metric, and a schedule that does, learn which direction is better.

    Args:
        nodes: Name → node of the config.
        trainer: Whose history they will read; its schedule is replaced where it monitors a metric.
        schedule: Of the config.
        plugins: Packages whose parts may be named.

    Returns:
        The callbacks; without the best checkpoint where there is nothing to be best by.

    Raises:
        UserError: if one of them monitors what is not measured.
    """
    goals = get_direction_by_metric(trainer)
    splits = ["train"] if trainer.data.val is None else ["train", "val"]
    available = [f"{split}/{name}" for split in splits for name in goals]
    callbacks: list[Callback] = []
    for name, node in nodes.items():
        callback = build_callback(node, plugins)
        if isinstance(callback, BestCheckpoint) and has_no_monitor(callback.monitor, splits, goals):
            continue
        if isinstance(callback, MONITORING_CALLBACKS):
            callback = with_direction(callback, f"callback.{name}", available, goals)
        callbacks.append(callback)
    if isinstance(schedule, Plateau):
        trainer.optimization.schedule = with_direction(schedule, "scheduler", available, goals)
    return sorted(callbacks, key=get_callback_order)


def build_callback(node: Mapping[str, Any], plugins: tuple[str, ...]) -> Callback:
    """The callback that a node describes; see `custom_callback.wrap_callback` for one's own."""
    callback = build_part(node, kind="callback", plugins=plugins)
    if isinstance(callback, Callback):
        return callback
    from dlrun.training.custom_callback import wrap_callback

    return wrap_callback(callback, node["_target_"])


def get_callback_order(callback: Callback) -> int:
    """The rank of a callback in the order of calls, lowest first."""
    if isinstance(callback, BestCheckpoint):
        return 0  # so that no other's exception loses an epoch
    if isinstance(callback, STOPPING_CALLBACKS):
        return 1  # so that others know that this epoch is the last
    return 2


def has_no_monitor(monitor: str, splits: list[str], goals: dict[str, str]) -> bool:
    """Whether there is nothing to be best by, so that the last epoch is what there is.

    Either no row is held out, or there are several groups with losses of their own, and no one
    loss.
    """
    return (monitor.startswith("val/") and len(splits) == 1) or (
        monitor == "val/loss" and "loss" not in goals
    )


def get_loss_targets(objective: Objective, spec: Spec) -> dict[str, Field]:
    """The targets that an objective predicts: those that it has a loss for."""
    return {name: spec.targets[name] for name in objective.losses}


def get_direction_by_metric(trainer: Trainer) -> dict[str, str]:
    """Metric → its better direction, of all that the history will hold; see `Objective.goals`."""
    if trainer.objective.goals:
        return dict(trainer.objective.goals)
    goals = metrics.get_direction_map(
        {name: metric for name, (_, metric) in trainer.metrics.items()}
    )
    targets = get_loss_targets(trainer.objective, trainer.data.spec)
    # One target's loss is the loss itself.
    if len(targets) > 1:
        goals |= {f"loss_{name}": "min" for name in targets}
    return goals


def with_direction(
    monitoring: Monitoring, name: str, available: list[str], goals: dict[str, str]
) -> Monitoring:
    """A copy of a callback or schedule that knows which direction of its metric is better.

    Args:
        monitoring: Has `monitor`, 'split/metric', and `goal`.
        name: Its key in the config, for the error.
        available: All that is measured, as 'split/metric'.
        goals: Metric → 'min' or 'max'.

    Raises:
        UserError: if its metric is not measured.
    """
    monitor = monitoring.monitor
    if monitor not in available:
        raise UserError(
            f"{name}.monitor={monitor} is not measured; "
            f"there are: {format_names(available, monitor)}"
        )
    return replace(monitoring, goal=goals[monitor.partition("/")[2]])


def scores_with_direction(scores: dict[str, Score], goals: dict[str, str]) -> dict[str, Score]:
    """Scores with their better directions, as the metrics or the objective declare them."""
    return {
        name: replace(score, goal=goals.get(name) or score.goal) for name, score in scores.items()
    }
