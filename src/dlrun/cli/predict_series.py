"""`dlrun predict` for a series: the values that come after the last row of a CSV file."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.core import json_text
from dlrun.core.formatting import counted, number
from dlrun.report.result_tables import Summary, rich_table

if TYPE_CHECKING:
    from rich.console import Console


HEADS = ("target", "column", "when", "ahead", "value", "unit")


def foretold(
    folder: Path, file: Path, plugins: tuple[str, ...], to: Path | None, console: Console, fit: str, **reading: str
) -> str:
    """Print what comes next, and answer with the text of the file `to` (.csv or .json). Raises Refused."""
    from dlrun.core import stored_files
    from dlrun.experiment.inference_series import of_series
    from dlrun.report import naming

    found = of_series(folder, file, plugins, fit, **reading)
    config, data = stored_files.config(folder), stored_files.value_or_none(folder / "data.json") or {}
    note = str(data.get("note") or "")
    title = naming.called(config)
    console.print(f"{title}: after {found.last}, from {counted(found.rows, 'row')}", style="bold", soft_wrap=True)
    if note:
        console.print(note, style="bold red", soft_wrap=True, markup=False)
    if found.told:
        console.print(found.told, soft_wrap=True, markup=False)
    rows = [[one.column, one.when, one.ahead, " ".join((number(one.value), one.unit)).strip()] for one in found.values]
    console.print(rich_table(Summary("", ["column", "when", "ahead", "value"], rows, right=frozenset({2, 3}))))
    values = [asdict(one) for one in found.values]
    if to is not None and to.suffix.lower() == ".csv":
        text = io.StringIO()
        lines = [[value[head] for head in HEADS] + ([note] if note else []) for value in values]
        csv.writer(text, lineterminator="\n").writerows([[*HEADS, *(["note"] if note else [])], *lines])
        return text.getvalue()
    about = {"run": str(folder), "note": note, "after": found.last, "values": values}
    return json_text.text(about, 1) + "\n"
