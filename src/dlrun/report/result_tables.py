"""Scores as text and tables: names, intervals, means over folds, the baseline beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import get_model_part_name
from dlrun.core import files, formatting, run_folder, run_reader
from dlrun.core.formatting import counted, format_number, get_direction
from dlrun.core.run_folder import RunFolder

if TYPE_CHECKING:
    from rich.table import Table

    from dlrun.evaluation.bootstrap import Interval


Scores = dict[str, dict[str, Any]]


def format_score(score: dict[str, Any] | None) -> str:
    """A score with its 95 % interval, where it has one."""
    if not score:
        return ""
    return format_interval(
        files.number_from_json(score.get("value")), score.get("low"), score.get("high")
    )


def get_metric_labels(scores: list[Scores]) -> dict[str, str]:
    """Metric → what its row is called.

    Those in the target's own unit come first; a metric that equals the loss takes the loss's place.
    """
    names = list(dict.fromkeys(name for score in scores for name in score))
    unit_names = [name for name in names if name.endswith("_unit")]
    loss_names = [
        name
        for name in names
        if name not in ("loss", *unit_names) and _is_close(scores, name, "loss")
    ]
    # A metric that is the loss stands for it, so that no row comes twice.
    order = [name for name in (*unit_names, *names) if not (name == "loss" and loss_names)]
    return {
        name: f"{name} (the loss)" if name in loss_names[:1] else name
        for name in dict.fromkeys(order)
    }


def _is_close(scores: list[Scores], name: str, other_name: str) -> bool:
    first, second = get_metric_values(scores, name), get_metric_values(scores, other_name)
    # Equal up to rounding: the loss is summed in batches, the metric over rows.
    return len(first) == len(second) > 0 and all(
        abs(a - b) <= 1e-9 * abs(a) for a, b in zip(first, second, strict=True)
    )


def get_interval_heading(several: bool, scores: list[Scores]) -> str:
    """What stands beside the values of a column: a deviation over fits, or an interval."""
    if several:
        return "mean ± sd"
    has_interval = any(
        score.get("low") is not None
        for score_by_metric in scores
        for score in score_by_metric.values()
    )
    return "95 % interval" if has_interval else ""


def format_interval(value: float, low: float | None, high: float | None) -> str:
    """'0.8821 [0.8780, 0.8861]', or the value alone where there is no interval."""
    if low is None or high is None:
        return format_number(value)
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"


def format_mean_std(mean: float | None, deviation: float | None) -> str:
    """A mean with its standard deviation, which has as many decimals."""
    text = format_number(mean)
    if deviation is None or mean is None or not math.isfinite(mean):
        return text
    # Digits of the deviation beyond those of the mean would be noise.
    decimals = len(text.partition(".")[2])
    return f"{text} ± {format_number(deviation) if 'e' in text else f'{deviation:.{decimals}f}'}"


def get_metric_values(scores: list[Scores], measure: str) -> list[float]:
    """The values of one metric over several results; nan where it is undefined (JSON null)."""
    return [
        files.number_from_json(score[measure].get("value")) for score in scores if measure in score
    ]


def mean_and_std(numbers: list[float]) -> tuple[float | None, float | None]:
    """The mean and the standard deviation (n - 1) of the numbers that are defined.

    The mean is nan where none is defined, and None of no numbers; the deviation needs two.
    """
    defined = [value for value in numbers if not math.isnan(value)]
    if not defined:
        # None: not measured. nan: measured and undefined.
        return (math.nan if numbers else None), None
    # fsum, so that the order of the folds does not matter.
    mean = math.fsum(defined) / len(defined)
    if len(defined) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in defined) / (len(defined) - 1))


def format_defined_count(numbers: list[float]) -> str:
    """'mean of 3 of 4 fits' where a metric is undefined for some of them; else ''."""
    defined = sum(not math.isnan(value) for value in numbers)
    return f"mean of {defined} of {len(numbers)} fits" if 0 < defined < len(numbers) else ""


def format_over_folds(scores: list[Scores], measure: str) -> str:
    """One score with its interval, or mean ± deviation over folds."""
    if len(scores) == 1:
        return format_score(scores[0].get(measure))
    values = get_metric_values(scores, measure)
    return " · ".join(
        filter(None, (format_mean_std(*mean_and_std(values)), format_defined_count(values)))
    )


def describe_difference(measure: str, interval: Interval, goals: Mapping[str, str]) -> str:
    """A difference in words: how much, on how many rows, and whether it is more than chance."""
    sign = "+" if interval.value > 0 else ""
    label = f"{measure} (less is better)" if get_direction(measure, goals) == "min" else measure
    bounds = (
        ""
        if interval.low is None
        else f" [{format_number(interval.low)}, {format_number(interval.high)}]"
    )
    text = (
        f"{label} {sign}{format_number(interval.value)}{bounds} on the same {interval.n:,} "
        "validation rows: "
    )
    if interval.why:
        return text + interval.why
    if interval.is_nonzero:
        return text + "the difference is real (95 % interval excludes zero)"
    return text + "it may be chance (95 % interval includes zero)"


def get_model_name(config: dict[str, Any]) -> str:
    """'dense' from a model node whose _target_ is 'dlrun.models.dense.dense'."""
    node = config.get("model")
    return get_model_part_name(node if isinstance(node, dict) else {"_target_": str(node or "")})


def get_task_name(config: dict[str, Any]) -> str:
    """The name of the task."""
    node = config.get("task")
    return str(node.get("name", "")) if isinstance(node, dict) else str(node or "")


def get_run_title(config: dict[str, Any]) -> str:
    """'imdb · dense', or 'mnist · variational · vae' where the objective is not the usual one."""
    node = config.get("objective")
    objective = str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""
    names = (
        get_task_name(config),
        "" if objective == "supervised" else objective,
        get_model_name(config),
    )
    return " · ".join(filter(None, names))


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


def make_score_tables(results: run_folder.JsonLines, config: dict[str, Any]) -> list[TextTable]:
    """One table for each stage and split; the folds of one stage share theirs."""
    groups: dict[tuple[str, str], run_folder.JsonLines] = {}
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
    name: str, split: str, lines: run_folder.JsonLines, config: dict[str, Any]
) -> TextTable:
    several = len(lines) > 1
    scores = [line.get("scores") or {} for line in lines]
    baselines = [line.get("baseline") or {} for line in lines]
    heading = get_interval_heading(several, scores)
    has_baseline = any(baselines)  # what makes something need not have anything to beat
    columns = [
        "measure",
        f"{split} ({heading})" if heading else split,
        *(["baseline"] if has_baseline else []),
        *_fold_columns(lines),
    ]
    rows = []
    for measure, label in get_metric_labels(scores).items():
        row = [label, format_over_folds(scores, measure)]
        row += [_format_baseline(baselines, measure)] if has_baseline else []
        row += _format_folds(scores, measure) if several else []
        rows.append(row)
    title = f"{get_run_title(config)}: {_describe_fits(name, lines)}, {split}"
    return TextTable(
        title,
        columns,
        rows,
        _format_message(lines),
        notes=tuple(run_reader.collect_messages(lines)),
        right=frozenset(range(1, len(columns))),
        warnings=tuple(run_reader.collect_data_warnings(lines)),
    )


def _format_baseline(baselines: list[Scores], measure: str) -> str:
    """The baseline's score; over folds its mean, whose deviation says nothing about the model."""
    if len(baselines) == 1:
        return format_over_folds(baselines, measure)
    values = get_metric_values(baselines, measure)
    return formatting.format_number(mean_and_std(values)[0])


def _format_folds(scores: list[Scores], measure: str) -> list[str]:
    """A cell for each fold, or one cell for many."""
    cells = [format_score(_drop_interval(score.get(measure))) for score in scores]
    return cells if len(cells) <= MAX_FOLD_COLUMNS else [" ".join(cells)]


def _drop_interval(score: dict[str, Any] | None) -> dict[str, Any] | None:
    """A score without its interval: beside a mean over fits it would be taken for the mean's."""
    return None if score is None else {"value": score.get("value")}


def _describe_fits(name: str, lines: run_folder.JsonLines) -> str:
    """'fit', '4 folds', '3 seeds' or '2 × 4 folds', after a workflow's stage: 'final, 3 seeds'."""
    folds = max(int(line["job"].get("folds") or 1) for line in lines)
    repeats = len({line["job"].get("repeat") for line in lines})
    if folds > 1:
        count_text = f"{repeats} × {folds} folds" if repeats > 1 else f"{len(lines)} folds"
    else:
        count_text = f"{repeats} seeds" if repeats > 1 else ""
    stage = "" if name in ("folds", "fit") and count_text else name
    return ", ".join(filter(None, (stage, count_text)))


def _fold_columns(lines: run_folder.JsonLines) -> list[str]:
    if len(lines) == 1:
        return []
    return (
        [line["name"] for line in lines]
        if len(lines) <= MAX_FOLD_COLUMNS
        else [f"each of {len(lines)}"]
    )


def _format_message(lines: run_folder.JsonLines) -> str:
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
