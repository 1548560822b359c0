"""How far the order of a sweep's jobs may be chance: means over seeds, and jobs near the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core import formatting, run_reader
from dlrun.core.errors import UserError
from dlrun.report import result_tables
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


def make_seed_table(
    jobs: list[JobRow], objective: SweepObjective
) -> tuple[list[str], list[list[str]]]:
    """The jobs that differ only in their seeds, as mean ± sd, the best first.

    Returns:
        Column names and rows; no rows where no jobs differ only in their seeds.
    """
    measure = objective.get_main_metric(jobs)
    groups = [group for group in group_by_seed(jobs, measure) if len(group) > 1]
    goals = merge_direction_map(jobs)
    keys = [key for key in find_variable_keys(jobs) if key not in SEED_KEYS]
    lower_is_better = formatting.get_direction(measure, goals) == "min"
    groups.sort(key=lambda group: mean_over_jobs(group, measure) * (1 if lower_is_better else -1))
    names = list(dict.fromkeys(name for group in groups for job in group for name in job.scores))
    rows = []
    for group in groups:
        cells = [result_tables.format_mean_std(*_mean_and_std(group, name)) for name in names]
        rows.append([*(group[0].overrides.get(key, "") for key in keys), str(len(group)), *cells])
    return [*keys, "seeds", *names], rows


def describe_best_job(folder: Path, jobs: list[JobRow], objective: SweepObjective) -> list[str]:
    """What must stand beside the best job: its score, and which others are within chance of it."""
    best_jobs, measure = find_best_jobs(jobs, objective)[:1], objective.get_main_metric(jobs)
    # Of a Pareto front none is the best.
    if not best_jobs or len(objective.names) > 1:
        return []
    groups = group_by_seed(jobs, measure)
    # The winner stands for its seeds, which are compared instead of single jobs.
    best_group = next(group for group in groups if best_jobs[0] in group)
    if len(best_group) > 1:
        return _format_seed_row(best_group, groups, measure)
    best = best_jobs[0]
    value = best.scores[measure][0] or 0.0
    deviation = best.scores[measure][1]
    text = result_tables.format_interval(value, *best.intervals.get(measure, (None, None)))
    text = result_tables.format_mean_std(value, deviation) if deviation is not None else text
    sentences = [f"{measure} {text}"]
    rivals = [job for job in rank_jobs(jobs, measure) if job is not best and job.status == "done"]
    near = [job for job in rivals[:MAX_COMPARED] if _is_comparable(folder, best, job, measure)]
    if near:
        sentences.append(
            f"within chance of it, as far as these rows tell: {_format_job_names(near)}"
        )
    return sentences


def _format_seed_row(
    best_group: list[JobRow], groups: list[list[JobRow]], measure: str
) -> list[str]:
    text = result_tables.format_mean_std(*_mean_and_std(best_group, measure))
    sentences = [
        f"{measure} {text} over {len(best_group)} seeds, of which this job is the middle one"
    ]
    near = [
        group
        for group in groups
        if group is not best_group and _means_overlap(best_group, group, measure)
    ]
    if near:
        names = _format_job_names(
            [rank_jobs(group, measure)[(len(group) - 1) // 2] for group in near]
        )
        sentences.append(
            f"within {NUM_STANDARD_ERRORS:g} standard errors of it over seeds: {names}"
        )
    return sentences


def _means_overlap(group: list[JobRow], other_group: list[JobRow], measure: str) -> bool:
    """Whether two settings cannot be told apart by their means over seeds."""
    (mean, spread), (other_mean, other_spread) = (
        _mean_and_std(lines, measure) for lines in (group, other_group)
    )
    # A group of one seed has no deviation: the other group's is the best guess.
    shared = max(spread or 0.0, other_spread or 0.0)
    error = math.hypot(
        (spread or shared) / math.sqrt(len(group)),
        (other_spread or shared) / math.sqrt(len(other_group)),
    )
    return abs((mean or 0.0) - (other_mean or 0.0)) <= NUM_STANDARD_ERRORS * error


def _is_comparable(folder: Path, best: JobRow, job: JobRow, measure: str) -> bool:
    """Whether another job may be as good.

    By their difference on the same rows where it can be computed, else by the best job's interval.
    """
    value = get_job_score(job, measure)
    if value is None:
        return False
    try:
        return not _compute_job_difference(
            folder / best.folder, folder / job.folder, measure
        ).is_nonzero
    # Other rows, or no stored predictions: the interval alone must decide.
    except (UserError, OSError):
        low, high = best.intervals.get(measure, (None, None))
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
    return result_tables.mean_and_std(
        [job.scores.get(measure, (None, None))[0] or 0.0 for job in group]
    )


def _format_job_names(jobs: Sequence[JobRow]) -> str:
    names = ", ".join(job.folder for job in jobs[:MAX_LISTED])
    return names + (f" and {len(jobs) - MAX_LISTED} more" if len(jobs) > MAX_LISTED else "")
