"""Says how far runs are apart on the same rows, and which is the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core import formatting, measure_names, run_reader
from dlrun.core.errors import Damaged, Refused
from dlrun.report import formatting as measures
from dlrun.report import workflow_stages

if TYPE_CHECKING:
    from dlrun.evaluation.bootstrap import Interval


def verdict(runs: Sequence[Path]) -> list[str]:
    """Which run is the best on its validation rows, and whether the others are more than chance away from it.

    Runs are called by their places, from 1. One line where they share no measure.
    """
    results = [run_reader.results(run) for run in runs]
    goals = run_reader.goals([line for lines in results for line in lines])
    try:
        measure = shared_measure(runs[0], runs[0])
        found = [_value(run, measure) for run in runs]
    except Damaged:
        raise
    except Refused as fault:
        return [f"No run can be called the best: {fault}."]
    sign = 1 if measure_names.goal(measure, goals) == "min" else -1
    best = min(range(len(runs)), key=lambda place: sign * found[place])
    lines, chance = [f"Best by validation {measure}: run {best + 1}, {formatting.number(found[best])}."], []
    for place, run in enumerate(runs):
        if place == best:
            continue
        try:
            apart = difference(run, runs[best], measure)
        except Damaged:
            raise
        except Refused as fault:
            lines.append(f"Run {place + 1} cannot be compared with it row by row: {fault}.")
            continue
        lines.append(f"Run {best + 1} − run {place + 1}: {measures.said(measure, apart, goals)}.")
        chance += [] if apart.real else [f"run {place + 1}"]
    within = [f"Within chance of the best: {', '.join(chance)}."] if chance and len(runs) > 2 else []
    return [*lines, *within]


def _value(run: Path, measure: str) -> float:
    """The score that stands for a run, over folds their mean."""
    stage = _stage(run)
    lines = [line for line in run_reader.results(run) if line["split"] == "val" and line["job"]["stage"] == stage]
    mean, _ = measures.mean_and_deviation(measures.values([line["scores"] for line in lines], measure))
    if mean is None or mean != mean:
        raise Refused(f"{run} has no {measure}")
    return mean


def difference(first: Path, second: Path, measure: str) -> Interval:
    """How far the second run is from the first on the same rows. Raises Refused where these are not the same."""
    from dlrun.evaluation import predictions

    before, after = (predictions.of_stage(run, _stage(run), "val") for run in (first, second))
    return predictions.difference(before, after, measure)


def _stage(run: Path) -> str:
    """The stage that stands for a run: the winner of a workflow, or else that of its last fit."""
    fitted = [line for line in run_reader.results(run) if line["split"] == "val" and line["scores"]]
    if not fitted:
        raise Refused(f"{run} was not validated")
    return workflow_stages.winner(workflow_stages.verdicts(run)) or str(fitted[-1]["job"]["stage"])


def shared_measure(first: Path, second: Path) -> str:
    """The first measure beside the loss that both runs have. Raises Refused where there is none."""
    names = [
        [name for line in run_reader.results(run) if line["split"] == "val" for name in line["scores"]]
        for run in (first, second)
    ]
    shared = [name for name in names[0] if name in names[1] and not name.startswith("loss")]
    if not shared:
        raise Refused("they have no measure in common beside the loss")
    return shared[0]
