"""How far the order of a sweep's jobs may be chance: seeds summed up, and what cannot be told from the best job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core import measure_names, run_reader
from dlrun.core.errors import UserError
from dlrun.report import formatting
from dlrun.report.sweep_jobs import (
    SEED_KEYS,
    JobRow,
    SweepObjective,
    find_best_jobs,
    find_variable_keys,
    get_job_score,
    group_by_seed,
    mean_over_jobs,
    merge_direction_map,
    rank_jobs,
)

if TYPE_CHECKING:
    from dlrun.evaluation.bootstrap import Interval


MAX_COMPARED = 20  # jobs after the best that are compared with it
NUM_STANDARD_ERRORS = (
    2.0  # standard errors: two means over seeds that are nearer cannot be told apart
)
MAX_LISTED = 6  # jobs that are named


def make_seed_table(found: list[JobRow], aim: SweepObjective) -> tuple[list[str], list[list[str]]]:
    """A table of the jobs that differ only in their seeds, mean ± sd, the best first; no rows where none do."""
    measure = aim.get_main_metric(found)
    groups = [group for group in group_by_seed(found, measure) if len(group) > 1]
    goals, keys = (
        merge_direction_map(found),
        [key for key in find_variable_keys(found) if key not in SEED_KEYS],
    )
    lower = measure_names.get_direction(measure, goals) == "min"
    groups.sort(key=lambda group: mean_over_jobs(group, measure) * (1 if lower else -1))
    names = list(dict.fromkeys(name for group in groups for line in group for name in line.scores))
    rows = []
    for group in groups:
        cells = [formatting.format_mean_std(*_mean_and_std(group, name)) for name in names]
        rows.append([*(group[0].overrides.get(key, "") for key in keys), str(len(group)), *cells])
    return [*keys, "seeds", *names], rows


def describe_best_job(folder: Path, found: list[JobRow], aim: SweepObjective) -> list[str]:
    """What must stand beside the best job: its score, and which others are within chance of it."""
    first, measure = find_best_jobs(found, aim)[:1], aim.get_main_metric(found)
    if not first or len(aim.names) > 1:
        return []
    groups = group_by_seed(found, measure)
    own = next(group for group in groups if first[0] in group)
    if len(own) > 1:
        return _format_seed_row(own, groups, measure)
    line = first[0]
    value = line.scores[measure][0] or 0.0
    deviation = line.scores[measure][1]
    text = formatting.format_interval(value, *line.intervals.get(measure, (None, None)))
    text = formatting.format_mean_std(value, deviation) if deviation is not None else text
    said = [f"{measure} {text}"]
    others = [
        other for other in rank_jobs(found, measure) if other is not line and other.status == "done"
    ]
    near = [
        other for other in others[:MAX_COMPARED] if _is_comparable(folder, line, other, measure)
    ]
    if near:
        said.append(f"within chance of it, as far as these rows tell: {_format_job_names(near)}")
    return said


def _format_seed_row(own: list[JobRow], groups: list[list[JobRow]], measure: str) -> list[str]:
    text = formatting.format_mean_std(*_mean_and_std(own, measure))
    said = [f"{measure} {text} over {len(own)} seeds, of which this job is the middle one"]
    near = [group for group in groups if group is not own and _means_overlap(own, group, measure)]
    if near:
        told = _format_job_names(
            [rank_jobs(group, measure)[(len(group) - 1) // 2] for group in near]
        )
        said.append(f"within {NUM_STANDARD_ERRORS:g} standard errors of it over seeds: {told}")
    return said


def _means_overlap(own: list[JobRow], group: list[JobRow], measure: str) -> bool:
    """Whether two settings cannot be told apart by their means over seeds."""
    (mean, spread), (other, apart) = (_mean_and_std(lines, measure) for lines in (own, group))
    shared = max(spread or 0.0, apart or 0.0)
    error = math.hypot(
        (spread or shared) / math.sqrt(len(own)), (apart or shared) / math.sqrt(len(group))
    )
    return abs((mean or 0.0) - (other or 0.0)) <= NUM_STANDARD_ERRORS * error


def _is_comparable(folder: Path, line: JobRow, other: JobRow, measure: str) -> bool:
    """Whether another job may be as good: by their difference on the same rows, else by the best job's interval."""
    value = get_job_score(other, measure)
    if value is None:
        return False
    try:
        return not _compute_job_difference(
            folder / line.folder, folder / other.folder, measure
        ).is_nonzero
    except (UserError, OSError):
        low, high = line.intervals.get(measure, (None, None))
        return low is not None and high is not None and low <= value <= high


def _compute_job_difference(first: Path, second: Path, measure: str) -> Interval:
    from dlrun.evaluation import predictions

    pools = []
    for run in (first, second):
        stages = [
            line["job"]["stage"] for line in run_reader.read_results(run) if line["split"] == "val"
        ]
        if not stages:
            raise UserError(f"{run} was not validated")
        pools.append(predictions.combine_stage_predictions(run, stages[-1], "val"))
    return predictions.compute_difference(pools[0], pools[1], measure)


def _mean_and_std(group: Sequence[JobRow], measure: str) -> tuple[float | None, float | None]:
    return formatting.mean_and_std(
        [line.scores.get(measure, (None, None))[0] or 0.0 for line in group]
    )


def _format_job_names(lines: Sequence[JobRow]) -> str:
    told = ", ".join(line.folder for line in lines[:MAX_LISTED])
    return told + (f" and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else "")
