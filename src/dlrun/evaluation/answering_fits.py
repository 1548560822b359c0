"""Selects the fits that predict for a run, from its files alone: one, or a stage's folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.core.errors import UserError, format_names
from dlrun.core.files import is_safe_name
from dlrun.core.formatting import get_direction, make_direction_map
from dlrun.core.run_folder import RunFile, RunFolder

# Stages of a workflow that train nothing:
BASELINE_STAGES = ("constant", "last_value", "same_time_before")
Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class PredictionSource:
    """The fits that predict for a run.

    Attributes:
        names: The fits whose mean is the prediction, one or several.
        description: What a user should know about the choice; '' of a plain fit.
        single_fit: The fit to inspect where a mean of several cannot be.
    """

    names: tuple[str, ...]
    description: str
    single_fit: str


def select_prediction_source(folder: Path, fit: str = "") -> PredictionSource | None:
    """Select the fits that predict for a run.

    Of folds all predict, and the mean of their predictions counts; of a walk forward the last one,
    which was trained on the most rows. Of a workflow its final fit, else its winner, which may be
    the baseline or the linear model.

    Args:
        folder: The run folder.
        fit: The fit, or stage, that the user asks for; '' for the run's own choice.

    Returns:
        The fits; None where no fit has finished.

    Raises:
        UserError: There is no such fit.
    """
    run = RunFolder(folder)
    results = run.read_result_lines()
    # Test results are of fits that are listed already, unless there are no others.
    lines = [line for line in results if line["split"] != "test"] or results
    names = list(dict.fromkeys(line["name"] for line in lines if line.get("scores")))
    # Names become paths below; a results.jsonl from elsewhere may hold "../…".
    if unsafe := [name for name in names if not is_safe_name(name)]:
        raise UserError(f"{run.path(RunFile.RESULTS)}: {unsafe[0]!r} is no name of a fit")
    if not names:
        return None
    stages = list(dict.fromkeys(line["job"]["stage"] for line in lines if line.get("scores")))
    if fit in names:
        return PredictionSource((fit,), f"the predictions are those of {fit}", fit)
    if fit and fit not in stages:
        available = format_names(dict.fromkeys([*(stages if len(stages) > 1 else []), *names]), fit)
        raise UserError(f"fit={fit}: no such fit has finished in {folder}; there are: {available}")
    stage, why = (fit, "") if fit else _find_main_stage(folder, lines)
    jobs = {
        line["name"]: line["job"]
        for line in lines
        if line["job"]["stage"] == stage and line.get("scores")
    }
    return (
        _select_in_stage(folder, jobs, why)
        if jobs
        else PredictionSource((names[-1],), "", names[-1])
    )


def _select_in_stage(
    folder: Path, jobs: Mapping[str, Mapping[str, Any]], why: str
) -> PredictionSource:
    names = tuple(jobs)
    prefix = f"{why}: " if why else ""
    if len(names) == 1:
        return PredictionSource(names, f"{prefix}{names[0]} predicts" if why else "", names[0])
    if next(iter(jobs.values())).get("folds", 1) == 1:
        return PredictionSource(
            names[:1], f"{prefix}of {len(names)} seeds the first, {names[0]}, predicts", names[0]
        )
    if _is_walk_forward(folder):
        # Of repeats the first, as for seeds above.
        last = max(names, key=lambda name: (-jobs[name].get("repeat", 0), jobs[name]["fold"]))
        description = (
            f"{prefix}of {len(names)} folds the last, {last}, predicts: it has learned from the "
            "most rows"
        )
        return PredictionSource((last,), description, last)
    fold_range = f"{names[0]} to {names[-1]}"
    # Runs of before 0.1.1 kept the columns of their last fold alone, so that only it can be built.
    single_fit = (
        names[0] if RunFolder(folder).exists(RunFile.FIT_FIELDS, job=names[0]) else names[-1]
    )
    description = (
        f"{prefix}the mean of what {len(names)} folds predict, {fold_range}; fit={names[0]} asks "
        "one of them"
    )
    return PredictionSource(names, description, single_fit)


def describe_single_fit(source: PredictionSource) -> str:
    """The message where only one of several folds can be inspected."""
    if len(source.names) == 1:
        return source.description
    return (
        f"of {len(source.names)} folds {source.single_fit} is looked into; fit={source.names[-1]} "
        "names another"
    )


def _find_main_stage(folder: Path, lines: Lines) -> tuple[str, str]:
    """The stage that a run is about, and why, where that needs a word."""
    steps = RunFolder(folder).read_json(RunFile.WORKFLOW) or []
    stages = [line["job"]["stage"] for line in lines]
    winner = next((step["winner"] for step in reversed(steps) if step.get("winner")), "")
    if "final" in stages:
        return "final", "the workflow's winner, trained on all development rows" if steps else ""
    if winner in stages:
        return winner, "the workflow's winner"
    # A workflow stops where nothing beats the baseline: then the baseline is its result.
    if any(step.get("stopped") for step in steps):
        return _find_best_baseline(steps, lines), "nothing beat the baseline in this workflow"
    if "fit" in stages:
        return "fit", ""
    return stages[-1], "the workflow has not come to its end" if steps else ""


def _find_best_baseline(steps: Sequence[Mapping[str, Any]], lines: Lines) -> str:
    """The best baseline stage by the workflow's metric."""
    measure = next((step["measure"] for step in steps if step.get("measure")), "loss")
    scores: dict[str, list[float]] = {}
    for line in lines:
        value = (line.get("scores") or {}).get(measure, {}).get("value")
        if line["job"]["stage"] in BASELINE_STAGES and value is not None:
            scores.setdefault(line["job"]["stage"], []).append(value)
    lower_is_better = (
        get_direction(measure, make_direction_map(line.get("scores") or {} for line in lines))
        == "min"
    )
    means = {
        stage: sum(values) / len(values) * (1 if lower_is_better else -1)
        for stage, values in scores.items()
    }
    return min(means, key=lambda stage: means[stage]) if means else "constant"


def _is_walk_forward(folder: Path) -> bool:
    """Whether the folds follow each other in time, each with more training rows."""
    protocol = RunFolder(folder).read_config().get("protocol") or {}
    return str(protocol.get("_target_")).endswith(".walk_forward")
