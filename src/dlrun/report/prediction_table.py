"""A model's answers for new rows in words: a table for the terminal, and CSV or JSON with every digit."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlrun.core import formatting
from dlrun.core import json_text as as_json
from dlrun.report.result_tables import TextTable

if TYPE_CHECKING:
    import numpy as np

    from dlrun.core.types import Field


Names = Sequence[str] | Sequence[int]  # of the rows: files, or line numbers
Outputs = Mapping[str, Any]  # target → an array (n, outputs): probabilities or numbers
MAX_ROWS = 40  # that a terminal shows
MAX_CLASS_COLUMNS, NUM_LIKELY_CLASSES = (
    4,
    3,
)  # so many classes have a column each; of more, so many of the likeliest are told
CLASS_KINDS = ("category", "binary", "multilabel")


def get_output_names(field: Field, target: str) -> tuple[str, ...]:
    """What the numbers in `get_row_probabilities` are called: classes, labels, or the parts of a number."""
    if field.kind in CLASS_KINDS:
        count = 2 if field.kind == "binary" else field.size
        return field.labels if len(field.labels) == count else tuple(map(str, range(count)))
    if field.num_outputs == 1:
        return (target,)
    named = len(field.labels) == field.num_outputs
    return (
        field.labels
        if named
        else tuple(f"{target} {place}" for place in range(1, field.num_outputs + 1))
    )


def get_row_probabilities(field: Field, output: np.ndarray) -> list[float]:
    """One row's probabilities by class or label, or its numbers; of a binary target that of both classes."""
    found = [output.dtype.type(1) - output.reshape(-1)[0]] if field.kind == "binary" else []
    return [
        float(str(value)) for value in (*found, *output.reshape(-1))
    ]  # the shortest digits that say it


def format_prediction(field: Field, target: str, output: np.ndarray) -> str | float:
    """The answer: the likeliest class, the labels above one half, or the number."""
    names, found = get_output_names(field, target), get_row_probabilities(field, output)
    if field.kind in ("category", "binary"):
        return names[found.index(max(found))]
    if field.kind == "multilabel":
        return (
            ", ".join(name for name, share in zip(names, found, strict=True) if share > 0.5)
            or "(none)"
        )
    if len(found) == 1:
        return found[0]
    return ", ".join(
        f"{name} {formatting.format_number(value)}"
        for name, value in zip(names, found, strict=True)
    )


def format_target(field: Field, target: str, value: np.ndarray) -> str | float:
    """What is true, written as `format_prediction` writes it."""
    if field.kind == "category":
        return get_output_names(field, target)[int(value)]
    return format_prediction(field, target, value)


def make_prediction_table(
    fields: Mapping[str, Field], names: Names, outputs: Outputs, truths: Outputs, *, first: str
) -> TextTable:
    """The first rows for a terminal. first: what the names are: file, or line."""
    columns, rows = [first], [[str(name)] for name in names[:MAX_ROWS]]
    for target, field in fields.items():
        prefix = f"{target}: " if len(fields) > 1 else ""
        known = target in truths
        columns += [
            prefix + "answer",
            *([prefix + "truth"] if known else []),
            *_class_columns(field, target, prefix),
        ]
        for place, row in enumerate(rows):
            row.append(_format_value(format_prediction(field, target, outputs[target][place])))
            row += (
                [_format_value(format_target(field, target, truths[target][place]))]
                if known
                else []
            )
            row += _format_probabilities(field, target, outputs[target][place])
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
    names, found = get_output_names(field, target), get_row_probabilities(field, output)
    if len(names) <= MAX_CLASS_COLUMNS:
        return [f"{share:.4f}" for share in found]
    best = sorted(range(len(found)), key=lambda place: -found[place])[:NUM_LIKELY_CLASSES]
    return [", ".join(f"{names[place]} {found[place]:.4f}" for place in best)]


def describe_table(fields: Mapping[str, Field], names: Names, outputs: Outputs) -> str:
    """What stands under the table: how many rows are not in it, and of one target how often each class was answered."""
    parts = (
        [f"{len(names) - MAX_ROWS:,} more rows: to=answers.csv writes all of them"]
        if len(names) > MAX_ROWS
        else []
    )
    ((target, field), *others) = fields.items()
    if not others and field.kind in ("category", "binary") and len(names) > 1:
        counts = Counter(
            str(format_prediction(field, target, output)) for output in outputs[target]
        )
        parts.append(", ".join(f"{count:,} × {name}" for name, count in counts.most_common()))
    return "; ".join(parts)


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
    """Columns: file (or line), answer, truth where it is known, one for each class, a note where there is one, and
    those of `beside`, of which one that is called as another has ' (file)' behind its name.
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
            each = [get_row_probabilities(field, output) for output in outputs[target]]
            columns += [
                [_to_exact_text(value) for value in column] for column in zip(*each, strict=True)
            ]
    if note:
        heads.append("note")
        columns.append([note] * len(names))
    for name, column in (beside or {}).items():
        heads.append(f"{name} (file)" if name in heads else name)
        columns.append(column)
    text = io.StringIO()
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
    """`about`, then rows: of each its file (or line), answer, truth where it is known, and probabilities by class.

    Several targets: 'targets' holds each one's. A number that is none is null.
    """
    rows = []
    for place, name in enumerate(names):
        said = {
            target: _row_to_dict(field, target, place, outputs, truths)
            for target, field in fields.items()
        }
        rows.append(
            {first: name, **(next(iter(said.values())) if len(said) == 1 else {"targets": said})}
        )
    return as_json.to_json({**about, "rows": rows}, 1) + "\n"


def _row_to_dict(
    field: Field, target: str, place: int, outputs: Outputs, truths: Outputs
) -> dict[str, Any]:
    output = outputs[target][place]
    found = {"answer": _finite_or_none(format_prediction(field, target, output))}
    if target in truths:
        found["truth"] = _finite_or_none(format_target(field, target, truths[target][place]))
    if field.kind in CLASS_KINDS or field.num_outputs > 1:
        key = "probabilities" if field.kind in CLASS_KINDS else "numbers"
        found[key] = dict(
            zip(
                get_output_names(field, target),
                map(_finite_or_none, get_row_probabilities(field, output)),
                strict=True,
            )
        )
    return found


def _finite_or_none(value: Any) -> Any:
    return value if isinstance(value, str) or math.isfinite(value) else None
