"""Writes predictions for new rows: a table for the terminal, and CSV or JSON with every digit."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlrun.core import files, formatting
from dlrun.report.result_tables import TextTable

if TYPE_CHECKING:
    import numpy as np

    from dlrun.core.types import Field


Names = Sequence[str] | Sequence[int]  # of the rows: files, or line numbers
Outputs = Mapping[str, Any]  # target → an array (n, outputs): probabilities or numbers
MAX_ROWS = 40  # that a terminal shows
MAX_CLASS_COLUMNS = 4  # so many classes have a column each
NUM_LIKELY_CLASSES = 3  # of more classes, so many of the likeliest are told
CLASS_KINDS = ("category", "binary", "multilabel")


def get_output_names(field: Field, target: str) -> tuple[str, ...]:
    """The names of the numbers in `get_row_probabilities`: classes, labels, or targets."""
    if field.kind in CLASS_KINDS:
        count = 2 if field.kind == "binary" else field.size
        return field.labels if len(field.labels) == count else tuple(map(str, range(count)))
    if field.num_outputs == 1:
        return (target,)
    has_labels = len(field.labels) == field.num_outputs
    return (
        field.labels
        if has_labels
        else tuple(f"{target} {number}" for number in range(1, field.num_outputs + 1))
    )


def get_row_probabilities(field: Field, output: np.ndarray) -> list[float]:
    """One row's probabilities by class (both of a binary target) or label, or its numbers."""
    complement = [output.dtype.type(1) - output.reshape(-1)[0]] if field.kind == "binary" else []
    return [
        # str() of a float32 has the shortest digits that say it; float() would add float64's.
        float(str(value))
        for value in (*complement, *output.reshape(-1))
    ]  # the shortest digits that say it


def format_prediction(field: Field, target: str, output: np.ndarray) -> str | float:
    """The likeliest class, the labels above one half, or the number."""
    names, values = get_output_names(field, target), get_row_probabilities(field, output)
    if field.kind in ("category", "binary"):
        return names[values.index(max(values))]
    if field.kind == "multilabel":
        return (
            ", ".join(name for name, share in zip(names, values, strict=True) if share > 0.5)
            or "(none)"
        )
    if len(values) == 1:
        return values[0]
    return ", ".join(
        f"{name} {formatting.format_number(value)}"
        for name, value in zip(names, values, strict=True)
    )


def format_target(field: Field, target: str, value: np.ndarray) -> str | float:
    """The true value, written as `format_prediction` writes predictions."""
    if field.kind == "category":
        return get_output_names(field, target)[int(value)]
    return format_prediction(field, target, value)


def make_prediction_table(
    fields: Mapping[str, Field], names: Names, outputs: Outputs, truths: Outputs, *, first: str
) -> TextTable:
    """The first rows for a terminal.

    Args:
        fields: Target → its field.
        names: Of the rows: files, or line numbers.
        outputs: Target → (n, outputs) probabilities or numbers.
        truths: Target → true values, where known.
        first: What the names are: 'file' or 'line'.
    """
    columns, rows = [first], [[str(name)] for name in names[:MAX_ROWS]]
    for target, field in fields.items():
        prefix = f"{target}: " if len(fields) > 1 else ""
        has_truth = target in truths
        columns += [
            prefix + "answer",
            *([prefix + "truth"] if has_truth else []),
            *_class_columns(field, target, prefix),
        ]
        for index, row in enumerate(rows):
            row.append(_format_value(format_prediction(field, target, outputs[target][index])))
            row += (
                [_format_value(format_target(field, target, truths[target][index]))]
                if has_truth
                else []
            )
            row += _format_probabilities(field, target, outputs[target][index])
    right = (
        frozenset(range(1, len(columns)))
        if all(f.kind not in CLASS_KINDS for f in fields.values())
        else frozenset()
    )
    return TextTable("", columns, rows, right=right)


def _class_columns(field: Field, target: str, prefix: str) -> list[str]:
    if field.kind not in CLASS_KINDS:
        return []
    names = get_output_names(field, target)
    return (
        [prefix + name for name in names]
        if len(names) <= MAX_CLASS_COLUMNS
        else [prefix + "likeliest"]
    )


def _format_probabilities(field: Field, target: str, output: np.ndarray) -> list[str]:
    if field.kind not in CLASS_KINDS:
        return []
    names, values = get_output_names(field, target), get_row_probabilities(field, output)
    if len(names) <= MAX_CLASS_COLUMNS:
        return [f"{share:.4f}" for share in values]
    best = sorted(range(len(values)), key=lambda index: -values[index])[:NUM_LIKELY_CLASSES]
    return [", ".join(f"{names[index]} {values[index]:.4f}" for index in best)]


def describe_table(fields: Mapping[str, Field], names: Names, outputs: Outputs) -> str:
    """The line under the table: rows it leaves out, and how often each class is predicted."""
    notes = (
        [f"{len(names) - MAX_ROWS:,} more rows: to=predictions.csv writes all of them"]
        if len(names) > MAX_ROWS
        else []
    )
    ((target, field), *more_targets) = fields.items()
    if not more_targets and field.kind in ("category", "binary") and len(names) > 1:
        counts = Counter(
            str(format_prediction(field, target, output)) for output in outputs[target]
        )
        notes.append(", ".join(f"{count:,} × {name}" for name, count in counts.most_common()))
    return "; ".join(notes)


def _format_value(value: str | float) -> str:
    return value if isinstance(value, str) else formatting.format_number(value)


def predictions_to_csv(
    fields: Mapping[str, Field],
    names: Names,
    outputs: Outputs,
    truths: Outputs,
    *,
    first: str,
    note: str = "",
    beside: Mapping[str, list[str]] | None = None,
) -> str:
    """The predictions as CSV.

    Columns: file (or line), answer, truth where it is known, one for each class, a note, and those
    of `beside`.

    Args:
        fields: Target → its field.
        names: Of the rows: files, or line numbers.
        outputs: Target → (n, outputs) probabilities or numbers.
        truths: Target → true values, where known.
        first: What the names are: 'file' or 'line'.
        note: Written into each row, unless ''.
        beside: Further columns; one whose name is taken gets ' (file)' behind it.
    """
    heads, columns = [first], [list(map(str, names))]
    for target, field in fields.items():
        prefix = f"{target}: " if len(fields) > 1 else ""
        heads.append(prefix + "answer")
        columns.append(
            [_to_exact_text(format_prediction(field, target, output)) for output in outputs[target]]
        )
        if target in truths:
            heads.append(prefix + "truth")
            columns.append(
                [_to_exact_text(format_target(field, target, value)) for value in truths[target]]
            )
        if field.kind in CLASS_KINDS or field.num_outputs > 1:
            heads += [prefix + name for name in get_output_names(field, target)]
            probabilities = [get_row_probabilities(field, output) for output in outputs[target]]
            columns += [
                [_to_exact_text(value) for value in column]
                for column in zip(*probabilities, strict=True)
            ]
    if note:
        heads.append("note")
        columns.append([note] * len(names))
    for name, column in (beside or {}).items():
        # The user's columns may be called as ours are: both must stay.
        heads.append(f"{name} (file)" if name in heads else name)
        columns.append(column)
    text = io.StringIO()
    # The same bytes on every system.
    csv.writer(text, lineterminator="\n").writerows([heads, *zip(*columns, strict=True)])
    return text.getvalue()


def _to_exact_text(value: str | float) -> str:
    return value if isinstance(value, str) else repr(value)


def predictions_to_json(
    fields: Mapping[str, Field],
    names: Names,
    outputs: Outputs,
    truths: Outputs,
    *,
    first: str,
    about: Mapping[str, Any],
) -> str:
    """The predictions as JSON.

    Args:
        fields: Target → its field.
        names: Of the rows: files, or line numbers.
        outputs: Target → (n, outputs) probabilities or numbers.
        truths: Target → true values, where known.
        first: What the names are: 'file' or 'line'.
        about: What stands before the rows.

    Returns:
        `about`, then 'rows': of each its file (or line), answer, truth where known, and
        probabilities by class; of several targets 'targets' holds each one's. A value that is not
        finite is null.
    """
    rows = []
    for index, name in enumerate(names):
        answers = {
            target: _row_to_dict(field, target, index, outputs, truths)
            for target, field in fields.items()
        }
        rows.append(
            {
                first: name,
                **(next(iter(answers.values())) if len(answers) == 1 else {"targets": answers}),
            }
        )
    return files.to_json({**about, "rows": rows}, 1) + "\n"


def _row_to_dict(
    field: Field, target: str, index: int, outputs: Outputs, truths: Outputs
) -> dict[str, Any]:
    output = outputs[target][index]
    record = {"answer": _finite_or_none(format_prediction(field, target, output))}
    if target in truths:
        record["truth"] = _finite_or_none(format_target(field, target, truths[target][index]))
    if field.kind in CLASS_KINDS or field.num_outputs > 1:
        key = "probabilities" if field.kind in CLASS_KINDS else "numbers"
        record[key] = dict(
            zip(
                get_output_names(field, target),
                map(_finite_or_none, get_row_probabilities(field, output)),
                strict=True,
            )
        )
    return record


def _finite_or_none(value: Any) -> Any:
    return value if isinstance(value, str) or math.isfinite(value) else None
