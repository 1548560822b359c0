"""The jobs of a sweep as its folder has them: what came of each, which is better, and which is the best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrun.core import run_reader, stored_files
from dlrun.core import stored_files as stored
from dlrun.core.errors import Refused
from dlrun.core.measure_names import deciding, sign
from dlrun.report import formatting

TEST = "test "  # before the name of a measure that was taken on test rows
SEEDS = ("seed", "protocol.seed", "data.seed")  # what is drawn with these is chance, and no setting


@dataclass(frozen=True)
class Line:
    """One job of a sweep: its own words, and what came of it. scores: measure → (mean, deviation over folds).

    ends: measure → its 95 % interval, of a job that is one fit. goals: measure → 'min' or 'max'. undefined: measure →
    why it has no value, or of how many of its fits the mean is. fits: job names of the stage that the scores are of.
    """

    job: int
    status: str
    words: dict[str, str]
    scores: dict[str, tuple[float | None, float | None]]
    baseline: dict[str, float | None]
    error: str
    folder: str
    note: str
    ends: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    goals: dict[str, str] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Aim:
    """What a sweep is decided by. names: the measures asked for, without their split; none: the first job says it."""

    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> Aim:
        """What sweep.yaml says; nothing for sweeps from before it."""
        file = folder / "sweep.yaml"
        measure = stored.mapping(file).get("search", {}).get("measure") if file.is_file() else None
        names = [measure] if isinstance(measure, str) else measure or []
        return cls(tuple(name.removeprefix("val/") for name in names))

    def first(self, found: Iterable[Line]) -> str:
        """The measure that the table is sorted by."""
        return deciding((name for line in found for name in line.scores), self.names[0] if self.names else None)


def lines_of(folder: Path, aim: Aim, known: dict[int, Line] | None = None) -> list[Line]:
    """The lines of all jobs. known: lines of jobs that have ended, which are not read again; new ones are added."""
    known, found = {} if known is None else known, []
    for entry in _entries(folder):
        line = known.get(entry["job"])
        if line is None or line.status != entry["status"]:
            line = _line(folder, entry, aim)
            known[line.job] = line
        found.append(line)
    return found


def ranked(found: list[Line], measure: str) -> list[Line]:
    """The best first, then the best of the pruned ones; then those without this score, and the failed ones last."""

    goals = goals_of(found)

    def place(line: Line) -> tuple[int, float, int]:
        value = value_of(line, measure)
        order = {"done": 0, "pruned": 1, "failed": 3}.get(line.status, 2)
        return (order, sign(measure, goals) * value, line.job) if value is not None else (max(order, 2), 0.0, line.job)

    return sorted(found, key=place)


def value_of(line: Line, measure: str) -> float | None:
    """The score of a job, where it has one that is a number."""
    value = line.scores.get(measure, (None, None))[0]
    return value if value is not None and math.isfinite(value) and line.status != "failed" else None


def best(found: list[Line], aim: Aim) -> list[Line]:
    """The best finished job; where there are several aims, those that no other beats in all of them, the best first.

    Of jobs that differ only in their seeds the mean counts, and the one in their middle stands for them: else the
    luckiest seed would win.
    """
    measure = aim.first(found)
    if len(aim.names) > 1:
        return unbeaten(found, aim.names, measure)
    goals, groups = goals_of(found), seeded(found, measure)
    if not groups:
        return []
    first = min(groups, key=lambda group: (sign(measure, goals) * mean_of(group, measure), group[0].job))
    return [ranked(first, measure)[(len(first) - 1) // 2]]


def unbeaten(found: list[Line], names: tuple[str, ...], measure: str) -> list[Line]:
    """The finished jobs that no other beats in all of these measures, those best in one of them first."""
    done = [line for line in found if line.status == "done" and None not in [value_of(line, name) for name in names]]
    goals = goals_of(found)
    scored = {line.job: [sign(name, goals) * (value_of(line, name) or 0) for name in names] for line in done}

    def beaten(job: int) -> bool:
        mine = scored[job]
        return any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in scored.values())

    return [line for line in ranked(found, measure) if line.job in scored and not beaten(line.job)]


def seeded(found: Iterable[Line], measure: str) -> list[list[Line]]:
    """The finished jobs with a score, those together whose words differ only in seeds."""
    groups: dict[tuple[tuple[str, str], ...], list[Line]] = {}
    for line in found:
        if line.status == "done" and value_of(line, measure) is not None:
            key = tuple(sorted((key, word) for key, word in line.words.items() if key not in SEEDS))
            groups.setdefault(key, []).append(line)
    return list(groups.values())


def mean_of(group: list[Line], measure: str) -> float:
    """The mean of a measure over jobs that have it."""
    return math.fsum(line.scores[measure][0] or 0 for line in group) / len(group)


def goals_of(found: Iterable[Line]) -> dict[str, str]:
    """Measure → which way it is better, as the jobs have written it down."""
    return {name: goal for line in found for name, goal in line.goals.items()}


def varying(found: list[Line]) -> list[str]:
    """The keys whose words are not the same in every job, in the order in which they were given."""
    keys = dict.fromkeys(key for line in found for key in line.words)
    return [key for key in keys if len({line.words.get(key) for line in found}) > 1]


def _entries(folder: Path) -> run_reader.Lines:
    entries = {line["job"]: line for line in stored_files.lines(folder / "sweep.jsonl")}
    if not entries:
        raise Refused(f"{folder} is no sweep folder: it has no sweep.jsonl with jobs in it")
    return [entries[job] for job in sorted(entries) if entries[job].get("status") != "same"]


def _line(folder: Path, entry: dict[str, Any], aim: Aim) -> Line:
    name = str(entry.get("folder") or f"{entry['job']:03}")
    words = dict(word.partition("=")[::2] for word in entry.get("words", ()))
    results = run_reader.results(folder / name)
    fitted = [line for line in results if line["split"] != "test"] or results  # what decides is never a test score
    val = [line for line in fitted if line["split"] == "val"] or fitted
    stages = [line for line in val if run_reader.family(line["name"]) == run_reader.family(val[-1]["name"])]
    scored = [line.get("scores") or {} for line in stages]
    known = [line.get("baseline") or {} for line in stages]
    spread = {
        measure: formatting.mean_and_deviation(formatting.values(scored, measure))
        for measure in dict.fromkeys(measure for score in scored for measure in score)
    }
    apart = [line for line in results if line["split"] == "test" and fitted is not results]
    tested = [line.get("scores") or {} for line in apart]
    spread |= {
        f"{TEST}{measure}": formatting.mean_and_deviation(formatting.values(tested, measure))
        for measure in dict.fromkeys(measure for score in tested for measure in score)
    }
    costs = [cost for cost in ("parameters", "seconds") if cost in aim.names and cost in entry]  # once it has ended
    spread |= {cost: (entry[cost], None) for cost in costs if spread}
    baseline = {measure: formatting.mean_and_deviation(formatting.values(known, measure))[0] for measure in spread}
    error = " ".join(str(entry.get("error") or "").split())
    ends = ends_of(scored) | {f"{TEST}{measure}": each for measure, each in ends_of(tested).items()}
    about = (baseline, error, name, run_reader.warning_of(results), ends, run_reader.goals(stages), undefined(scored))
    return Line(entry["job"], str(entry.get("status", "")), words, spread, *about)


def ends_of(scored: list[formatting.Scores]) -> dict[str, tuple[float | None, float | None]]:
    """Measure → its interval, where there is one fit: that of a mean over several is not known."""
    if len(scored) != 1:
        return {}
    return {name: (score.get("low"), score.get("high")) for name, score in scored[0].items()}


def undefined(scored: list[formatting.Scores]) -> dict[str, str]:
    """Measure → why it has no value, or of how many fits the mean is; without those that are defined everywhere."""
    found = {}
    for name in dict.fromkeys(name for score in scored for name in score):
        values = formatting.values(scored, name)
        if all(map(math.isnan, values)):
            why = next((each[name].get("why") for each in scored if name in each), "") or "it has no value"
            found[name] = f"{name} is not defined: {why}"
        elif share := formatting.share_defined(values):
            found[name] = f"{name}: {share}"
    return found
