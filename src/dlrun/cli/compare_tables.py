"""The tables of `dlrun compare`, for any width: runs, scores, and the settings that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import run_reader
from dlrun.core.measure_names import is_loss
from dlrun.core.run_folder import RunFolder
from dlrun.report import formatting, naming, workflow_stages

if TYPE_CHECKING:
    from rich.table import Table


def get_compared_results(run: Path) -> run_reader.JsonLines:
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
        titles = [naming.get_run_title(config) for config in configs]
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


def _format_scores(lines: run_reader.JsonLines) -> dict[tuple[str, str], str]:
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


def _epochs_and_seconds(lines: run_reader.JsonLines) -> list[str]:
    fits = [line for line in lines if line["split"] != "test"] or lines
    epochs = dict.fromkeys(str(line.get("epochs") or 0) for line in fits)
    return ["/".join(epochs), f"{sum(float(line.get('seconds') or 0) for line in fits):.1f}"]
