"""The jobs of a sweep as its folder has them: what came of each, which is better, and which is the best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrun.core import run_reader, stored_files
from dlrun.core import stored_files as stored
from dlrun.core.errors import UserError
from dlrun.core.measure_names import choose_metric, direction_sign
from dlrun.report import formatting

TEST_PREFIX = "test "  # before the name of a measure that was taken on test rows
SEED_KEYS = (
    "seed",
    "protocol.seed",
    "data.seed",
)  # what is drawn with these is chance, and no setting


@dataclass(frozen=True)
class JobRow:
    """One job of a sweep: its own words, and what came of it. scores: measure → (mean, deviation over folds).

    ends: measure → its 95 % interval, of a job that is one fit. goals: measure → 'min' or 'max'. undefined: measure →
    why it has no value, or of how many of its fits the mean is. fits: job names of the stage that the scores are of.
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
    """What a sweep is decided by. names: the measures asked for, without their split; none: the first job says it."""

    names: tuple[str, ...] = ()

    @classmethod
    def from_folder(cls, folder: Path) -> SweepObjective:
        """What sweep.yaml says; nothing for sweeps from before it."""
        file = folder / "sweep.yaml"
        measure = (
            stored.load_yaml(file).get("search", {}).get("measure") if file.is_file() else None
        )
        names = [measure] if isinstance(measure, str) else measure or []
        return cls(tuple(name.removeprefix("val/") for name in names))

    def get_main_metric(self, found: Iterable[JobRow]) -> str:
        """The measure that the table is sorted by."""
        return choose_metric(
            (name for line in found for name in line.scores), self.names[0] if self.names else None
        )


def read_job_rows(
    folder: Path, aim: SweepObjective, known: dict[int, JobRow] | None = None
) -> list[JobRow]:
    """The lines of all jobs. known: lines of jobs that have ended, which are not read again; new ones are added."""
    known, found = {} if known is None else known, []
    for entry in _read_entries(folder):
        line = known.get(entry["job"])
        if line is None or line.status != entry["status"]:
            line = _make_job_row(folder, entry, aim)
            known[line.job] = line
        found.append(line)
    return found


def rank_jobs(found: list[JobRow], measure: str) -> list[JobRow]:
    """The best first, then the best of the pruned ones; then those without this score, and the failed ones last."""

    goals = merge_direction_map(found)

    def place(line: JobRow) -> tuple[int, float, int]:
        value = get_job_score(line, measure)
        order = {"done": 0, "pruned": 1, "failed": 3}.get(line.status, 2)
        return (
            (order, direction_sign(measure, goals) * value, line.job)
            if value is not None
            else (max(order, 2), 0.0, line.job)
        )

    return sorted(found, key=place)


def get_job_score(line: JobRow, measure: str) -> float | None:
    """The score of a job, where it has one that is a number."""
    value = line.scores.get(measure, (None, None))[0]
    return value if value is not None and math.isfinite(value) and line.status != "failed" else None


def find_best_jobs(found: list[JobRow], aim: SweepObjective) -> list[JobRow]:
    """The best finished job; where there are several aims, those that no other beats in all of them, the best first.

    Of jobs that differ only in their seeds the mean counts, and the one in their middle stands for them: else the
    luckiest seed would win.
    """
    measure = aim.get_main_metric(found)
    if len(aim.names) > 1:
        return find_pareto_front(found, aim.names, measure)
    goals, groups = merge_direction_map(found), group_by_seed(found, measure)
    if not groups:
        return []
    first = min(
        groups,
        key=lambda group: (
            direction_sign(measure, goals) * mean_over_jobs(group, measure),
            group[0].job,
        ),
    )
    return [rank_jobs(first, measure)[(len(first) - 1) // 2]]


def find_pareto_front(found: list[JobRow], names: tuple[str, ...], measure: str) -> list[JobRow]:
    """The finished jobs that no other beats in all of these measures, those best in one of them first."""
    done = [
        line
        for line in found
        if line.status == "done" and None not in [get_job_score(line, name) for name in names]
    ]
    goals = merge_direction_map(found)
    scored = {
        line.job: [direction_sign(name, goals) * (get_job_score(line, name) or 0) for name in names]
        for line in done
    }

    def beaten(job: int) -> bool:
        mine = scored[job]
        return any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in scored.values()
        )

    return [
        line for line in rank_jobs(found, measure) if line.job in scored and not beaten(line.job)
    ]


def group_by_seed(found: Iterable[JobRow], measure: str) -> list[list[JobRow]]:
    """The finished jobs with a score, those together whose words differ only in seeds."""
    groups: dict[tuple[tuple[str, str], ...], list[JobRow]] = {}
    for line in found:
        if line.status == "done" and get_job_score(line, measure) is not None:
            key = tuple(
                sorted((key, word) for key, word in line.overrides.items() if key not in SEED_KEYS)
            )
            groups.setdefault(key, []).append(line)
    return list(groups.values())


def mean_over_jobs(group: list[JobRow], measure: str) -> float:
    """The mean of a measure over jobs that have it."""
    return math.fsum(line.scores[measure][0] or 0 for line in group) / len(group)


def merge_direction_map(found: Iterable[JobRow]) -> dict[str, str]:
    """Measure → which way it is better, as the jobs have written it down."""
    return {name: goal for line in found for name, goal in line.directions.items()}


def find_variable_keys(found: list[JobRow]) -> list[str]:
    """The keys whose words are not the same in every job, in the order in which they were given."""
    keys = dict.fromkeys(key for line in found for key in line.overrides)
    return [key for key in keys if len({line.overrides.get(key) for line in found}) > 1]


def _read_entries(folder: Path) -> run_reader.JsonLines:
    entries = {line["job"]: line for line in stored_files.load_json_lines(folder / "sweep.jsonl")}
    if not entries:
        raise UserError(f"{folder} is no sweep folder: it has no sweep.jsonl with jobs in it")
    return [entries[job] for job in sorted(entries) if entries[job].get("status") != "same"]


def _make_job_row(folder: Path, entry: dict[str, Any], aim: SweepObjective) -> JobRow:
    name = str(entry.get("folder") or f"{entry['job']:03}")
    words = dict(word.partition("=")[::2] for word in entry.get("words", ()))
    results = run_reader.read_results(folder / name)
    fitted = [
        line for line in results if line["split"] != "test"
    ] or results  # what decides is never a test score
    val = [line for line in fitted if line["split"] == "val"] or fitted
    stages = [
        line
        for line in val
        if run_reader.get_family(line["name"]) == run_reader.get_family(val[-1]["name"])
    ]
    scored = [line.get("scores") or {} for line in stages]
    known = [line.get("baseline") or {} for line in stages]
    spread = {
        measure: formatting.mean_and_std(formatting.get_metric_values(scored, measure))
        for measure in dict.fromkeys(measure for score in scored for measure in score)
    }
    apart = [line for line in results if line["split"] == "test" and fitted is not results]
    tested = [line.get("scores") or {} for line in apart]
    spread |= {
        f"{TEST_PREFIX}{measure}": formatting.mean_and_std(
            formatting.get_metric_values(tested, measure)
        )
        for measure in dict.fromkeys(measure for score in tested for measure in score)
    }
    costs = [
        cost for cost in ("parameters", "seconds") if cost in aim.names and cost in entry
    ]  # once it has ended
    spread |= {cost: (entry[cost], None) for cost in costs if spread}
    baseline = {
        measure: formatting.mean_and_std(formatting.get_metric_values(known, measure))[0]
        for measure in spread
    }
    error = " ".join(str(entry.get("error") or "").split())
    ends = get_score_intervals(scored) | {
        f"{TEST_PREFIX}{measure}": each for measure, each in get_score_intervals(tested).items()
    }
    about = (
        baseline,
        error,
        name,
        run_reader.get_data_warning(results),
        ends,
        run_reader.read_direction_map(stages),
        get_undefined_reasons(scored),
    )
    return JobRow(entry["job"], str(entry.get("status", "")), words, spread, *about)


def get_score_intervals(
    scored: list[formatting.Scores],
) -> dict[str, tuple[float | None, float | None]]:
    """Measure → its interval, where there is one fit: that of a mean over several is not known."""
    if len(scored) != 1:
        return {}
    return {name: (score.get("low"), score.get("high")) for name, score in scored[0].items()}


def get_undefined_reasons(scored: list[formatting.Scores]) -> dict[str, str]:
    """Measure → why it has no value, or of how many fits the mean is; without those that are defined everywhere."""
    found = {}
    for name in dict.fromkeys(name for score in scored for name in score):
        values = formatting.get_metric_values(scored, name)
        if all(map(math.isnan, values)):
            why = (
                next((each[name].get("why") for each in scored if name in each), "")
                or "it has no value"
            )
            found[name] = f"{name} is not defined: {why}"
        elif share := formatting.format_defined_count(values):
            found[name] = f"{name}: {share}"
    return found
