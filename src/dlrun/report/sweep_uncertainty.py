"""How far the order of a sweep's jobs may be chance: seeds summed up, and what cannot be told from the best job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core import measure_names, run_reader
from dlrun.core.errors import Refused
from dlrun.report import formatting
from dlrun.report.sweep_jobs import SEEDS, Aim, Line, best, goals_of, mean_of, ranked, seeded, value_of, varying

if TYPE_CHECKING:
    from dlrun.evaluation.bootstrap import Interval


LOOKED_AT = 20  # jobs after the best that are compared with it
ERRORS = 2.0  # standard errors: two means over seeds that are nearer cannot be told apart
TOLD = 6  # jobs that are named


def over_seeds(found: list[Line], aim: Aim) -> tuple[list[str], list[list[str]]]:
    """A table of the jobs that differ only in their seeds, mean ± sd, the best first; no rows where none do."""
    measure = aim.first(found)
    groups = [group for group in seeded(found, measure) if len(group) > 1]
    goals, keys = goals_of(found), [key for key in varying(found) if key not in SEEDS]
    lower = measure_names.goal(measure, goals) == "min"
    groups.sort(key=lambda group: mean_of(group, measure) * (1 if lower else -1))
    names = list(dict.fromkeys(name for group in groups for line in group for name in line.scores))
    rows = []
    for group in groups:
        cells = [formatting.spread_text(*_spread(group, name)) for name in names]
        rows.append([*(group[0].words.get(key, "") for key in keys), str(len(group)), *cells])
    return [*keys, "seeds", *names], rows


def beside_the_best(folder: Path, found: list[Line], aim: Aim) -> list[str]:
    """What must stand beside the best job: its score, and which others are within chance of it."""
    first, measure = best(found, aim)[:1], aim.first(found)
    if not first or len(aim.names) > 1:
        return []
    groups = seeded(found, measure)
    own = next(group for group in groups if first[0] in group)
    if len(own) > 1:
        return _of_seeds(own, groups, measure)
    line = first[0]
    value = line.scores[measure][0] or 0.0
    deviation = line.scores[measure][1]
    text = formatting.with_ends(value, *line.ends.get(measure, (None, None)))
    text = formatting.spread_text(value, deviation) if deviation is not None else text
    said = [f"{measure} {text}"]
    others = [other for other in ranked(found, measure) if other is not line and other.status == "done"]
    near = [other for other in others[:LOOKED_AT] if _near(folder, line, other, measure)]
    if near:
        said.append(f"within chance of it, as far as these rows tell: {_names(near)}")
    return said


def _of_seeds(own: list[Line], groups: list[list[Line]], measure: str) -> list[str]:
    text = formatting.spread_text(*_spread(own, measure))
    said = [f"{measure} {text} over {len(own)} seeds, of which this job is the middle one"]
    near = [group for group in groups if group is not own and _together(own, group, measure)]
    if near:
        told = _names([ranked(group, measure)[(len(group) - 1) // 2] for group in near])
        said.append(f"within {ERRORS:g} standard errors of it over seeds: {told}")
    return said


def _together(own: list[Line], group: list[Line], measure: str) -> bool:
    """Whether two settings cannot be told apart by their means over seeds."""
    (mean, spread), (other, apart) = (_spread(lines, measure) for lines in (own, group))
    shared = max(spread or 0.0, apart or 0.0)
    error = math.hypot((spread or shared) / math.sqrt(len(own)), (apart or shared) / math.sqrt(len(group)))
    return abs((mean or 0.0) - (other or 0.0)) <= ERRORS * error


def _near(folder: Path, line: Line, other: Line, measure: str) -> bool:
    """Whether another job may be as good: by their difference on the same rows, else by the best job's interval."""
    value = value_of(other, measure)
    if value is None:
        return False
    try:
        return not _difference(folder / line.folder, folder / other.folder, measure).real
    except (Refused, OSError):
        low, high = line.ends.get(measure, (None, None))
        return low is not None and high is not None and low <= value <= high


def _difference(first: Path, second: Path, measure: str) -> Interval:
    from dlrun.evaluation import predictions

    pools = []
    for run in (first, second):
        stages = [line["job"]["stage"] for line in run_reader.results(run) if line["split"] == "val"]
        if not stages:
            raise Refused(f"{run} was not validated")
        pools.append(predictions.of_stage(run, stages[-1], "val"))
    return predictions.difference(pools[0], pools[1], measure)


def _spread(group: Sequence[Line], measure: str) -> tuple[float | None, float | None]:
    return formatting.mean_and_deviation([line.scores.get(measure, (None, None))[0] or 0.0 for line in group])


def _names(lines: Sequence[Line]) -> str:
    told = ", ".join(line.folder for line in lines[:TOLD])
    return told + (f" and {len(lines) - TOLD} more" if len(lines) > TOLD else "")
