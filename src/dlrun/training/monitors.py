"""What is watched after each epoch: which measures there will be, which way they are better, and who looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dlrun.core.errors import Refused, in_short
from dlrun.core.types import Field, Score, Spec
from dlrun.evaluation import metrics
from dlrun.training.callbacks import Collapse, EarlyStopping, KeepBest, Limit
from dlrun.training.custom_callback import callback_of
from dlrun.training.trainer import Trainer

STOPPERS = (Collapse, EarlyStopping, Limit)


def callbacks(nodes: Mapping[str, Any], trainer: Trainer, schedule: Any, plugins: tuple[str, ...]) -> list[Any]:
    """The callbacks that these nodes describe, each told which direction is better, and the schedule likewise.

    Raises Refused when one of them watches what is not measured.
    """
    goals = goals_of(trainer)
    splits = ["train"] if trainer.data.val is None else ["train", "val"]
    there = [f"{split}/{name}" for split in splits for name in goals]
    found = []
    for name, node in nodes.items():
        callback = callback_of(node, plugins)
        if not (isinstance(callback, KeepBest) and keeps_nothing(callback.monitor, splits, goals)):
            found.append(aimed(callback, f"callback.{name}", there, goals))
    found.sort(key=turn)
    if hasattr(schedule, "monitor"):
        trainer.learner.schedule = aimed(schedule, "scheduler", there, goals)
    return found


def turn(callback: Any) -> int:
    """Who is called first: so no other's exception loses an epoch, and others know that an epoch is the last."""
    return 0 if isinstance(callback, KeepBest) else 1 if isinstance(callback, STOPPERS) else 2


def keeps_nothing(monitor: str, splits: list[str], goals: dict[str, str]) -> bool:
    """Whether there is nothing to be best by, so that the last epoch is what there is.

    Either no row is held out, or there are several groups with losses of their own, and no one loss.
    """
    return (monitor.startswith("val/") and len(splits) == 1) or (monitor == "val/loss" and "loss" not in goals)


def answered(objective: Any, spec: Spec) -> dict[str, Field]:
    """The targets that an objective answers: those that it has a loss for."""
    return {name: spec.targets[name] for name in getattr(objective, "losses", ())}


def goals_of(trainer: Trainer) -> dict[str, str]:
    """Name → better direction of every measure that a row will hold; an objective with others says so (`goals`)."""
    objective: Any = trainer.objective
    if hasattr(objective, "goals"):
        return dict(objective.goals)
    targets = answered(objective, trainer.data.spec)
    several = {f"loss_{name}": "min" for name in targets} if len(targets) > 1 else {}
    return metrics.measure_all({name: metric for name, (_, metric) in trainer.measures.items()}) | several


def aimed(part: Any, name: str, there: list[str], goals: dict[str, str]) -> Any:
    """A part that monitors a measure, told which direction of it is better. Raises Refused when nobody measures it."""
    monitor = getattr(part, "monitor", None)
    if monitor is None:
        return part
    if monitor not in there:
        raise Refused(f"{name}.monitor={monitor} is not measured; there are: {in_short(there, monitor)}")
    return replace(part, goal=goals[monitor.partition("/")[2]])


def directed(scores: dict[str, Score], goals: dict[str, str]) -> dict[str, Score]:
    """Scores that say which way each of them is better, as the metric or the objective declares it."""
    return {name: replace(score, goal=goals.get(name) or score.goal) for name, score in scores.items()}
