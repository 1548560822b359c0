"""The jobs of a sweep folder: their scores, their order, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrun.core import run_folder, run_reader, stored_files
from dlrun.core import stored_files as stored
from dlrun.core.errors import UserError
from dlrun.core.formatting import COST_NAMES, choose_metric, direction_sign
from dlrun.report import result_tables

TEST_PREFIX = "test "  # before the name of a measure that was taken on test rows
# Jobs that differ in these alone have the same settings: what is drawn with them is chance.
SEED_KEYS = ("seed", "protocol.seed", "data.seed")


@dataclass(frozen=True)
class JobRow:
    """One job of a sweep.

    Attributes:
        job: Its number.
        status: 'done', 'pruned', 'failed' or another state.
        overrides: Config key → its own value.
        scores: Metric → (mean, deviation over folds).
        baseline: Metric → the baseline's mean.
        error: Why it failed, on one line.
        folder: Its run folder within the sweep's.
        note: SYNTHETIC, where its data are.
        intervals: Metric → the ends of its 95 % interval, of a job that is one fit.
        directions: Metric → 'min' or 'max', as its results say.
        undefined: Metric → why it has no value, or of how many fits the mean is.
    """

    job: int
    status: str
    overrides: dict[str, str]
    scores: dict[str, tuple[float | None, float | None]]
    baseline: dict[str, float | None]
    error: str
    folder: str
    note: str
    intervals: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    directions: dict[str, str] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepObjective:
    """What a sweep minimizes or maximizes.

    Attributes:
        names: The configured metrics, without their split; none: the first job decides.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def from_folder(cls, folder: Path) -> SweepObjective:
        """The objective in sweep.yaml; an empty one for sweeps from before it."""
        # Sweeps from before sweep.yaml are decided by the first metric.
        file = folder / "sweep.yaml"
        measure = (
            stored.load_yaml(file).get("search", {}).get("measure") if file.is_file() else None
        )
        names = [measure] if isinstance(measure, str) else measure or []
        return cls(tuple(name.removeprefix("val/") for name in names))

    def get_main_metric(self, jobs: Iterable[JobRow]) -> str:
        """The metric that the table is sorted by."""
        return choose_metric(
            (name for job in jobs for name in job.scores), self.names[0] if self.names else None
        )


def read_job_rows(
    folder: Path, objective: SweepObjective, cache: dict[int, JobRow] | None = None
) -> list[JobRow]:
    """The rows of all jobs.

    Args:
        folder: The sweep folder.
        objective: What the sweep optimizes.
        cache: Rows of jobs that have ended, which are not read again; new ones are added to it.
    """
    cache, jobs = {} if cache is None else cache, []
    for entry in _read_entries(folder):
        job = cache.get(entry["job"])
        if job is None or job.status != entry["status"]:
            job = _make_job_row(folder, entry, objective)
            cache[job.job] = job
        jobs.append(job)
    return jobs


def rank_jobs(jobs: list[JobRow], measure: str) -> list[JobRow]:
    """The jobs, best first.

    Finished ones come before pruned ones, then those without this score, and failed ones last.
    """

    goals = merge_direction_map(jobs)

    def sort_key(job: JobRow) -> tuple[int, float, int]:
        value = get_job_score(job, measure)
        # A pruned job has the score of an early epoch.
        rank = {"done": 0, "pruned": 1, "failed": 3}.get(job.status, 2)
        return (
            (rank, direction_sign(measure, goals) * value, job.job)
            if value is not None
            else (max(rank, 2), 0.0, job.job)
        )

    return sorted(jobs, key=sort_key)


def get_job_score(job: JobRow, measure: str) -> float | None:
    """The score of a job; None where it failed or the score is not finite."""
    value = job.scores.get(measure, (None, None))[0]
    return value if value is not None and math.isfinite(value) and job.status != "failed" else None


def find_best_jobs(jobs: list[JobRow], objective: SweepObjective) -> list[JobRow]:
    """The best finished job; with several metrics, the Pareto front, best first.

    Of jobs that differ only in their seeds the mean counts, and the one in their middle stands for
    them: else the luckiest seed would win.
    """
    measure = objective.get_main_metric(jobs)
    if len(objective.names) > 1:
        return find_pareto_front(jobs, objective.names, measure)
    goals, groups = merge_direction_map(jobs), group_by_seed(jobs, measure)
    if not groups:
        return []
    best_group = min(
        groups,
        key=lambda group: (
            direction_sign(measure, goals) * mean_over_jobs(group, measure),
            group[0].job,
        ),
    )
    # The lower middle of an even number, which is a job that exists.
    return [rank_jobs(best_group, measure)[(len(best_group) - 1) // 2]]


def find_pareto_front(jobs: list[JobRow], names: tuple[str, ...], measure: str) -> list[JobRow]:
    """The finished jobs that no other dominates in these metrics, best in the main one first."""
    done = [
        job
        for job in jobs
        if job.status == "done" and None not in [get_job_score(job, name) for name in names]
    ]
    goals = merge_direction_map(jobs)
    scored = {
        job.job: [direction_sign(name, goals) * (get_job_score(job, name) or 0) for name in names]
        for job in done
    }

    def beaten(number: int) -> bool:
        scores = scored[number]
        return any(
            all(a <= b for a, b in zip(other_scores, scores, strict=True))
            and other_scores != scores
            for other_scores in scored.values()
        )

    return [job for job in rank_jobs(jobs, measure) if job.job in scored and not beaten(job.job)]


def group_by_seed(jobs: Iterable[JobRow], measure: str) -> list[list[JobRow]]:
    """The finished jobs with a score, grouped where they differ only in seeds."""
    groups: dict[tuple[tuple[str, str], ...], list[JobRow]] = {}
    for job in jobs:
        if job.status == "done" and get_job_score(job, measure) is not None:
            key = tuple(
                sorted((key, word) for key, word in job.overrides.items() if key not in SEED_KEYS)
            )
            groups.setdefault(key, []).append(job)
    return list(groups.values())


def mean_over_jobs(group: list[JobRow], measure: str) -> float:
    """The mean of a metric over jobs that have it."""
    return math.fsum(job.scores[measure][0] or 0 for job in group) / len(group)


def merge_direction_map(jobs: Iterable[JobRow]) -> dict[str, str]:
    """Metric → its better direction, as the results of the jobs say."""
    return {name: goal for job in jobs for name, goal in job.directions.items()}


def find_variable_keys(jobs: list[JobRow]) -> list[str]:
    """The keys whose values are not the same in every job, in the order of the command."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def _read_entries(folder: Path) -> run_folder.JsonLines:
    entries = {line["job"]: line for line in stored_files.load_json_lines(folder / "sweep.jsonl")}
    if not entries:
        raise UserError(f"{folder} is no sweep folder: it has no sweep.jsonl with jobs in it")
    # "same" jobs were run under another number, whose row they would repeat.
    return [entries[job] for job in sorted(entries) if entries[job].get("status") != "same"]


def _make_job_row(folder: Path, entry: dict[str, Any], objective: SweepObjective) -> JobRow:
    name = str(entry.get("folder") or f"{entry['job']:03}")
    words = dict(word.partition("=")[::2] for word in entry.get("words", ()))
    results = run_reader.read_results(folder / name)
    lines, test_lines = _select_deciding_lines(results)
    scored = [line.get("scores") or {} for line in lines]
    tested = [line.get("scores") or {} for line in test_lines]
    scores = _summarize_scores(scored) | _summarize_scores(tested, TEST_PREFIX)
    if scores:
        # Costs are known once a job has ended, and shown where they are asked for.
        costs = [cost for cost in COST_NAMES if cost in objective.names and cost in entry]
        scores |= {cost: (entry[cost], None) for cost in costs}
    baselines = [line.get("baseline") or {} for line in lines]
    return JobRow(
        entry["job"],
        status=str(entry.get("status", "")),
        overrides=words,
        scores=scores,
        baseline={
            measure: result_tables.mean_and_std(
                result_tables.get_metric_values(baselines, measure)
            )[0]
            for measure in scores
        },
        error=" ".join(str(entry.get("error") or "").split()),
        folder=name,
        note=run_reader.get_data_warning(results),
        intervals=get_score_intervals(scored) | get_score_intervals(tested, TEST_PREFIX),
        directions=run_reader.read_direction_map(lines),
        undefined=get_undefined_reasons(scored),
    )


def _select_deciding_lines(
    results: run_folder.JsonLines,
) -> tuple[run_folder.JsonLines, run_folder.JsonLines]:
    """The results of the last stage by which a job is judged, and its test results beside them."""
    # A test score never decides, unless a run has nothing else.
    fitted = [line for line in results if line["split"] != "test"]
    if not fitted:
        return _select_last_stage(results), []
    # A protocol without validation rows is judged by its training rows.
    validated = [line for line in fitted if line["split"] == "val"] or fitted
    return _select_last_stage(validated), [line for line in results if line["split"] == "test"]


def _select_last_stage(lines: run_folder.JsonLines) -> run_folder.JsonLines:
    last = run_reader.get_family(lines[-1]["name"]) if lines else ""
    return [line for line in lines if run_reader.get_family(line["name"]) == last]


def _summarize_scores(
    scored: list[result_tables.Scores], prefix: str = ""
) -> dict[str, tuple[float | None, float | None]]:
    """Metric → mean and deviation over several results."""
    return {
        prefix + measure: result_tables.mean_and_std(
            result_tables.get_metric_values(scored, measure)
        )
        for measure in dict.fromkeys(measure for score in scored for measure in score)
    }


def get_score_intervals(
    scored: list[result_tables.Scores], prefix: str = ""
) -> dict[str, tuple[float | None, float | None]]:
    """Metric → its interval, where there is one fit: that of a mean over several is not known."""
    if len(scored) != 1:
        return {}
    return {
        prefix + name: (score.get("low"), score.get("high")) for name, score in scored[0].items()
    }


def get_undefined_reasons(scored: list[result_tables.Scores]) -> dict[str, str]:
    """Metric → why it has no value, or of how many fits the mean is; without fully defined ones."""
    reasons = {}
    for name in dict.fromkeys(name for score in scored for name in score):
        values = result_tables.get_metric_values(scored, name)
        if all(map(math.isnan, values)):
            reason = (
                next((scores[name].get("why") for scores in scored if name in scores), "")
                or "it has no value"
            )
            reasons[name] = f"{name} is not defined: {reason}"
        elif share := result_tables.format_defined_count(values):
            reasons[name] = f"{name}: {share}"
    return reasons
