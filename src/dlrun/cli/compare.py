"""`dlrun compare`: runs side by side, the best of them, and whether the others differ from it by more than chance."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.compare_tables import get_compared_results
from dlrun.core import run_reader, stored_files
from dlrun.core.errors import UserError
from dlrun.core.measure_names import describe_unknown_direction, get_direction
from dlrun.report import differences, formatting

if TYPE_CHECKING:
    from rich.console import Group


REQUIRED_FILES = ("config.yaml", "results.jsonl")
USAGE = "compare which runs? dlrun compare RUN RUN…, such as outputs/*/*/*; a sweep's folder stands for its jobs"
DIRECTIONS = {"min": "less is better", "max": "more is better"}


@dataclass(frozen=True)
class BestRun:
    """The best of some runs on the same rows, by which measure, which way that is better, and what it comes to."""

    run: Path
    measure: str
    goal: str
    text: str


def build_comparison(asked: Sequence[Path]) -> Group:
    """The runs with their scores and what they do differently, the best of them, and the differences from it.

    Of a sweep folder its finished jobs are taken; what is no finished run is left out, and said to be. Raises UserError
    where nothing is left, naming what each folder lacks.
    """
    from rich.console import Group
    from rich.text import Text

    from dlrun.cli.compare_tables import ComparisonTables

    if not asked:
        raise UserError(USAGE)
    runs, left_out = select_finished_runs(asked)
    if not runs:
        raise UserError("not one of these is a finished run: " + "; ".join(left_out))
    told = [f"left out: {line}" for line in left_out]
    notes = sorted(
        set(
            filter(
                None, (run_reader.get_data_warning(run_reader.read_results(run)) for run in runs)
            )
        )
    )
    names = get_run_names(runs)
    lines = [*map(str, notes), *told]
    groups = group_comparable_runs(runs)
    below = [line for group in groups for line in compare_group(group, names)]
    if len(groups) > 1:
        kinds = "of rows or targets: runs that were not scored on the same data are not compared"
        below.append(f"there are {len(groups)} kinds {kinds}")
    heading = [Text(line, style="bold red" if line in notes else "yellow") for line in lines]
    return Group(*heading, ComparisonTables(runs, [names[run] for run in runs]), *map(Text, below))


def select_finished_runs(asked: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The finished runs that these folders are or hold, and why the others are none."""
    runs, left_out = list[Path](), list[str]()
    for folder in asked:
        for run in get_finished_jobs(folder):
            if fault := get_run_error(run):
                left_out.append(fault)
            else:
                runs.append(run.absolute())
    return runs, left_out


def get_finished_jobs(folder: Path) -> list[Path]:
    """The finished jobs of a sweep's folder; any other folder itself."""
    if not (folder / "sweep.jsonl").is_file():
        return [folder]
    entries = {
        entry["job"]: entry for entry in stored_files.load_json_lines(folder / "sweep.jsonl")
    }
    done = [entry for entry in entries.values() if entry["status"] == "done"]
    return [folder / str(entry.get("folder") or f"{entry['job']:03}") for entry in done]


def get_run_error(run: Path) -> str:
    """Why a folder is no finished run; '' where it is one."""
    if not run.is_dir():
        return f"there is no folder {run}"
    missing = [name for name in REQUIRED_FILES if not (run / name).is_file()]
    if missing == ["results.jsonl"]:
        from dlrun.core.run_folder import RunFolder

        return f"{run} has no results.jsonl: no fit has finished there ({RunFolder(run).describe_next_step()})"
    if missing:
        return f"{run} has no {' and no '.join(missing)}: it is no run folder"
    try:
        stored_files.load_run_config(run)
        return "" if run_reader.read_results(run) else f"{run}/results.jsonl holds no result"
    except UserError as error:
        return str(error)


def get_run_names(runs: Sequence[Path]) -> dict[Path, str]:
    """Each run's name: its folder without what all have in common."""
    shared = os.path.commonpath([run.parent for run in runs])
    return {run: os.path.relpath(run, shared) for run in runs}


def group_comparable_runs(runs: Sequence[Path]) -> list[list[Path]]:
    """Runs together that were developed on the same rows with the same targets."""
    from dlrun.evaluation.predictions import same_rows

    groups: list[tuple[object, list[Path]]] = []
    for run in runs:
        data = stored_files.load_json_or_none(run / "data.json")
        for known, group in groups:
            if isinstance(data, dict) and isinstance(known, dict) and same_rows(known, data):
                group.append(run)
                break
        else:
            groups.append((data, [run]))
    return [group for _, group in groups]


def compare_group(runs: Sequence[Path], names: dict[Path, str]) -> list[str]:
    """Which of these runs on the same rows is the best, and how the others differ from it."""
    if len(runs) < 2:
        return []
    best = find_best_run(runs)
    if best is None:
        return ["they have no measure in common beside the loss that all of them have a value of"]
    goals = run_reader.read_direction_map(
        [line for run in runs for line in run_reader.read_results(run)]
    )
    found = [
        f"best: {names[best.run]}, by val {best.measure} ({DIRECTIONS[best.goal]}): {best.text}"
    ]
    found += filter(None, [describe_unknown_direction(best.measure, goals)])
    others = list(runs)
    others.remove(best.run)
    ordered = (
        runs[::-1] if len(runs) == 2 else [best.run, *others]
    )  # of two the second minus the first
    return [*found, *format_pairwise_differences(ordered, names)]


def find_best_run(runs: Sequence[Path]) -> BestRun | None:
    """The best run by the first measure that is no loss and that all have a value of, over folds their mean."""
    scored = [
        [
            line["scores"]
            for line in get_compared_results(run)
            if line["split"] == "val" and line["scores"]
        ]
        for run in runs
    ]
    if not all(scored):
        return None
    goals = run_reader.read_direction_map(
        [line for run in runs for line in run_reader.read_results(run)]
    )
    for name in [name for name in scored[0][0] if not name.startswith("loss")]:
        values = [
            formatting.mean_and_std(formatting.get_metric_values(scores, name))[0]
            for scores in scored
        ]
        known = [value for value in values if value is not None and math.isfinite(value)]
        if len(known) == len(runs):
            way = get_direction(name, goals)
            place = values.index((min if way == "min" else max)(known))
            return BestRun(
                runs[place], name, way, formatting.format_over_folds(scored[place], name)
            )
    return None


def format_pairwise_differences(
    runs: Sequence[Path], names: dict[Path, str] | None = None
) -> list[str]:
    """A line for each run after the first: how much the first differs from it on the same rows, and whether it does."""
    names = get_run_names(runs) if names is None else names
    first, *others = runs
    found, compared = [], 0
    for other in others:
        try:
            goals = run_reader.read_direction_map(
                [*run_reader.read_results(first), *run_reader.read_results(other)]
            )
            measure = differences.find_shared_metric(other, first)
            text = formatting.describe_difference(
                measure, differences.compute_run_difference(other, first, measure), goals
            )
            compared += 1
        except UserError as fault:
            text = f"cannot be compared row by row: {fault}"
        found.append(f"{names[first]} − {names[other]}: {text}")
    if compared > 1:
        found.append(
            f"{compared} differences were looked at: by chance alone about 1 in 20 would seem real"
        )
    return found
