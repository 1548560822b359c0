"""Writes sweep.csv and sweep.md: one line a job, the best first, failed ones last."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting
from dlrun.core.files import write_text
from dlrun.core.formatting import describe_unknown_direction, direction_sign
from dlrun.report import result_tables
from dlrun.report.sweep_jobs import (
    JobRow,
    SweepObjective,
    find_variable_keys,
    merge_direction_map,
    rank_jobs,
    read_job_rows,
)
from dlrun.report.sweep_uncertainty import make_seed_table

if TYPE_CHECKING:
    from rich.table import Table


MAX_ROWS = 30  # at most so many on a terminal; sweep.md has them all
MAX_CELL_LENGTH = 160  # letters of what went wrong, on a terminal


def write_sweep_table(folder: Path) -> Table:
    """Write sweep.csv and sweep.md anew, atomically. It may be called after each job.

    Returns:
        The same table for a terminal.

    Raises:
        UserError: The folder holds no sweep.
    """
    objective = SweepObjective.from_folder(folder)
    return write_job_rows(folder, read_job_rows(folder, objective), objective)


def write_job_rows(folder: Path, jobs: list[JobRow], objective: SweepObjective) -> Table:
    """Write the table of rows that were read before; see `write_sweep_table`."""
    measure = objective.get_main_metric(jobs)
    ordered = rank_jobs(jobs, measure)
    heads = _column_names(ordered)
    write_text(folder / "sweep.csv", _make_csv(ordered, heads))
    columns, cells = _format_cells(ordered, heads)
    notes = sorted({job.note for job in ordered if job.note})
    goals = merge_direction_map(jobs)
    notes += filter(None, [describe_unknown_direction(measure, goals)])
    order = "lowest" if direction_sign(measure, goals) > 0 else "highest"
    caption = (
        f"Sorted by {measure}, {order} first. In brackets: 95 % interval over the rows."
        if measure
        else ""
    )
    text = _markdown(folder.name, columns, cells, notes, caption)
    seeds, rows = make_seed_table(jobs, objective)
    text += "\n".join(["", "## Over seeds", "", *_format_lines(seeds, rows), ""]) if rows else ""
    write_text(folder / "sweep.md", text)
    return _make_rich_table(folder.name, columns, cells, notes)


def _column_names(jobs: list[JobRow]) -> tuple[list[str], list[str]]:
    return find_variable_keys(jobs), list(
        dict.fromkeys(name for job in jobs for name in job.scores)
    )


def _make_csv(jobs: list[JobRow], heads: tuple[list[str], list[str]]) -> str:
    keys, names = heads
    stream = io.StringIO()
    # The same bytes on every system.
    writer = csv.writer(stream, lineterminator="\n")
    scores = [f"{name}{bound}" for name in names for bound in ("", "_sd", "_baseline")]
    ends = [f"{name}_{bound}" for name in names for bound in ("low", "high")]
    writer.writerow(
        ["job", "status", *keys, *scores, "error", "note", "folder", *ends, "undefined"]
    )
    for job in jobs:
        cells: list[Any] = []
        for name in names:
            cells += map(
                to_csv_number, [*job.scores.get(name, (None, None)), job.baseline.get(name)]
            )
        settings = [job.overrides.get(key) for key in keys]
        details = [job.error, job.note, job.folder]
        intervals = [bound for name in names for bound in job.intervals.get(name, (None, None))]
        undefined = "; ".join(job.undefined.values())
        writer.writerow([job.job, job.status, *settings, *cells, *details, *intervals, undefined])
    return stream.getvalue()


def to_csv_number(value: float | None) -> float | None:
    """A number of sweep.csv; an empty cell where there is none."""
    return value if value is None or math.isfinite(value) else None


def _format_cells(
    jobs: list[JobRow], heads: tuple[list[str], list[str]]
) -> tuple[list[str], list[list[str]]]:
    keys, names = heads
    baselines = {
        name: {job.baseline[name] for job in jobs if job.baseline.get(name) is not None}
        for name in names
    }
    # Costs have no baseline, and generative runs have none at all.
    with_baseline = [name for name in names if baselines[name]]
    columns = ["job", *keys, *names, *(f"{name} of baseline" for name in with_baseline), "status"]
    cells = []
    for job in jobs:
        settings = [truncate_number(job.overrides.get(key, "")) for key in keys]
        scores = [format_job_score(job, name) for name in names]
        baseline = [formatting.format_number(job.baseline.get(name)) for name in with_baseline]
        problems = [job.error] if job.error else list(job.undefined.values())
        status = f"{job.status}: {'; '.join(problems)}" if problems else job.status
        cells.append([job.folder, *settings, *scores, *baseline, status])
    return columns, cells


def format_job_score(job: JobRow, name: str) -> str:
    """A score with its interval, or over folds its deviation; or what a job has cost."""
    mean, deviation = job.scores.get(name, (None, None))
    # A count has no decimals.
    if name == "parameters" and mean is not None:
        return str(mean)
    if mean is None or deviation is not None:
        return result_tables.format_mean_std(mean, deviation)
    return result_tables.format_interval(mean, *job.intervals.get(name, (None, None)))


def truncate_number(text: str) -> str:
    """A value in few letters: four digits of a long number; sweep.csv has all of them."""
    try:
        return f"{float(text):.4g}" if len(text) > 8 else text
    except ValueError:
        return text


def _markdown(
    title: str, columns: list[str], cells: list[list[str]], notes: list[str], caption: str
) -> str:
    heads = [
        f"# Sweep {title}",
        "",
        *(f"**{note}**\n" for note in notes),
        *([caption, ""] if caption else []),
    ]
    return "\n".join([*heads, *_format_lines(columns, cells), ""])


def _format_lines(columns: list[str], cells: list[list[str]]) -> list[str]:
    rows = [columns, ["---"] * len(columns), *cells]
    # A bar in a value would begin another cell.
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _make_rich_table(
    title: str, columns: list[str], cells: list[list[str]], notes: list[str]
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Text, not markup: a value may hold [brackets].
    heading = Text(f"sweep {title}", style="bold")
    for note in notes:
        heading.append(f"\n{note}", style="bold red")
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    columns_shown = [
        index
        for index, column in enumerate(columns)
        if not column.endswith(" of baseline") or len(columns) < 8
    ]
    for index in columns_shown:
        table.add_column(Text(columns[index]), overflow="fold")
    for row in cells[:MAX_ROWS]:
        style = "red" if row[-1].startswith("failed") else None
        row = [*row[:-1], shorten(row[-1], MAX_CELL_LENGTH, placeholder=" …")]
        table.add_row(*(Text(row[index]) for index in columns_shown), style=style)
    if len(cells) > MAX_ROWS:
        table.caption = f"and {len(cells) - MAX_ROWS} more in sweep.md"
    return table
