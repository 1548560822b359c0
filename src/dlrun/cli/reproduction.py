"""Whether a run that was repeated with nothing changed has the scores of the first one."""

from __future__ import annotations

import math
from pathlib import Path

from dlrun.core.run_folder import RunFile, RunFolder

# The relative difference that rounding on other hardware may amount to, over many steps.
TOLERANCE = 1e-3
Scores = dict[tuple[str, str, str], float]  # job, split, metric → value


def compare_rerun(first: Path, second: Path) -> str:
    """Compare the scores, and append the result to the log of the second run.

    Args:
        first: The folder of the first run.
        second: The folder of the second run.

    Returns:
        One line: equal, close, or different, and where most.
    """
    text = _describe_comparison(
        read_run_scores(first),
        read_run_scores(second),
        _get_environment_changes(RunFolder(first), RunFolder(second)),
    )
    with RunFolder(second).path(RunFile.LOG).open("a", encoding="utf-8") as log:
        log.write(text + "\n")
    return text


def read_run_scores(folder: Path) -> Scores:
    """Read all scores of a run."""
    return {
        (result.job.name, result.split, name): score.value
        for result in RunFolder(folder).read_results()
        for name, score in result.scores.items()
    }


def _describe_comparison(first: Scores, second: Scores, environment: str) -> str:
    shared = [key for key in second if key in first]
    if not shared:
        return "the original has no scores to compare with: it has not finished"
    differences = {key: _relative_difference(first[key], second[key]) for key in shared}
    worst = max(shared, key=lambda key: differences[key])
    # The same machine and versions give bitwise-identical results.
    if differences[worst] == 0:
        return f"the same as the original: {len(shared)} scores, equal to the last bit"
    job, split, name = worst
    example = f"{job} {split} {name} {first[worst]:.6g} there, {second[worst]:.6g} here"
    if differences[worst] <= TOLERANCE:
        return (
            f"the scores of the original within {differences[worst]:.1g} (relative): "
            f"most apart is {example}{environment}"
        )
    return f"NOT the scores of the original: {example}{environment}"


def _relative_difference(left: float, right: float) -> float:
    # Two nan are equal here: both runs diverged alike.
    if left == right or (math.isnan(left) and math.isnan(right)):
        return 0.0
    size = max(abs(left), abs(right))
    return abs(left - right) / size if math.isfinite(left) and math.isfinite(right) else math.inf


def _get_environment_changes(first: RunFolder, second: RunFolder) -> str:
    """Describe what else is known to differ between the two."""
    old, new = (run.read_json(RunFile.ENVIRONMENT) or {} for run in (first, second))
    changes = []
    if first.read_data() != second.read_data():
        changes.append("the data differ")
    for name in ("torch", "numpy"):
        versions = [environment.get("packages", {}).get(name) for environment in (old, new)]
        if versions[0] != versions[1]:
            changes.append(f"{name} {versions[0]} there, {versions[1]} here")
    changes += ["another machine"] if old.get("host") != new.get("host") else []
    return f" ({'; '.join(changes)})" if changes else ""
