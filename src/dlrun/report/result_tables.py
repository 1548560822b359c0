"""The table at the end of a run: each score with its interval beside the baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting, run_reader
from dlrun.core.formatting import counted
from dlrun.core.run_folder import RunFolder
from dlrun.report import formatting as measures
from dlrun.report import naming

if TYPE_CHECKING:
    from rich.table import Table


STAR = "★"  # ends the first cell of the winner's row
MAX_FOLD_COLUMNS = 4  # more folds than these share one column, so that the table fits a terminal


@dataclass(frozen=True)
class TextTable:
    """One table as plain text, for the terminal and for reports.

    Attributes:
        title: Its heading.
        columns: The names of the columns.
        rows: The cells.
        caption: The line below it.
        notes: Lines that belong to the title.
        warnings: Those of them that say that data or weights are made up.
        right: The indices of the columns that are aligned right.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    notes: tuple[str, ...] = ()
    right: frozenset[int] = field(default_factory=frozenset)
    warnings: tuple[str, ...] = ()


def make_score_tables(results: run_reader.JsonLines, config: dict[str, Any]) -> list[TextTable]:
    """One table for each stage and split; the folds of one stage share theirs."""
    groups: dict[tuple[str, str], run_reader.JsonLines] = {}
    for line in results:
        # A dict keeps the order of the fits.
        groups.setdefault((run_reader.get_family(line["name"]), line["split"]), []).append(line)
    return [
        _make_score_table(name, split, lines, config) for (name, split), lines in groups.items()
    ]


def to_rich_table(summary: TextTable) -> Table:
    """The same table for a terminal; its warnings stand in red in its title."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Text, not markup: a name from data may hold [brackets].
    title = Text(summary.title, style="bold")
    for note in summary.notes:
        title.append("\n" + note, style="bold red" if note in summary.warnings else "not bold")
    layout: dict[str, Any] = {
        "title_justify": "left",
        "caption_justify": "left",
        "box": box.SIMPLE_HEAD,
    }
    table = Table(title=title, caption=summary.caption or None, **layout)
    for position, column in enumerate(summary.columns):
        table.add_column(Text(column), justify="right" if position in summary.right else "left")
    for row in summary.rows:
        table.add_row(*map(Text, row))
    return table


def load_result_tables(folder: Path) -> list[Table]:
    """The tables of a finished run folder."""
    config, results = RunFolder(folder).read_config(), run_reader.read_results(folder)
    return [to_rich_table(summary) for summary in make_score_tables(results, config)]


def _make_score_table(
    name: str, split: str, lines: run_reader.JsonLines, config: dict[str, Any]
) -> TextTable:
    several = len(lines) > 1
    scores = [line.get("scores") or {} for line in lines]
    baselines = [line.get("baseline") or {} for line in lines]
    heading = measures.get_interval_heading(several, scores)
    has_baseline = any(baselines)  # what makes something need not have anything to beat
    columns = [
        "measure",
        f"{split} ({heading})" if heading else split,
        *(["baseline"] if has_baseline else []),
        *_fold_columns(lines),
    ]
    rows = []
    for measure, label in measures.get_metric_labels(scores).items():
        row = [label, measures.format_over_folds(scores, measure)]
        row += [_format_baseline(baselines, measure)] if has_baseline else []
        row += _format_folds(scores, measure) if several else []
        rows.append(row)
    title = f"{naming.get_run_title(config)}: {_describe_fits(name, lines)}, {split}"
    return TextTable(
        title,
        columns,
        rows,
        _format_message(lines),
        notes=tuple(run_reader.collect_messages(lines)),
        right=frozenset(range(1, len(columns))),
        warnings=tuple(run_reader.collect_data_warnings(lines)),
    )


def _format_baseline(baselines: list[measures.Scores], measure: str) -> str:
    """The baseline's score; over folds its mean, whose deviation says nothing about the model."""
    if len(baselines) == 1:
        return measures.format_over_folds(baselines, measure)
    values = measures.get_metric_values(baselines, measure)
    return formatting.format_number(measures.mean_and_std(values)[0])


def _format_folds(scores: list[measures.Scores], measure: str) -> list[str]:
    """A cell for each fold, or one cell for many."""
    cells = [measures.format_score(_drop_interval(score.get(measure))) for score in scores]
    return cells if len(cells) <= MAX_FOLD_COLUMNS else [" ".join(cells)]


def _drop_interval(score: dict[str, Any] | None) -> dict[str, Any] | None:
    """A score without its interval: beside a mean over fits it would be taken for the mean's."""
    return None if score is None else {"value": score.get("value")}


def _describe_fits(name: str, lines: run_reader.JsonLines) -> str:
    """'fit', '4 folds', '3 seeds' or '2 × 4 folds', after a workflow's stage: 'final, 3 seeds'."""
    folds = max(int(line["job"].get("folds") or 1) for line in lines)
    repeats = len({line["job"].get("repeat") for line in lines})
    if folds > 1:
        count_text = f"{repeats} × {folds} folds" if repeats > 1 else f"{len(lines)} folds"
    else:
        count_text = f"{repeats} seeds" if repeats > 1 else ""
    stage = "" if name in ("folds", "fit") and count_text else name
    return ", ".join(filter(None, (stage, count_text)))


def _fold_columns(lines: run_reader.JsonLines) -> list[str]:
    if len(lines) == 1:
        return []
    return (
        [line["name"] for line in lines]
        if len(lines) <= MAX_FOLD_COLUMNS
        else [f"each of {len(lines)}"]
    )


def _format_message(lines: run_reader.JsonLines) -> str:
    checkpoints = list(dict.fromkeys(str(line.get("checkpoint") or "") for line in lines))
    epochs = sorted({int(line.get("epochs") or 0) for line in lines})
    first_repeat = [
        line for line in lines if not line["job"].get("repeat")
    ]  # seeds see the same rows again
    # The rows of one metric, since undefined ones have none.
    counts = [
        score.get("n") or 0
        for line in first_repeat
        for score in list((line.get("scores") or {}).values())[:1]
    ]
    seconds = sum(float(line.get("seconds") or 0) for line in lines)
    items = [
        f"checkpoint: {', '.join(filter(None, checkpoints)) or 'none'}",
        f"{epochs[0]}–{epochs[-1]} epochs"
        if epochs[0] < epochs[-1]
        else counted(epochs[0], "epoch"),
        f"{seconds:.1f} s",
    ]
    if any(counts):
        items.insert(1, counted(sum(counts), "row"))
    return " · ".join(items)
