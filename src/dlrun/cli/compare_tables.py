"""The tables of `dlrun compare`: which runs, what they came to, and which settings differ, for any width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import run_reader, stored_files
from dlrun.report import formatting, naming, workflow_stages

if TYPE_CHECKING:
    from rich.table import Table


def get_compared_results(run: Path) -> run_reader.JsonLines:
    """The results that stand for a run: of a workflow those of its winner, and of its final evaluation; of stages
    those of fits from which no other one began."""
    lines, winner = (
        run_reader.read_results(run),
        workflow_stages.find_best_stage(workflow_stages.read_verdicts(run)),
    )
    if winner:
        return [line for line in lines if line["job"]["stage"] in (winner, "final")]
    return run_reader.drop_previous_stages(lines)


IGNORED_KEYS = ("output", "hydra.", "note", "task.question")
MAX_CELL_WIDTH = 28  # letters of a setting, or of a name, on one line
CELL_PADDING = 3  # letters around each cell
Cells = list[list[str]]


class ComparisonTables:
    """What is shown of runs. Drawn for the width that there is: columns that do not fit stand in a table below."""

    def __init__(self, runs: Sequence[Path], names: Sequence[str]) -> None:
        configs, self.results = (
            [stored_files.load_run_config(run) for run in runs],
            [get_compared_results(run) for run in runs],
        )
        self.flats = [run_reader.flatten_config(config) for config in configs]
        self.differing = run_reader.find_changed_keys(configs, IGNORED_KEYS)
        self.numbers = [str(number) for number in range(1, len(runs) + 1)]
        called = [naming.get_run_title(config) for config in configs]
        self.named = [
            ["run", "folder", "what"],
            *map(list, zip(self.numbers, names, called, strict=True)),
        ]

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Table]:
        width = options.max_width
        yield from split_table(self.named, width, longest=width)
        for cells in (self.build_score_cells(), self.build_setting_cells(width)):
            yield from split_table(cells, width)

    def build_score_cells(self) -> Cells:
        """A row for each run: its scores with their intervals, its epochs and seconds."""
        found = [_format_scores(lines) for lines in self.results]
        heads = sorted({head for scores in found for head in scores}, key=_column_order)
        columns = ["run", *(f"{split} {measure}" for split, measure in heads), "epochs", "seconds"]
        rows = zip(self.numbers, found, self.results, strict=True)
        return [
            columns,
            *(
                [number, *(scores.get(head, "") for head in heads), *_epochs_and_seconds(lines)]
                for number, scores, lines in rows
            ),
        ]

    def build_setting_cells(self, width: int) -> Cells:
        """The keys that differ: a row for each key, or where there are fewer keys than runs a row for each run."""
        values = [
            ["" if flat.get(key) is None else str(flat[key]) for flat in self.flats]
            for key in self.differing
        ]
        if not values:
            return []
        by_key = [
            ["key", *self.numbers],
            *([key, *row] for key, row in zip(self.differing, values, strict=True)),
        ]
        fits = sum(map(_column_width, zip(*by_key, strict=True))) <= width
        if fits or len(self.differing) > len(self.numbers):
            return by_key
        return [list(column) for column in zip(*by_key, strict=True)]


def split_table(cells: Cells, width: int, longest: int = MAX_CELL_WIDTH) -> Iterator[Table]:
    """One table, or several below each other that all begin with the first column. longest: letters on one line."""
    columns = [list(column) for column in zip(*cells, strict=True)]
    while len(columns) > 1:
        first, taken, used = columns[0], 1, _column_width(columns[0])
        while taken < len(columns) and (
            taken == 1 or used + _column_width(columns[taken]) <= width
        ):
            used += _column_width(columns[taken])
            taken += 1
        yield _build_table([first, *columns[1:taken]], longest)
        columns = [first, *columns[taken:]]


def _column_width(column: Sequence[str]) -> int:
    return min(MAX_CELL_WIDTH, max(map(len, column))) + CELL_PADDING


def _build_table(columns: Sequence[Sequence[str]], longest: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for head, *_ in columns:
        table.add_column(Text(head), overflow="fold", max_width=longest)
    for row in list(zip(*columns, strict=True))[1:]:
        table.add_row(*map(Text, row))
    return table


def _format_scores(lines: run_reader.JsonLines) -> dict[tuple[str, str], str]:
    found = {}
    for split in dict.fromkeys(line["split"] for line in lines):
        scores = [line.get("scores") or {} for line in lines if line["split"] == split]
        for measure in dict.fromkeys(measure for score in scores for measure in score):
            found[split, measure] = formatting.format_over_folds(scores, measure)
    return found


def _column_order(head: tuple[str, str]) -> tuple[bool, str, bool, str]:
    split, measure = head
    return split != "val", split, measure.startswith("loss"), measure


def _epochs_and_seconds(lines: run_reader.JsonLines) -> list[str]:
    fits = [line for line in lines if line["split"] != "test"] or lines
    epochs = dict.fromkeys(str(line.get("epochs") or 0) for line in fits)
    return ["/".join(epochs), f"{sum(float(line.get('seconds') or 0) for line in fits):.1f}"]
