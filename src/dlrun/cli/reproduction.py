"""Whether a run that was done again, with nothing changed, came to the scores of the first one."""

from __future__ import annotations

import math
from pathlib import Path

from dlrun.core.run_folder import RunFolder

TOLERANCE = 1e-3  # a relative difference that rounding on other hardware comes to, over many steps
Scores = dict[tuple[str, str, str], float]  # job, split, metric → value


def compare_rerun(first: Path, again: Path) -> str:
    """One line: equal, close, or different, and where most; it is added to the log of the second run, too."""
    text = _describe_comparison(
        read_run_scores(first),
        read_run_scores(again),
        _get_environment_changes(RunFolder(first), RunFolder(again)),
    )
    with (again / "log.txt").open("a", encoding="utf-8") as log:
        log.write(text + "\n")
    return text


def read_run_scores(folder: Path) -> Scores:
    """All scores of a run."""
    return {
        (result.job.name, result.split, name): score.value
        for result in RunFolder(folder).read_results()
        for name, score in result.scores.items()
    }


def _describe_comparison(first: Scores, again: Scores, elsewhere: str) -> str:
    both = [key for key in again if key in first]
    if not both:
        return "the original has no scores to compare with: it has not finished"
    apart = {key: _relative_difference(first[key], again[key]) for key in both}
    worst = max(both, key=lambda key: apart[key])
    if apart[worst] == 0:
        return f"the same as the original: {len(both)} scores, equal to the last bit"
    job, split, name = worst
    where = f"{job} {split} {name} {first[worst]:.6g} there, {again[worst]:.6g} here"
    if apart[worst] <= TOLERANCE:
        return f"the scores of the original within {apart[worst]:.1g} (relative): most apart is {where}{elsewhere}"
    return f"NOT the scores of the original: {where}{elsewhere}"


def _relative_difference(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    size = max(abs(one), abs(other))
    return abs(one - other) / size if math.isfinite(one) and math.isfinite(other) else math.inf


def _get_environment_changes(first: RunFolder, again: RunFolder) -> str:
    """What is known to be different between the two besides."""
    old, new = (run.read_json("environment.json") or {} for run in (first, again))
    told = []
    if first.read_json("data.json") != again.read_json("data.json"):
        told.append("the data differ")
    for name in ("torch", "numpy"):
        versions = [each.get("packages", {}).get(name) for each in (old, new)]
        told += (
            [f"{name} {versions[0]} there, {versions[1]} here"]
            if versions[0] != versions[1]
            else []
        )
    told += ["another machine"] if old.get("host") != new.get("host") else []
    return f" ({'; '.join(told)})" if told else ""
