"""`dlrun predict`: predictions of a finished run for images, texts, rows or a series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.predict_inputs import (
    TABLE_SUFFIXES,
    InputItem,
    InputKind,
    get_input_kind,
    get_single_table,
    list_image_files,
    parse_input_item,
    read_input_texts,
)
from dlrun.cli.run_argument import parse_run_argument
from dlrun.core.errors import UserError
from dlrun.core.formatting import counted
from dlrun.launch.run_config import load_plugin_packages

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.experiment.answers import Predictions


USAGE: dict[InputKind, str] = {
    "pictures": "dlrun predict RUN photo.jpg folder/ … [to=answers.csv]",
    "texts": "dlrun predict RUN 'a text' file.txt folder/ … (or rows.csv) [to=answers.csv]",
    "series": "dlrun predict RUN series.csv [to=answers.csv]",
    "table": "dlrun predict RUN rows.csv [to=answers.csv]",
}
MAX_LISTED = 20  # skipped files that are named on the terminal
MAX_TEXT_WIDTH = 48  # characters of a text on the terminal


@dataclass(frozen=True)
class PredictRequest:
    """What the words of the command ask for.

    Attributes:
        folder: The run folder.
        config: Its config.
        kind: What the run reads.
        items: Files, folders or texts.
        to: The file for the predictions; None for none.
        encoding: Of the files; "" for that of the run's own.
        plugins: Packages that the config may instantiate.
        fit: Which of several fits; "" where the run decides.
    """

    folder: Path
    config: dict[str, Any]
    kind: InputKind
    items: list[InputItem]
    to: Path | None
    encoding: str
    plugins: tuple[str, ...]
    fit: str = ""

    @property
    def reading(self) -> dict[str, str]:
        """Options for reading a table or a series, where they differ from the run's."""
        return {"encoding": self.encoding} if self.encoding else {}


def predict_command(words: list[str]) -> int:
    """Predict, print the predictions, and with to=FILE.csv or FILE.json write all of them.

    Files that hold no image or text are named and left out.

    Args:
        words: The run folder, files or texts, and settings.

    Returns:
        The exit code.

    Raises:
        UserError: Where nothing could be predicted.
    """
    from rich.console import Console

    request = parse_predict_request(words)
    console = Console(highlight=False)
    if request.kind == "series":
        from dlrun.cli.predict_series import print_series_predictions

        text = print_series_predictions(
            request.folder,
            get_single_table(request.items),
            request.plugins,
            request.to,
            console,
            request.fit,
            **request.reading,
        )
    else:
        outputs, name_column = compute_predictions(request, console)
        text = print_predictions(request, outputs, name_column, console)
    if request.to is not None:
        write_output_file(request.to, text)
        console.print(f"written: {request.to}", soft_wrap=True, markup=False)
    return 0


def compute_predictions(request: PredictRequest, console: Console) -> tuple[Predictions, str]:
    """Compute the predictions.

    Returns:
        The predictions, and what names their rows: "file", "text" or "line".
    """
    if request.kind == "pictures":
        from dlrun.experiment.inference import predict_images

        outputs = predict_images(
            request.folder,
            list_image_files([Path(item) for item in request.items]),
            request.plugins,
            request.fit,
        )
        report_skipped(outputs.skipped, len(outputs.names), "picture", console)
        return outputs, "file"
    if request.kind == "texts" and not any(
        isinstance(item, Path) and item.suffix.lower() in TABLE_SUFFIXES for item in request.items
    ):
        from dlrun.experiment.inference import predict_texts

        texts, skipped = read_input_texts(request.items, request.config, request.encoding)
        report_skipped(skipped, len(texts), "text", console)
        return replace(
            predict_texts(request.folder, texts, request.plugins, request.fit), skipped=skipped
        ), "text"
    from dlrun.experiment.inference import predict_table

    return predict_table(
        request.folder,
        get_single_table(request.items),
        request.plugins,
        request.fit,
        **request.reading,
    ), "line"


def parse_predict_request(words: list[str]) -> PredictRequest:
    """Parse the words of the command, before torch is imported.

    Raises:
        UserError: For missing files and unknown settings.
    """
    folder, config, overrides = parse_run_argument(words, "predict")
    kind = get_input_kind(folder)
    settings = {"to": "", "encoding": "", "fit": ""}
    item_words = list[str]()
    for word in overrides:
        # data.encoding= is accepted, too, as it is written for training.
        key, equals, value = word.removeprefix("data.").partition("=")
        if key in settings and equals:
            settings[key] = value
        elif key.lstrip("+") != "plugins":
            item_words.append(word)
    items = [parse_input_item(word, kind, USAGE[kind]) for word in item_words]
    if not items:
        raise UserError(f"answers for which files? {USAGE[kind]}")
    to = Path(settings["to"]).expanduser() if settings["to"] else None
    if to is not None and to.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"to={to}: it must end in .csv or .json")
    # Checked before the predictions are computed.
    if to is not None and not to.absolute().parent.is_dir():
        raise UserError(f"to={to}: there is no folder {to.absolute().parent}")
    return PredictRequest(
        folder,
        config,
        kind,
        items,
        to,
        settings["encoding"],
        load_plugin_packages(overrides),
        settings["fit"],
    )


def report_skipped(
    skipped: dict[str, str], num_predicted: int, noun: str, console: Console
) -> None:
    """Name the files that could not be read.

    Args:
        skipped: File → reason.
        num_predicted: The number of files that could be read.
        noun: What a file should have held.
        console: Where the lines are printed.

    Raises:
        UserError: Where no file could be read.
    """
    lines = [f"left out: {name}: {reason}" for name, reason in list(skipped.items())[:MAX_LISTED]]
    lines += [f"left out: {len(skipped) - MAX_LISTED:,} more"] if len(skipped) > MAX_LISTED else []
    if not num_predicted:
        raise UserError(
            "\n".join([*lines, f"none of {len(skipped):,} files could be read as a {noun}"])
        )
    if skipped:
        lines.append(f"{num_predicted:,} answered, {len(skipped):,} left out")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


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
    from dlrun.core import stored_files
    from dlrun.report import naming, prediction_table
    from dlrun.report.result_tables import to_rich_table

    config = stored_files.load_run_config(request.folder)
    data = stored_files.load_json_or_none(request.folder / "data.json") or {}
    note = str(data.get("note") or "")
    title = naming.get_run_title(config)
    columns = (outputs.spec.targets, outputs.names, outputs.outputs, outputs.truths)
    console.print(f"{title}: answers", style="bold", soft_wrap=True, markup=False)
    if note:
        console.print(note, style="bold red", soft_wrap=True, markup=False)
    if outputs.note:
        console.print(outputs.note, soft_wrap=True, markup=False)
    names = (
        # On the terminal alone; the file that is written holds the texts in full.
        [truncate_cell(name) for name in outputs.names] if name_column == "text" else outputs.names
    )
    console.print(
        to_rich_table(
            prediction_table.make_prediction_table(
                columns[0], names, *columns[2:], first=name_column
            )
        )
    )
    if description := prediction_table.describe_table(*columns[:3]):
        console.print(description, soft_wrap=True, markup=False)
    for line in report_unknown_words(outputs):
        console.print(line, soft_wrap=True, markup=False)
    scores = report_scores(request, outputs, config, console)
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
                "the answer is that to a text of unknown words"
            )


def report_scores(
    request: PredictRequest, outputs: Predictions, config: dict[str, Any], console: Console
) -> dict[str, float]:
    """Print the scores of the predictions, or why there are none.

    Returns:
        Metric → value.
    """
    from dlrun.experiment.inference import is_file_of_run
    from dlrun.report import formatting

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
