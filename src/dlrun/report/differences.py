"""Measures how far runs are apart on the same rows, and selects the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core import formatting, run_reader
from dlrun.core.errors import CorruptedFileError, UserError
from dlrun.report import result_tables, workflow_stages

if TYPE_CHECKING:
    from dlrun.evaluation.bootstrap import Interval


def compare_runs(runs: Sequence[Path]) -> list[str]:
    """Say which run is best on its validation rows, and whether the others are within chance of it.

    Runs are called by their numbers, from 1.

    Returns:
        Sentences; a single one where the runs share no metric.
    """
    results = [run_reader.read_results(run) for run in runs]
    goals = run_reader.read_direction_map([line for lines in results for line in lines])
    try:
        measure = find_shared_metric(runs[0], runs[0])
        scores = [_get_score(run, measure) for run in runs]
    except CorruptedFileError:
        raise  # it is a UserError too, and must not pass for a run without scores
    except UserError as fault:
        return [f"No run can be called the best: {fault}."]
    sign = 1 if formatting.get_direction(measure, goals) == "min" else -1
    best = min(range(len(runs)), key=lambda index: sign * scores[index])
    value = formatting.format_number(scores[best])
    lines = [f"Best by validation {measure}: run {best + 1}, {value}."]
    close_runs = []
    for index in (index for index in range(len(runs)) if index != best):
        text, is_close = _describe_pair(runs, best, index, measure, goals)
        lines.append(text)
        close_runs += [f"run {index + 1}"] if is_close else []
    # Of two runs the line above says it already.
    if close_runs and len(runs) > 2:
        lines.append(f"Within chance of the best: {', '.join(close_runs)}.")
    return lines


def _describe_pair(
    runs: Sequence[Path], best: int, index: int, measure: str, goals: dict[str, str]
) -> tuple[str, bool]:
    """How far a run is from the best one, and whether that may be chance."""
    try:
        difference = compute_run_difference(runs[index], runs[best], measure)
    except CorruptedFileError:
        raise
    except UserError as fault:
        # Other rows or other data: no verdict on this pair, and the others are compared.
        return f"Run {index + 1} cannot be compared with it row by row: {fault}.", False
    text = result_tables.describe_difference(measure, difference, goals)
    return f"Run {best + 1} − run {index + 1}: {text}.", not difference.is_nonzero


def _get_score(run: Path, measure: str) -> float:
    """The score that stands for a run, over folds their mean."""
    stage = _find_stage(run)
    lines = [
        line
        for line in run_reader.read_results(run)
        if line["split"] == "val" and line["job"]["stage"] == stage
    ]
    mean, _ = result_tables.mean_and_std(
        result_tables.get_metric_values([line["scores"] for line in lines], measure)
    )
    # nan would win every `min`.
    if mean is None or mean != mean:
        raise UserError(f"{run} has no {measure}")
    return mean


def compute_run_difference(first: Path, second: Path, measure: str) -> Interval:
    """Second minus first on the same rows; raises UserError where these are not the same."""
    from dlrun.evaluation import predictions

    first_rows, second_rows = (
        predictions.combine_stage_predictions(run, _find_stage(run), "val")
        for run in (first, second)
    )
    return predictions.compute_difference(first_rows, second_rows, measure)


def _find_stage(run: Path) -> str:
    """The stage that stands for a run: the winner of a workflow, or else that of its last fit."""
    fitted = [
        line for line in run_reader.read_results(run) if line["split"] == "val" and line["scores"]
    ]
    if not fitted:
        raise UserError(f"{run} was not validated")
    return workflow_stages.find_best_stage(run_reader.read_verdicts(run)) or str(
        fitted[-1]["job"]["stage"]
    )


def find_shared_metric(first: Path, second: Path) -> str:
    """The first metric beside the loss that both runs have; raises UserError without one."""
    names = [
        [
            name
            for line in run_reader.read_results(run)
            if line["split"] == "val"
            for name in line["scores"]
        ]
        for run in (first, second)
    ]
    shared = [name for name in names[0] if name in names[1] and not formatting.is_loss(name)]
    if not shared:
        raise UserError("they have no measure in common beside the loss")
    return shared[0]
