"""The output of `dlrun predict`: tables, scores, a file, the next values of a series."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.predict_inputs import PredictRequest, get_single_table
from dlrun.core import files
from dlrun.core.errors import UserError
from dlrun.core.formatting import counted, format_number
from dlrun.report.result_tables import TextTable, to_rich_table

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.experiment.inference_folds import Predictions


MAX_TEXT_WIDTH = 48  # characters of a text on the terminal


def print_predictions(
    request: PredictRequest, outputs: Predictions, name_column: str, console: Console
) -> str:
    """Print the table, and scores where there are any.

    Args:
        request: What the words ask for.
        outputs: The predictions.
        name_column: What names the rows: "file", "text" or "line".
        console: Where the table is printed.

    Returns:
        The text of the file that was asked for.
    """
    from dlrun.core.run_folder import RunFolder
    from dlrun.report import prediction_table, result_tables
    from dlrun.report.result_tables import to_rich_table

    run = RunFolder(request.folder)
    config, data = run.read_config(), run.read_data()
    note = str(data.get("note") or "")
    title = result_tables.get_run_title(config)
    columns = (outputs.spec.targets, outputs.names, outputs.outputs, outputs.truths)
    console.print(f"{title}: predictions", style="bold", soft_wrap=True, markup=False)
    if note:
        console.print(note, style="bold red", soft_wrap=True, markup=False)
    if outputs.note:
        console.print(outputs.note, soft_wrap=True, markup=False)
    names = outputs.names
    # On the terminal alone; the file that is written holds the texts in full.
    if name_column == "text":
        names = [truncate_cell(name) for name in names]
    table = prediction_table.make_prediction_table(
        columns[0], names, *columns[2:], first=name_column
    )
    console.print(to_rich_table(table))
    if description := prediction_table.describe_table(*columns[:3]):
        console.print(description, soft_wrap=True, markup=False)
    for line in report_unknown_words(outputs):
        console.print(line, soft_wrap=True, markup=False)
    scores = report_scores(request, outputs, config, console)
    return _format_file(request, outputs, name_column, note, scores)


def _format_file(
    request: PredictRequest,
    outputs: Predictions,
    name_column: str,
    note: str,
    scores: dict[str, float],
) -> str:
    from dlrun.report import prediction_table

    columns = (outputs.spec.targets, outputs.names, outputs.outputs, outputs.truths)
    if request.to is not None and request.to.suffix.lower() == ".csv":
        file_columns = get_file_columns(request, outputs.names) if name_column == "line" else {}
        return prediction_table.predictions_to_csv(
            *columns, first=name_column, note=note, beside=file_columns
        )
    return prediction_table.predictions_to_json(
        *columns, first=name_column, about=build_json_output(request, outputs, note, scores)
    )


def get_file_columns(request: PredictRequest, lines: Sequence[Any]) -> dict[str, list[str]]:
    """Return the columns of the predicted file, as they stand there, for these lines."""
    from dlrun.data.tabular import csv_file

    data = request.config["data"]
    options = {"separator": data.get("separator"), "header": data.get("header")}
    # Read as text, so that the file's own columns are written back unchanged.
    table = csv_file.read_csv(
        str(get_single_table(request.items)),
        encoding=request.encoding or data.get("encoding") or "utf-8",
        **options,
    )
    row_of_line = {line: row for row, line in enumerate(table.lines)}
    return {
        name: [column[row_of_line[line]] for line in lines]
        for name, column in table.columns.items()
    }


def build_json_output(
    request: PredictRequest, outputs: Predictions, note: str, scores: dict[str, float]
) -> dict[str, Any]:
    """Build what the JSON file holds besides the predictions."""
    skipped = [{"file": name, "reason": reason} for name, reason in outputs.skipped.items()]
    undefined = {
        name: score.why for name, score in outputs.scores.items() if score.value != score.value
    }
    fields = {"run": str(request.folder), "note": note, "scores": scores, "skipped": skipped}
    fields |= {"undefined": undefined} if undefined else {}
    fields |= {"fits": list(outputs.fits)} if outputs.note else {}
    if outputs.unknown_words is not None:
        unknown, words = outputs.unknown_words.sum(0).tolist()
        fields["words"] = {"unknown": unknown, "all": words}
    return fields


def truncate_cell(name: object) -> str:
    """Shorten a text to one line: a long one loses its middle."""
    text = str(name)
    if len(text) <= MAX_TEXT_WIDTH:
        return text
    # Cut between words.
    head = text[: MAX_TEXT_WIDTH - 20].rsplit(None, 1)[0]
    tail = text[-17:].split(None, 1)[-1]
    return f"{head} … {tail}"


def report_unknown_words(outputs: Predictions) -> Iterator[str]:
    """Describe how many words of the texts are unknown, and which texts have no known one."""
    if outputs.unknown_words is None:
        return
    unknown, words = outputs.unknown_words.sum(0).tolist()
    if unknown:
        share = f"{unknown:,} of {words:,} words ({unknown / words:.0%})"
        yield f"{share} are not among those that the run knows"
    for name, (num_unknown, num_words) in zip(
        outputs.names, outputs.unknown_words.tolist(), strict=True
    ):
        if num_unknown == num_words:
            yield (
                f"no word of '{truncate_cell(name)}' is known: "
                "the prediction is that for a text of unknown words"
            )


def report_scores(
    request: PredictRequest, outputs: Predictions, config: dict[str, Any], console: Console
) -> dict[str, float]:
    """Print the scores of the predictions, or why there are none.

    Returns:
        Metric → value.
    """
    from dlrun.experiment.inference import is_file_of_run
    from dlrun.report import result_tables as formatting

    if isinstance(file := request.items[0], Path) and is_file_of_run(config, file):
        # Scores on training rows would look too good, and test rows have their ledger.
        console.print(
            "these are the rows that the run was made from, its test rows perhaps among them: "
            "no score is taken; dlrun evaluate gives the scores",
            soft_wrap=True,
        )
    for name, score in outputs.scores.items():
        if score.value != score.value:
            console.print(
                f"{name} is not defined on these rows: {score.why}", soft_wrap=True, markup=False
            )
            continue
        interval = {"value": score.value, "low": score.low, "high": score.high}
        console.print(
            f"{name} {formatting.format_score(interval)} on {counted(score.n, 'row')}",
            soft_wrap=True,
            markup=False,
        )
    return {name: score.value for name, score in outputs.scores.items()}


def write_output_file(file: Path, text: str) -> None:
    """Write a file atomically.

    Raises:
        UserError: Where that is not possible.
    """
    from dlrun.core.files import write_text

    try:
        write_text(file, text)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from error


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
    from dlrun.report import result_tables

    forecast = predict_series(folder, file, plugins, fit, **reading)
    run = RunFolder(folder)
    config, data = run.read_config(), run.read_data()
    note = str(data.get("note") or "")
    heading = f"after {forecast.last}, from {counted(forecast.rows, 'row')}"
    console.print(f"{result_tables.get_run_title(config)}: {heading}", style="bold", soft_wrap=True)
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
    return files.to_json(output, 1) + "\n"


def _to_csv(records: list[dict[str, Any]], note: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # The note, such as SYNTHETIC, must not get lost when the file is passed on.
    notes = [note] if note else []
    writer.writerow([*COLUMN_NAMES, *(["note"] if note else [])])
    writer.writerows([*(record[name] for name in COLUMN_NAMES), *notes] for record in records)
    return text.getvalue()
