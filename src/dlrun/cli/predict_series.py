"""`dlrun predict` for a series: the values that come after the last row of a CSV file."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core import json_text
from dlrun.core.formatting import counted, format_number
from dlrun.report.result_tables import TextTable, to_rich_table

if TYPE_CHECKING:
    from rich.console import Console


COLUMN_NAMES = ("target", "column", "when", "ahead", "value", "unit")


def print_series_predictions(
    folder: Path,
    file: Path,
    plugins: tuple[str, ...],
    to: Path | None,
    console: Console,
    fit: str,
    **reading: str,
) -> str:
    """Print what comes next, and answer with the text of the file `to` (.csv or .json). Raises UserError."""
    from dlrun.core import stored_files
    from dlrun.experiment.inference_series import predict_series
    from dlrun.report import naming

    found = predict_series(folder, file, plugins, fit, **reading)
    config, data = (
        stored_files.load_run_config(folder),
        stored_files.load_json_or_none(folder / "data.json") or {},
    )
    note = str(data.get("note") or "")
    title = naming.get_run_title(config)
    console.print(
        f"{title}: after {found.last}, from {counted(found.rows, 'row')}",
        style="bold",
        soft_wrap=True,
    )
    if note:
        console.print(note, style="bold red", soft_wrap=True, markup=False)
    if found.note:
        console.print(found.note, soft_wrap=True, markup=False)
    rows = [
        [one.column, one.when, one.ahead, " ".join((format_number(one.value), one.unit)).strip()]
        for one in found.values
    ]
    console.print(
        to_rich_table(
            TextTable("", ["column", "when", "ahead", "value"], rows, right=frozenset({2, 3}))
        )
    )
    values = [asdict(one) for one in found.values]
    if to is not None and to.suffix.lower() == ".csv":
        text = io.StringIO()
        lines = [
            [value[head] for head in COLUMN_NAMES] + ([note] if note else []) for value in values
        ]
        csv.writer(text, lineterminator="\n").writerows(
            [[*COLUMN_NAMES, *(["note"] if note else [])], *lines]
        )
        return text.getvalue()
    about = {"run": str(folder), "note": note, "after": found.last, "values": values}
    return json_text.to_json(about, 1) + "\n"
