"""`dlrun predict` for a series: the values that follow the last row of a CSV file."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    output_file: Path | None,
    console: Console,
    fit: str,
    **reading: str,
) -> str:
    """Print the forecast.

    Args:
        folder: The run folder.
        file: The CSV file with the series.
        plugins: Packages that the config may instantiate.
        output_file: The file for the forecast (.csv or .json); None for none.
        console: Where the table is printed.
        fit: Which of several fits; "" where the run decides.
        reading: Options for reading the file, where they differ from the run's.

    Returns:
        The text of the output file.

    Raises:
        UserError: Where the series does not suit the run.
    """
    from dlrun.core.run_folder import RunFolder
    from dlrun.experiment.inference_series import predict_series
    from dlrun.report import naming

    forecast = predict_series(folder, file, plugins, fit, **reading)
    run = RunFolder(folder)
    config, data = run.read_config(), run.read_data()
    note = str(data.get("note") or "")
    heading = f"after {forecast.last}, from {counted(forecast.rows, 'row')}"
    console.print(f"{naming.get_run_title(config)}: {heading}", style="bold", soft_wrap=True)
    if note:
        console.print(note, style="bold red", soft_wrap=True, markup=False)
    if forecast.note:
        console.print(forecast.note, soft_wrap=True, markup=False)
    rows = []
    for value in forecast.values:
        amount = f"{format_number(value.value)} {value.unit}".strip()
        rows.append([value.column, value.when, value.ahead, amount])
    table = TextTable("", ["column", "when", "ahead", "value"], rows, right=frozenset({2, 3}))
    console.print(to_rich_table(table))
    records = [asdict(value) for value in forecast.values]
    if output_file is not None and output_file.suffix.lower() == ".csv":
        return _to_csv(records, note)
    output = {"run": str(folder), "note": note, "after": forecast.last, "values": records}
    return json_text.to_json(output, 1) + "\n"


def _to_csv(records: list[dict[str, Any]], note: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # The note, such as SYNTHETIC, must not get lost when the file is passed on.
    notes = [note] if note else []
    writer.writerow([*COLUMN_NAMES, *(["note"] if note else [])])
    writer.writerows([*(record[name] for name in COLUMN_NAMES), *notes] for record in records)
    return text.getvalue()
