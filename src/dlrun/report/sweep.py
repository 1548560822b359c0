"""Writes sweep.csv and sweep.md from a sweep's folder: one line a job, the best first, the failed ones last."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from dlrun.errors import Refused
from dlrun.figures import deciding, sign
from dlrun.report import measures, read
from dlrun.whole import write_text

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 30  # at most so many on a terminal; sweep.md has them all
SHOWN = 160  # letters of what went wrong, on a terminal


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


@dataclass(frozen=True)
class Aim:
    """What a sweep is decided by. names: the measures asked for, without their split; none: the first job says it."""

    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> Aim:
        """What sweep.yaml says; nothing for sweeps from before it."""
        import yaml

        text = read.text(folder / "sweep.yaml")
        measure = (yaml.safe_load(text) or {}).get("search", {}).get("measure") if text else None
        names = [measure] if isinstance(measure, str) else measure or []
        return cls(tuple(name.removeprefix("val/") for name in names))

    def first(self, found: Iterable[Line]) -> str:
        """The measure that the table is sorted by."""
        return deciding((name for line in found for name in line.scores), self.names[0] if self.names else None)


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
    write_text(folder / "sweep.md", _markdown(folder.name, columns, cells, notes, measure))
    return _table(folder.name, columns, cells, notes)


def lines_of(folder: Path, aim: Aim, known: dict[int, Line] | None = None) -> list[Line]:
    """The lines of all jobs. known: lines of jobs that have ended, which are not read again; new ones are added."""
    known, found = {} if known is None else known, []
    for entry in _entries(folder):
        line = known.get(entry["job"])
        if line is None or line.status != entry["status"]:
            line = _line(folder, entry, aim)
            known[line.job] = line
        found.append(line)
    return found


def ranked(found: list[Line], measure: str) -> list[Line]:
    """The best first, then the best of the pruned ones; then those without this score, and the failed ones last."""

    def place(line: Line) -> tuple[int, float, int]:
        value = value_of(line, measure)
        order = {"done": 0, "pruned": 1, "failed": 3}.get(line.status, 2)
        return (order, sign(measure) * value, line.job) if value is not None else (max(order, 2), 0.0, line.job)

    return sorted(found, key=place)


def value_of(line: Line, measure: str) -> float | None:
    """The score of a job, where it has one that is a number."""
    value = line.scores.get(measure, (None, None))[0]
    return value if value is not None and math.isfinite(value) and line.status != "failed" else None


def best(found: list[Line], aim: Aim) -> list[Line]:
    """The best finished job; where there are several aims, those that no other beats in all of them, the best first."""
    measure = aim.first(found)
    names = aim.names or (measure,)
    done = [line for line in found if line.status == "done" and None not in [value_of(line, name) for name in names]]
    scored = {line.job: [sign(name) * (value_of(line, name) or 0) for name in names] for line in done}

    def beaten(job: int) -> bool:
        mine = scored[job]
        return any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in scored.values())

    front = [line for line in ranked(found, measure) if line.job in scored and not beaten(line.job)]
    return front if len(names) > 1 else front[:1]


def varying(found: list[Line]) -> list[str]:
    """The keys whose words are not the same in every job, in the order in which they were given."""
    keys = dict.fromkeys(key for line in found for key in line.words)
    return [key for key in keys if len({line.words.get(key) for line in found}) > 1]


def _entries(folder: Path) -> read.Lines:
    entries = {line["job"]: line for line in read.lines(folder / "sweep.jsonl")}
    if not entries:
        raise Refused(f"{folder} is no sweep folder: it has no sweep.jsonl with jobs in it")
    return [entries[job] for job in sorted(entries) if entries[job].get("status") != "same"]


def _line(folder: Path, entry: dict[str, Any], aim: Aim) -> Line:
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
    costs = [cost for cost in ("parameters", "seconds") if cost in aim.names and cost in entry]  # once it has ended
    spread |= {cost: (entry[cost], None) for cost in costs if spread}
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
        own = [in_few(line.words.get(key, "")) for key in keys]
        scores = [in_text(name, *line.scores.get(name, (None, None))) for name in names]
        baseline = [measures.number(line.baseline.get(name)) for name in beside]
        status = f"{line.status}: {line.error}" if line.error else line.status
        cells.append([line.folder, *own, *scores, *baseline, status])
    return columns, cells


def in_text(name: str, mean: float | None, deviation: float | None) -> str:
    """A score, or what it has cost."""
    return str(mean) if name == "parameters" and mean is not None else measures.spread_text(mean, deviation)


def in_few(text: str) -> str:
    """A value in few letters: of a number with many digits the first four; sweep.csv has all of it."""
    try:
        return f"{float(text):.4g}" if len(text) > 8 else text
    except ValueError:
        return text


def _markdown(title: str, columns: list[str], cells: list[list[str]], notes: list[str], measure: str) -> str:
    rows = [columns, ["---"] * len(columns), *cells]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    order = "lowest" if sign(measure) > 0 else "highest"
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
