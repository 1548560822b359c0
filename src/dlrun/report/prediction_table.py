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
from dlrun.report.result_tables import Summary

if TYPE_CHECKING:
    import numpy as np

    from dlrun.core.types import Field


Names = Sequence[str] | Sequence[int]  # of the rows: files, or line numbers
Outputs = Mapping[str, Any]  # target → an array (n, outputs): probabilities or numbers
ROWS = 40  # that a terminal shows
WIDE, MOST = 4, 3  # so many classes have a column each; of more, so many of the likeliest are told
CLASSES = ("category", "binary", "multilabel")


def names_of(field: Field, target: str) -> tuple[str, ...]:
    """What the numbers in `shares` are called: classes, labels, or the parts of a number."""
    if field.kind in CLASSES:
        count = 2 if field.kind == "binary" else field.size
        return field.labels if len(field.labels) == count else tuple(map(str, range(count)))
    if field.outputs == 1:
        return (target,)
    named = len(field.labels) == field.outputs
    return field.labels if named else tuple(f"{target} {place}" for place in range(1, field.outputs + 1))


def shares(field: Field, output: np.ndarray) -> list[float]:
    """One row's probabilities by class or label, or its numbers; of a binary target that of both classes."""
    found = [output.dtype.type(1) - output.reshape(-1)[0]] if field.kind == "binary" else []
    return [float(str(value)) for value in (*found, *output.reshape(-1))]  # the shortest digits that say it


def answer(field: Field, target: str, output: np.ndarray) -> str | float:
    """The answer: the likeliest class, the labels above one half, or the number."""
    names, found = names_of(field, target), shares(field, output)
    if field.kind in ("category", "binary"):
        return names[found.index(max(found))]
    if field.kind == "multilabel":
        return ", ".join(name for name, share in zip(names, found, strict=True) if share > 0.5) or "(none)"
    if len(found) == 1:
        return found[0]
    return ", ".join(f"{name} {formatting.number(value)}" for name, value in zip(names, found, strict=True))


def truth(field: Field, target: str, value: np.ndarray) -> str | float:
    """What is true, written as `answer` writes it."""
    if field.kind == "category":
        return names_of(field, target)[int(value)]
    return answer(field, target, value)


def table(fields: Mapping[str, Field], names: Names, outputs: Outputs, truths: Outputs, *, first: str) -> Summary:
    """The first rows for a terminal. first: what the names are: file, or line."""
    columns, rows = [first], [[str(name)] for name in names[:ROWS]]
    for target, field in fields.items():
        prefix = f"{target}: " if len(fields) > 1 else ""
        known = target in truths
        columns += [prefix + "answer", *([prefix + "truth"] if known else []), *_heads(field, target, prefix)]
        for place, row in enumerate(rows):
            row.append(_written(answer(field, target, outputs[target][place])))
            row += [_written(truth(field, target, truths[target][place]))] if known else []
            row += _likely(field, target, outputs[target][place])
    right = frozenset(range(1, len(columns))) if all(f.kind not in CLASSES for f in fields.values()) else frozenset()
    return Summary("", columns, rows, right=right)


def _heads(field: Field, target: str, prefix: str) -> list[str]:
    if field.kind not in CLASSES:
        return []
    names = names_of(field, target)
    return [prefix + name for name in names] if len(names) <= WIDE else [prefix + "likeliest"]


def _likely(field: Field, target: str, output: np.ndarray) -> list[str]:
    if field.kind not in CLASSES:
        return []
    names, found = names_of(field, target), shares(field, output)
    if len(names) <= WIDE:
        return [f"{share:.4f}" for share in found]
    best = sorted(range(len(found)), key=lambda place: -found[place])[:MOST]
    return [", ".join(f"{names[place]} {found[place]:.4f}" for place in best)]


def below(fields: Mapping[str, Field], names: Names, outputs: Outputs) -> str:
    """What stands under the table: how many rows are not in it, and of one target how often each class was answered."""
    parts = [f"{len(names) - ROWS:,} more rows: to=answers.csv writes all of them"] if len(names) > ROWS else []
    ((target, field), *others) = fields.items()
    if not others and field.kind in ("category", "binary") and len(names) > 1:
        counts = Counter(str(answer(field, target, output)) for output in outputs[target])
        parts.append(", ".join(f"{count:,} × {name}" for name, count in counts.most_common()))
    return "; ".join(parts)


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else formatting.number(value)


def csv_text(
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
        columns.append([_exact(answer(field, target, output)) for output in outputs[target]])
        if target in truths:
            heads.append(prefix + "truth")
            columns.append([_exact(truth(field, target, value)) for value in truths[target]])
        if field.kind in CLASSES or field.outputs > 1:
            heads += [prefix + name for name in names_of(field, target)]
            each = [shares(field, output) for output in outputs[target]]
            columns += [[_exact(value) for value in column] for column in zip(*each, strict=True)]
    if note:
        heads.append("note")
        columns.append([note] * len(names))
    for name, column in (beside or {}).items():
        heads.append(f"{name} (file)" if name in heads else name)
        columns.append(column)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *zip(*columns, strict=True)])
    return text.getvalue()


def _exact(value: str | float) -> str:
    return value if isinstance(value, str) else repr(value)


def json_text(
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
        said = {target: _said(field, target, place, outputs, truths) for target, field in fields.items()}
        rows.append({first: name, **(next(iter(said.values())) if len(said) == 1 else {"targets": said})})
    return as_json.text({**about, "rows": rows}, 1) + "\n"


def _said(field: Field, target: str, place: int, outputs: Outputs, truths: Outputs) -> dict[str, Any]:
    output = outputs[target][place]
    found = {"answer": _finite(answer(field, target, output))}
    if target in truths:
        found["truth"] = _finite(truth(field, target, truths[target][place]))
    if field.kind in CLASSES or field.outputs > 1:
        key = "probabilities" if field.kind in CLASSES else "numbers"
        found[key] = dict(zip(names_of(field, target), map(_finite, shares(field, output)), strict=True))
    return found


def _finite(value: Any) -> Any:
    return value if isinstance(value, str) or math.isfinite(value) else None
