"""Writes sweep.csv and sweep.md from a sweep's folder: one line a job, the best first, the failed ones last."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.errors import Refused
from dlrun.report import measures, read
from dlrun.whole import write_text

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Line:
    """One job of a sweep: its own words, and what came of it. scores: measure → (mean, deviation over folds)."""

    job: int
    status: str
    words: dict[str, str]
    scores: dict[str, tuple[float | None, float | None]]
    baseline: dict[str, float | None]
    error: str
    folder: str
    note: str


def write_sweep(folder: Path) -> Table:
    """Write sweep.csv and sweep.md anew, each whole or not at all, and answer with the same table for a terminal.

    May be called after each job. Raises Refused where there is no sweep.
    """
    found = [_line(folder, entry) for entry in _entries(folder)]
    measure = first_measure(found)
    ordered = ranked(found, measure)
    heads = _heads(ordered)
    write_text(folder / "sweep.csv", _csv(ordered, heads))
    columns, cells = _cells(ordered, heads)
    notes = sorted({line.note for line in ordered if line.note})
    write_text(folder / "sweep.md", _markdown(folder.name, columns, cells, notes, measure))
    return _table(folder.name, columns, cells, notes)


def first_measure(found: list[Line]) -> str:
    """What a sweep is sorted by: the first score of its first finished job."""
    return next((name for line in found for name in line.scores), "")


def ranked(found: list[Line], measure: str) -> list[Line]:
    """The best first; then those without this score, and the failed ones last."""
    sign = 1 if measures.lower_is_better(measure) else -1

    def place(line: Line) -> tuple[int, float, int]:
        value = line.scores.get(measure, (None, None))[0]
        if line.status == "failed":
            return 2, 0.0, line.job
        known = value is not None and math.isfinite(value)
        return (0, sign * value, line.job) if known else (1, 0.0, line.job)  # type: ignore[operator]

    return sorted(found, key=place)


def varying(found: list[Line]) -> list[str]:
    """The keys whose words are not the same in every job, in the order in which they were given."""
    keys = dict.fromkeys(key for line in found for key in line.words)
    return [key for key in keys if len({line.words.get(key) for line in found}) > 1]


def _entries(folder: Path) -> read.Lines:
    entries = {line["job"]: line for line in read.lines(folder / "sweep.jsonl")}
    if not entries:
        raise Refused(f"{folder} is no sweep folder: it has no sweep.jsonl with jobs in it")
    return [entries[job] for job in sorted(entries)]


def _line(folder: Path, entry: dict[str, Any]) -> Line:
    name = str(entry.get("folder") or f"{entry['job']:03}")
    words = dict(word.partition("=")[::2] for word in entry.get("words", ()))
    results = read.results(folder / name)
    val = [line for line in results if line["split"] == "val"] or results
    stages = [line for line in val if read.family(line["name"]) == read.family(val[-1]["name"])]
    scored = [line.get("scores") or {} for line in stages]
    known = [line.get("baseline") or {} for line in stages]
    spread = {
        measure: measures.mean_and_deviation(measures.values(scored, measure))
        for measure in dict.fromkeys(measure for score in scored for measure in score)
    }
    baseline = {measure: measures.mean_and_deviation(measures.values(known, measure))[0] for measure in spread}
    error = " ".join(str(entry.get("error") or "").split())
    status = str(entry.get("status", ""))
    return Line(entry["job"], status, words, spread, baseline, error, name, read.warning_of(results))


def _heads(found: list[Line]) -> tuple[list[str], list[str]]:
    return varying(found), list(dict.fromkeys(name for line in found for name in line.scores))


def _csv(found: list[Line], heads: tuple[list[str], list[str]]) -> str:
    keys, names = heads
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    scores = [f"{name}{end}" for name in names for end in ("", "_sd", "_baseline")]
    writer.writerow(["job", "status", *keys, *scores, "error", "note", "folder"])
    for line in found:
        cells: list[Any] = []
        for name in names:
            cells += [*line.scores.get(name, (None, None)), line.baseline.get(name)]
        own = [line.words.get(key) for key in keys]
        writer.writerow([line.job, line.status, *own, *cells, line.error, line.note, line.folder])
    return stream.getvalue()


def _cells(found: list[Line], heads: tuple[list[str], list[str]]) -> tuple[list[str], list[list[str]]]:
    keys, names = heads
    known = {name: {line.baseline[name] for line in found if line.baseline.get(name) is not None} for name in names}
    beside = [name for name in names if known[name]]
    columns = ["job", *keys, *names, *(f"{name} of baseline" for name in beside), "status"]
    cells = []
    for line in found:
        own = [line.words.get(key, "") for key in keys]
        scores = [measures.spread_text(*line.scores.get(name, (None, None))) for name in names]
        baseline = [measures.number(line.baseline.get(name)) for name in beside]
        status = f"{line.status}: {line.error}" if line.error else line.status
        cells.append([line.folder, *own, *scores, *baseline, status])
    return columns, cells


def _markdown(title: str, columns: list[str], cells: list[list[str]], notes: list[str], measure: str) -> str:
    rows = [columns, ["---"] * len(columns), *cells]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    order = "lowest" if measures.lower_is_better(measure) else "highest"
    sorted_by = [f"Sorted by {measure}, {order} first.", ""] if measure else []
    return "\n".join([f"# Sweep {title}", "", *(f"**{note}**\n" for note in notes), *sorted_by, *table, ""])


def _table(title: str, columns: list[str], cells: list[list[str]], notes: list[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = Text(f"sweep {title}", style="bold")
    for note in notes:
        heading.append(f"\n{note}", style="bold red")
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row), style="red" if row[-1].startswith("failed") else None)
    return table
