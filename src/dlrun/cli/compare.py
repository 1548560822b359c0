"""`dlrun compare`: several runs in tables, the best of them, and which differences are
significant.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import run_folder, run_reader, stored_files
from dlrun.core.errors import UserError
from dlrun.core.formatting import describe_unknown_direction, get_direction, is_loss
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import differences, result_tables, workflow_stages
from dlrun.report import result_tables as formatting

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def get_compared_results(run: Path) -> run_folder.JsonLines:
    """Return the results that stand for a run.

    Of a workflow these are the winner's and those of the final evaluation; of a run in stages,
    those of the last stage.
    """
    lines = run_reader.read_results(run)
    winner = workflow_stages.find_best_stage(run_reader.read_verdicts(run))
    if winner:
        return [line for line in lines if line["job"]["stage"] in (winner, "final")]
    return run_reader.drop_previous_stages(lines)


# Keys that say nothing about how a run was trained.
IGNORED_KEYS = ("output", "hydra.", "note", "task.question")
MAX_CELL_WIDTH = 28  # characters of a setting, or of a name, on one line
CELL_PADDING = 3  # characters around each cell
Cells = list[list[str]]


class ComparisonTables:
    """The tables, which rich renders for the width there is; columns that do not fit go to a next
    table.

    Attributes:
        results: The results of each run.
        flat_configs: The config of each run, by dotted key.
        changed_keys: The keys that differ.
        numbers: The number of each run, from 1.
        run_cells: The cells of the first table, with a heading row.
    """

    def __init__(self, runs: Sequence[Path], names: Sequence[str]) -> None:
        configs = [RunFolder(run).read_config() for run in runs]
        self.results = [get_compared_results(run) for run in runs]
        self.flat_configs = [run_reader.flatten_config(config) for config in configs]
        self.changed_keys = run_reader.find_changed_keys(configs, IGNORED_KEYS)
        self.numbers = [str(number) for number in range(1, len(runs) + 1)]
        titles = [result_tables.get_run_title(config) for config in configs]
        self.run_cells = [
            ["run", "folder", "what"],
            *map(list, zip(self.numbers, names, titles, strict=True)),
        ]

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Table]:
        width = options.max_width
        yield from split_table(self.run_cells, width, max_cell=width)
        for cells in (self.build_score_cells(), self.build_setting_cells(width)):
            yield from split_table(cells, width)

    def build_score_cells(self) -> Cells:
        """Build a row for each run: its scores with their intervals, its epochs and seconds."""
        scores_of_runs = [_format_scores(lines) for lines in self.results]
        heads = sorted({head for scores in scores_of_runs for head in scores}, key=_column_order)
        columns = ["run", *(f"{split} {measure}" for split, measure in heads), "epochs", "seconds"]
        rows = [columns]
        for number, scores, lines in zip(self.numbers, scores_of_runs, self.results, strict=True):
            cells = [scores.get(head, "") for head in heads]
            rows.append([number, *cells, *_epochs_and_seconds(lines)])
        return rows

    def build_setting_cells(self, width: int) -> Cells:
        """Build the table of keys that differ.

        Returns:
            A row for each key; where there are fewer keys than runs, and it would not fit the
            width, a row for each run.
        """
        values = [
            ["" if flat.get(key) is None else str(flat[key]) for flat in self.flat_configs]
            for key in self.changed_keys
        ]
        if not values:
            return []
        by_key = [
            ["key", *self.numbers],
            *([key, *row] for key, row in zip(self.changed_keys, values, strict=True)),
        ]
        # Keys as rows are easier to read, where the runs fit beside each other.
        fits = sum(map(_column_width, zip(*by_key, strict=True))) <= width
        if fits or len(self.changed_keys) > len(self.numbers):
            return by_key
        return [list(column) for column in zip(*by_key, strict=True)]


def split_table(cells: Cells, width: int, max_cell: int = MAX_CELL_WIDTH) -> Iterator[Table]:
    """Yield one table, or several that all begin with the first column.

    Args:
        cells: The rows, headings first.
        width: The width that there is.
        max_cell: The largest width of a column.
    """
    columns = [list(column) for column in zip(*cells, strict=True)]
    while len(columns) > 1:
        first = columns[0]
        num_columns = 1
        used_width = _column_width(first)
        # At least one column beside the first, however narrow the terminal.
        while num_columns < len(columns) and (
            num_columns == 1 or used_width + _column_width(columns[num_columns]) <= width
        ):
            used_width += _column_width(columns[num_columns])
            num_columns += 1
        yield _build_table([first, *columns[1:num_columns]], max_cell)
        columns = [first, *columns[num_columns:]]


def _column_width(column: Sequence[str]) -> int:
    return min(MAX_CELL_WIDTH, max(map(len, column))) + CELL_PADDING


def _build_table(columns: Sequence[Sequence[str]], max_cell: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for head, *_ in columns:
        table.add_column(Text(head), overflow="fold", max_width=max_cell)
    for row in list(zip(*columns, strict=True))[1:]:
        table.add_row(*map(Text, row))
    return table


def _format_scores(lines: run_folder.JsonLines) -> dict[tuple[str, str], str]:
    cells = {}
    for split in dict.fromkeys(line["split"] for line in lines):
        scores = [line.get("scores") or {} for line in lines if line["split"] == split]
        for measure in dict.fromkeys(measure for score in scores for measure in score):
            cells[split, measure] = formatting.format_over_folds(scores, measure)
    return cells


def _column_order(head: tuple[str, str]) -> tuple[bool, str, bool, str]:
    split, measure = head
    # Validation scores first, and in each split the losses last.
    return split != "val", split, is_loss(measure), measure


def _epochs_and_seconds(lines: run_folder.JsonLines) -> list[str]:
    fits = [line for line in lines if line["split"] != "test"] or lines
    epochs = dict.fromkeys(str(line.get("epochs") or 0) for line in fits)
    return ["/".join(epochs), f"{sum(float(line.get('seconds') or 0) for line in fits):.1f}"]


REQUIRED_FILES = (RunFile.CONFIG, RunFile.RESULTS)
USAGE = (
    "compare which runs? dlrun compare RUN RUN…, such as outputs/*/*/*; "
    "a sweep's folder stands for its jobs"
)
DIRECTIONS = {"min": "less is better", "max": "more is better"}


@dataclass(frozen=True)
class BestRun:
    """The best of several runs on the same rows.

    Attributes:
        run: The folder of the run.
        measure: The metric by which it is the best.
        goal: "min" or "max".
        text: The score, formatted.
    """

    run: Path
    measure: str
    goal: str
    text: str


def build_comparison(folders: Sequence[Path]) -> Group:
    """Build the comparison of runs: warnings, tables, the best run and the differences from it.

    Args:
        folders: Run folders and sweep folders; a sweep folder stands for its finished jobs. Folders
            that are not finished runs are named and left out.

    Raises:
        UserError: Where no finished run is left, with the reason for each folder.
    """
    from rich.console import Group
    from rich.text import Text

    if not folders:
        raise UserError(USAGE)
    runs, left_out = select_finished_runs(folders)
    if not runs:
        raise UserError("not one of these is a finished run: " + "; ".join(left_out))
    notices = [f"left out: {line}" for line in left_out]
    warnings = (run_reader.get_data_warning(run_reader.read_results(run)) for run in runs)
    notes = sorted({warning for warning in warnings if warning})
    names = get_run_names(runs)
    lines = [*map(str, notes), *notices]
    groups = group_comparable_runs(runs)
    paragraphs = [line for group in groups for line in compare_group(group, names)]
    if len(groups) > 1:
        kinds = "of rows or targets: runs that were not scored on the same data are not compared"
        paragraphs.append(f"there are {len(groups)} kinds {kinds}")
    heading = [Text(line, style="bold red" if line in notes else "yellow") for line in lines]
    return Group(
        *heading, ComparisonTables(runs, [names[run] for run in runs]), *map(Text, paragraphs)
    )


def select_finished_runs(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the finished runs that these folders are or hold, and why the others are none."""
    runs, left_out = list[Path](), list[str]()
    for folder in folders:
        for run in get_finished_jobs(folder):
            if error := get_run_error(run):
                left_out.append(error)
            else:
                runs.append(run.absolute())
    return runs, left_out


def get_finished_jobs(folder: Path) -> list[Path]:
    """Return the finished jobs of a sweep folder; any other folder itself."""
    if not (folder / "sweep.jsonl").is_file():
        return [folder]
    # Later lines replace earlier ones: a job may have been run again.
    entries = {
        entry["job"]: entry for entry in stored_files.load_json_lines(folder / "sweep.jsonl")
    }
    done = [entry for entry in entries.values() if entry["status"] == "done"]
    return [folder / str(entry.get("folder") or f"{entry['job']:03}") for entry in done]


def get_run_error(run: Path) -> str:
    """Return why a folder is not a finished run; "" where it is one."""
    if not run.is_dir():
        return f"there is no folder {run}"
    missing = [name for name in REQUIRED_FILES if not (run / name).is_file()]
    # A run that was interrupted can be resumed.
    if missing == [RunFile.RESULTS]:
        return (
            f"{run} has no results.jsonl: no fit has finished there "
            f"({RunFolder(run).describe_next_step()})"
        )
    if missing:
        return f"{run} has no {' and no '.join(missing)}: it is no run folder"
    try:
        RunFolder(run).read_config()
        return "" if run_reader.read_results(run) else f"{run}/{RunFile.RESULTS} holds no result"
    except UserError as error:
        return str(error)


def get_run_names(runs: Sequence[Path]) -> dict[Path, str]:
    """Name each run by its folder, relative to the folder that all have in common."""
    common = os.path.commonpath([run.parent for run in runs])
    return {run: os.path.relpath(run, common) for run in runs}


def group_comparable_runs(runs: Sequence[Path]) -> list[list[Path]]:
    """Group runs that have the same training and validation rows, and the same targets."""
    from dlrun.evaluation.predictions import same_rows

    groups: list[tuple[object, list[Path]]] = []
    for run in runs:
        data = RunFolder(run).read_json(RunFile.DATA)
        for group_data, group in groups:
            if (
                isinstance(data, dict)
                and isinstance(group_data, dict)
                and same_rows(group_data, data)
            ):
                group.append(run)
                break
        else:
            groups.append((data, [run]))
    return [group for _, group in groups]


def compare_group(runs: Sequence[Path], names: dict[Path, str]) -> list[str]:
    """Describe which of these comparable runs is the best, and how the others differ from it."""
    if len(runs) < 2:
        return []
    best = find_best_run(runs)
    if best is None:
        return ["they have no measure in common beside the loss that all of them have a value of"]
    goals = run_reader.read_direction_map(
        [line for run in runs for line in run_reader.read_results(run)]
    )
    lines = [
        f"best: {names[best.run]}, by val {best.measure} ({DIRECTIONS[best.goal]}): {best.text}"
    ]
    lines += filter(None, [describe_unknown_direction(best.measure, goals)])
    remaining = list(runs)
    remaining.remove(best.run)
    # Of two runs, the second minus the first: the order in which they were named.
    ordered = runs[::-1] if len(runs) == 2 else [best.run, *remaining]
    return [*lines, *format_pairwise_differences(ordered, names)]


def find_best_run(runs: Sequence[Path]) -> BestRun | None:
    """Find the best run by the first metric, other than the loss, that all runs have a value of.

    Returns:
        None where there is no such metric. Over folds, the mean counts.
    """
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
    # The loss is what was minimized, not what was wanted.
    for name in filterfalse(is_loss, scored[0][0]):
        values = [
            result_tables.mean_and_std(result_tables.get_metric_values(scores, name))[0]
            for scores in scored
        ]
        # A metric that is nan in one of the runs cannot rank them; the next one may.
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if len(finite) == len(runs):
            goal = get_direction(name, goals)
            index = values.index(min(finite) if goal == "min" else max(finite))
            text = result_tables.format_over_folds(scored[index], name)
            return BestRun(runs[index], name, goal, text)
    return None


def format_pairwise_differences(
    runs: Sequence[Path], names: dict[Path, str] | None = None
) -> list[str]:
    """Describe how much each run differs from the first on the same rows, with its interval.

    Args:
        runs: Run folders.
        names: Their names; by default from their folders.

    Returns:
        A line for each run after the first.
    """
    names = get_run_names(runs) if names is None else names
    first, *remaining = runs
    lines = []
    compared = 0
    for run in remaining:
        try:
            goals = run_reader.read_direction_map(
                [*run_reader.read_results(first), *run_reader.read_results(run)]
            )
            measure = differences.find_shared_metric(run, first)
            difference = differences.compute_run_difference(run, first, measure)
            text = result_tables.describe_difference(measure, difference, goals)
            compared += 1
        except UserError as error:
            text = f"cannot be compared row by row: {error}"
        lines.append(f"{names[first]} − {names[run]}: {text}")
    # A 95 % interval misses zero by chance in 5 % of comparisons.
    if compared > 1:
        lines.append(
            f"{compared} differences were looked at: by chance alone about 1 in 20 would seem real"
        )
    return lines
