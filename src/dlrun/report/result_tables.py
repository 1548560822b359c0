"""The small table at the end of a run: each score with its 95 % interval beside the common-sense baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, run_reader, stored_files
from dlrun.core.formatting import counted
from dlrun.report import formatting as measures
from dlrun.report import naming

if TYPE_CHECKING:
    from rich.table import Table


FOLD_COLUMNS = 4  # more folds than these share one column, so that the table fits a terminal


@dataclass(frozen=True)
class Summary:
    """One table as plain text, for the terminal and for report.html alike."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    notes: tuple[str, ...] = ()
    right: frozenset[int] = field(default_factory=frozenset)


def summaries(results: run_reader.Lines, config: dict[str, Any]) -> list[Summary]:
    """One table for each stage and split; the folds of one stage share theirs."""
    together: dict[tuple[str, str], run_reader.Lines] = {}
    for line in results:
        together.setdefault((run_reader.family(line["name"]), line["split"]), []).append(line)
    return [_summary(name, split, lines, config) for (name, split), lines in together.items()]


def rich_table(summary: Summary) -> Table:
    """The same table for a terminal; a SYNTHETIC note stands in red in its title."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(summary.title, style="bold")
    for note in summary.notes:
        title.append("\n" + note, style="bold red" if "SYNTHETIC" in note else "not bold")
    look: dict[str, Any] = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD}
    table = Table(title=title, caption=summary.caption or None, **look)
    for position, column in enumerate(summary.columns):
        table.add_column(Text(column), justify="right" if position in summary.right else "left")
    for row in summary.rows:
        table.add_row(*map(Text, row))
    return table


def result_tables(folder: Path) -> list[Table]:
    """The tables of a finished run folder."""
    config, results = stored_files.config(folder), run_reader.results(folder)
    return [rich_table(summary) for summary in summaries(results, config)]


def _summary(name: str, split: str, lines: run_reader.Lines, config: dict[str, Any]) -> Summary:
    several = len(lines) > 1
    scores = [line.get("scores") or {} for line in lines]
    baselines = [line.get("baseline") or {} for line in lines]
    beside = measures.headed(several, scores)
    there = any(baselines)  # what makes something need not have anything to beat
    columns = [
        "measure",
        f"{split} ({beside})" if beside else split,
        *(["baseline"] if there else []),
        *_fold_columns(lines),
    ]
    rows = []
    for measure, label in measures.labels(scores).items():
        each = [measures.score_text(_value(score.get(measure))) for score in scores] if several else []
        mean = formatting.number(measures.mean_and_deviation(measures.values(baselines, measure))[0])
        bar = [mean if several else measures.over_folds(baselines, measure)] if there else []
        own = measures.over_folds(scores, measure)
        rows.append([label, own, *bar, *(each if len(each) <= FOLD_COLUMNS else [" ".join(each)])])
    title = f"{naming.called(config)}: {_fits(name, lines)}, {split}"
    notes = tuple(run_reader.notes_of(lines))
    return Summary(title, columns, rows, _caption(lines), notes, frozenset(range(1, len(columns))))


def _value(score: dict[str, Any] | None) -> dict[str, Any] | None:
    """A score without its interval: beside a mean over fits it would be taken for the mean's."""
    return None if score is None else {"value": score.get("value")}


def _fits(name: str, lines: run_reader.Lines) -> str:
    """'fit', '4 folds', '3 seeds', '2 × 4 folds', and before it the stage of a workflow: 'final, 3 seeds'."""
    folds = max(int(line["job"].get("folds") or 1) for line in lines)
    repeats = len({line["job"].get("repeat") for line in lines})
    if folds > 1:
        said = f"{repeats} × {folds} folds" if repeats > 1 else f"{len(lines)} folds"
    else:
        said = f"{repeats} seeds" if repeats > 1 else ""
    stage = "" if name in ("folds", "fit") and said else name
    return ", ".join(filter(None, (stage, said)))


def _fold_columns(lines: run_reader.Lines) -> list[str]:
    if len(lines) == 1:
        return []
    return [line["name"] for line in lines] if len(lines) <= FOLD_COLUMNS else [f"each of {len(lines)}"]


def _caption(lines: run_reader.Lines) -> str:
    kept = list(dict.fromkeys(str(line.get("checkpoint") or "") for line in lines))
    epochs = sorted({int(line.get("epochs") or 0) for line in lines})
    once = [line for line in lines if not line["job"].get("repeat")]  # seeds see the same rows again
    counts = [score.get("n") or 0 for line in once for score in list((line.get("scores") or {}).values())[:1]]
    seconds = sum(float(line.get("seconds") or 0) for line in lines)
    parts = [
        f"checkpoint: {', '.join(filter(None, kept)) or 'none'}",
        f"{epochs[0]}–{epochs[-1]} epochs" if epochs[0] < epochs[-1] else counted(epochs[0], "epoch"),
        f"{seconds:.1f} s",
    ]
    if any(counts):
        parts.insert(1, counted(sum(counts), "row"))
    return " · ".join(parts)
