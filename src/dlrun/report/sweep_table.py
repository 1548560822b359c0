"""Writes sweep.csv and sweep.md from a sweep's folder: one line a job, the best first, the failed ones last."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting
from dlrun.core.files import write_text
from dlrun.core.measure_names import sign, unsaid
from dlrun.report import formatting as measures
from dlrun.report.sweep_jobs import Aim, Line, goals_of, lines_of, ranked, varying
from dlrun.report.sweep_uncertainty import over_seeds

if TYPE_CHECKING:
    from rich.table import Table


ROWS = 30  # at most so many on a terminal; sweep.md has them all
SHOWN = 160  # letters of what went wrong, on a terminal


def write_sweep(folder: Path) -> Table:
    """Write sweep.csv and sweep.md anew, each whole or not at all, and answer with the same table for a terminal.

    May be called after each job. Raises Refused where there is no sweep.
    """
    aim = Aim.of(folder)
    return write_lines(folder, lines_of(folder, aim), aim)


def write_lines(folder: Path, found: list[Line], aim: Aim) -> Table:
    """The same from lines that were read before."""
    measure = aim.first(found)
    ordered = ranked(found, measure)
    heads = _heads(ordered)
    write_text(folder / "sweep.csv", _csv(ordered, heads))
    columns, cells = _cells(ordered, heads)
    notes = sorted({line.note for line in ordered if line.note})
    goals = goals_of(found)
    notes += filter(None, [unsaid(measure, goals)])
    order = "lowest" if sign(measure, goals) > 0 else "highest"
    about = f"Sorted by {measure}, {order} first. In brackets: 95 % interval over the rows." if measure else ""
    text = _markdown(folder.name, columns, cells, notes, about)
    seeds, rows = over_seeds(found, aim)
    text += "\n".join(["", "## Over seeds", "", *_lines(seeds, rows), ""]) if rows else ""
    write_text(folder / "sweep.md", text)
    return _table(folder.name, columns, cells, notes)


def _heads(found: list[Line]) -> tuple[list[str], list[str]]:
    return varying(found), list(dict.fromkeys(name for line in found for name in line.scores))


def _csv(found: list[Line], heads: tuple[list[str], list[str]]) -> str:
    keys, names = heads
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    scores = [f"{name}{end}" for name in names for end in ("", "_sd", "_baseline")]
    ends = [f"{name}_{end}" for name in names for end in ("low", "high")]
    writer.writerow(["job", "status", *keys, *scores, "error", "note", "folder", *ends, "undefined"])
    for line in found:
        cells: list[Any] = []
        for name in names:
            cells += map(in_csv, [*line.scores.get(name, (None, None)), line.baseline.get(name)])
        own = [line.words.get(key) for key in keys]
        about = [line.error, line.note, line.folder]
        around = [end for name in names for end in line.ends.get(name, (None, None))]
        said = "; ".join(line.undefined.values())
        writer.writerow([line.job, line.status, *own, *cells, *about, *around, said])
    return stream.getvalue()


def in_csv(value: float | None) -> float | None:
    """A number of sweep.csv; an empty cell where there is none."""
    return value if value is None or math.isfinite(value) else None


def _cells(found: list[Line], heads: tuple[list[str], list[str]]) -> tuple[list[str], list[list[str]]]:
    keys, names = heads
    known = {name: {line.baseline[name] for line in found if line.baseline.get(name) is not None} for name in names}
    beside = [name for name in names if known[name]]
    columns = ["job", *keys, *names, *(f"{name} of baseline" for name in beside), "status"]
    cells = []
    for line in found:
        own = [in_few(line.words.get(key, "")) for key in keys]
        scores = [in_text(line, name) for name in names]
        baseline = [formatting.number(line.baseline.get(name)) for name in beside]
        said = [line.error] if line.error else list(line.undefined.values())
        status = f"{line.status}: {'; '.join(said)}" if said else line.status
        cells.append([line.folder, *own, *scores, *baseline, status])
    return columns, cells


def in_text(line: Line, name: str) -> str:
    """A score with its interval, or over folds its deviation; or what a job has cost."""
    mean, deviation = line.scores.get(name, (None, None))
    if name == "parameters" and mean is not None:
        return str(mean)
    if mean is None or deviation is not None:
        return measures.spread_text(mean, deviation)
    return measures.with_ends(mean, *line.ends.get(name, (None, None)))


def in_few(text: str) -> str:
    """A value in few letters: of a number with many digits the first four; sweep.csv has all of it."""
    try:
        return f"{float(text):.4g}" if len(text) > 8 else text
    except ValueError:
        return text


def _markdown(title: str, columns: list[str], cells: list[list[str]], notes: list[str], about: str) -> str:
    heads = [f"# Sweep {title}", "", *(f"**{note}**\n" for note in notes), *([about, ""] if about else [])]
    return "\n".join([*heads, *_lines(columns, cells), ""])


def _lines(columns: list[str], cells: list[list[str]]) -> list[str]:
    rows = [columns, ["---"] * len(columns), *cells]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _table(title: str, columns: list[str], cells: list[list[str]], notes: list[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(f"sweep {title}", style="bold")
    for note in notes:
        heading.append(f"\n{note}", style="bold red")
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    shown = [place for place, column in enumerate(columns) if not column.endswith(" of baseline") or len(columns) < 8]
    for place in shown:
        table.add_column(Text(columns[place]), overflow="fold")
    for row in cells[:ROWS]:
        style = "red" if row[-1].startswith("failed") else None
        row = [*row[:-1], shorten(row[-1], SHOWN, placeholder=" …")]
        table.add_row(*(Text(row[place]) for place in shown), style=style)
    if len(cells) > ROWS:
        table.caption = f"and {len(cells) - ROWS} more in sweep.md"
    return table
