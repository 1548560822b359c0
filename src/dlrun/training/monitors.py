"""What is watched after each epoch: which measures there will be, which way they are better, and who looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dlrun.core.errors import UserError, format_names
from dlrun.core.types import Field, Score, Spec
from dlrun.evaluation import metrics
from dlrun.training.callbacks import (
    BestCheckpoint,
    CollapseDetector,
    EarlyStopping,
    StopAtThreshold,
)
from dlrun.training.custom_callback import build_callback
from dlrun.training.trainer import Trainer

STOPPING_CALLBACKS = (CollapseDetector, EarlyStopping, StopAtThreshold)


def build_callbacks(
    nodes: Mapping[str, Any], trainer: Trainer, schedule: Any, plugins: tuple[str, ...]
) -> list[Any]:
    """The callbacks that these nodes describe, each told which direction is better, and the schedule likewise.

    Raises UserError when one of them watches what is not measured.
    """
    goals = get_direction_by_metric(trainer)
    splits = ["train"] if trainer.data.val is None else ["train", "val"]
    there = [f"{split}/{name}" for split in splits for name in goals]
    found = []
    for name, node in nodes.items():
        callback = build_callback(node, plugins)
        if not (
            isinstance(callback, BestCheckpoint) and has_no_monitor(callback.monitor, splits, goals)
        ):
            found.append(with_direction(callback, f"callback.{name}", there, goals))
    found.sort(key=get_callback_order)
    if hasattr(schedule, "monitor"):
        trainer.optimization.schedule = with_direction(schedule, "scheduler", there, goals)
    return found


def get_callback_order(callback: Any) -> int:
    """Who is called first: so no other's exception loses an epoch, and others know that an epoch is the last."""
    return (
        0
        if isinstance(callback, BestCheckpoint)
        else 1
        if isinstance(callback, STOPPING_CALLBACKS)
        else 2
    )


def has_no_monitor(monitor: str, splits: list[str], goals: dict[str, str]) -> bool:
    """Whether there is nothing to be best by, so that the last epoch is what there is.

    Either no row is held out, or there are several groups with losses of their own, and no one loss.
    """
    return (monitor.startswith("val/") and len(splits) == 1) or (
        monitor == "val/loss" and "loss" not in goals
    )


def get_loss_targets(objective: Any, spec: Spec) -> dict[str, Field]:
    """The targets that an objective answers: those that it has a loss for."""
    return {name: spec.targets[name] for name in getattr(objective, "losses", ())}


def get_direction_by_metric(trainer: Trainer) -> dict[str, str]:
    """Name → better direction of every measure that a row will hold; an objective with others says so (`goals`)."""
    objective: Any = trainer.objective
    if hasattr(objective, "goals"):
        return dict(objective.goals)
    targets = get_loss_targets(objective, trainer.data.spec)
    several = {f"loss_{name}": "min" for name in targets} if len(targets) > 1 else {}
    return (
        metrics.get_direction_map({name: metric for name, (_, metric) in trainer.metrics.items()})
        | several
    )


def with_direction(part: Any, name: str, there: list[str], goals: dict[str, str]) -> Any:
    """A part that monitors a measure, told which direction of it is better. Raises UserError when nobody measures it."""
    monitor = getattr(part, "monitor", None)
    if monitor is None:
        return part
    if monitor not in there:
        raise UserError(
            f"{name}.monitor={monitor} is not measured; there are: {format_names(there, monitor)}"
        )
    return replace(part, goal=goals[monitor.partition("/")[2]])


def scores_with_direction(scores: dict[str, Score], goals: dict[str, str]) -> dict[str, Score]:
    """Scores that say which way each of them is better, as the metric or the objective declares it."""
    return {
        name: replace(score, goal=goals.get(name) or score.goal) for name, score in scores.items()
    }
