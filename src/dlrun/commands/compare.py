"""`dlrun compare`: runs side by side, with only the config keys that differ, and whether the difference is real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.errors import Refused
from dlrun.report import measures, read, stages
from dlrun.report.apart import pairs

if TYPE_CHECKING:
    from rich.console import Group


WIDE = 7  # columns that fit a terminal
NEEDED = ("config.yaml", "results.jsonl")
PRIVATE = ("output", "hydra.", "note", "task.question")


def comparison(runs: Sequence[Path]) -> Group:
    """One row a run: scores with their intervals, epochs, seconds, and what the runs do differently.

    Where runs differ in more than a few things, one column a run. Below, whether the others differ from the first.
    Raises Refused for a folder that is no finished run, naming what it lacks.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if not runs:
        raise Refused("compare which runs? dlrun compare RUN RUN…, such as outputs/*/*")
    check(runs)
    columns, rows, notes = cells(runs)
    if len(columns) > max(WIDE, len(runs)):
        columns, *rows = map(list, zip(columns, *rows, strict=True))
    title = Text("\n".join(notes), style="bold red") if notes else None
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return Group(table, *(Text(line) for line in pairs(runs)))


def check(runs: Sequence[Path]) -> None:
    """Raise Refused, naming every folder that is no finished run and what it lacks."""
    faults = []
    for run in runs:
        missing = [name for name in NEEDED if not (run / name).is_file()]
        if missing:
            faults.append(f"{run} has no {' and no '.join(missing)}" if run.is_dir() else f"there is no folder {run}")
        elif not read.results(run):
            faults.append(f"{run}/results.jsonl holds no result")
    if faults:
        raise Refused("not every one of these is a finished run: " + "; ".join(faults))


def standing(run: Path) -> read.Lines:
    """The results that stand for a run: of a workflow those of its winner, and of its final evaluation; of stages
    those of fits from which no other one began."""
    lines, winner = read.results(run), stages.winner(stages.verdicts(run))
    if winner:
        return [line for line in lines if line["job"]["stage"] in (winner, "final")]
    return read.standing(lines)


def cells(runs: Sequence[Path]) -> tuple[list[str], list[list[str]], list[str]]:
    """The table as text: columns, rows, and the notes that must stand beside the scores."""
    configs = [read.config(run) for run in runs]
    results = [standing(run) for run in runs]
    differing = read.differing(configs, PRIVATE)
    scored = [_scores(lines) for lines in results]
    heads = sorted({head for scores in scored for head in scores}, key=_val_first)
    columns = ["run", *(f"{split} {measure}" for split, measure in heads), "epochs", "seconds", *differing]
    rows = []
    for run, lines, scores, config in zip(runs, results, scored, configs, strict=True):
        flat = read.flat(config)
        own = ["" if flat.get(key) is None else str(flat[key]) for key in differing]
        rows.append([str(run), *(scores.get(head, "") for head in heads), *_effort(lines), *own])
    notes = [read.warning_of(lines) for lines in results]
    return columns, rows, sorted(set(filter(None, notes)))


def _scores(lines: read.Lines) -> dict[tuple[str, str], str]:
    found = {}
    for split in dict.fromkeys(line["split"] for line in lines):
        scores = [line.get("scores") or {} for line in lines if line["split"] == split]
        for measure in dict.fromkeys(measure for score in scores for measure in score):
            found[split, measure] = measures.over_folds(scores, measure)
    return found


def _val_first(head: tuple[str, str]) -> tuple[bool, str, bool, str]:
    split, measure = head
    return split != "val", split, not measure.startswith("loss"), measure


def _effort(lines: read.Lines) -> list[str]:
    fits = [line for line in lines if line["split"] != "test"] or lines
    epochs = dict.fromkeys(str(line.get("epochs") or 0) for line in fits)
    return ["/".join(epochs), f"{sum(float(line.get('seconds') or 0) for line in fits):.1f}"]
