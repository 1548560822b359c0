"""`dlrun predict`: what a finished run answers for your own pictures, texts or rows, and what follows a series."""

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
MAX_TEXT_WIDTH = 48  # letters of a text on the terminal


@dataclass(frozen=True)
class PredictRequest:
    """What the words ask for: of which run, which reads what, for which files, folders or texts, written where.

    encoding: of files; '' for that of the run's own. fit: the one that is to answer; '' where the run says it.
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
        """How a table or a series is read otherwise than that of the run."""
        return {"encoding": self.encoding} if self.encoding else {}


def predict_command(words: list[str]) -> int:
    """Answer for what is new; show the answers, and with to=FILE.csv or FILE.json write all. Gives the exit code.

    Files that give no picture or text are named and left out. Raises UserError where nothing could be answered.
    """
    from rich.console import Console

    asked, console = parse_predict_request(words), Console(highlight=False)
    if asked.kind == "series":
        from dlrun.cli.predict_series import print_series_predictions

        text = print_series_predictions(
            asked.folder,
            get_single_table(asked.items),
            asked.plugins,
            asked.to,
            console,
            asked.fit,
            **asked.reading,
        )
    else:
        answers, first = compute_predictions(asked, console)
        text = print_predictions(asked, answers, first, console)
    if asked.to is not None:
        write_output_file(asked.to, text)
        console.print(f"written: {asked.to}", soft_wrap=True, markup=False)
    return 0


def compute_predictions(asked: PredictRequest, console: Console) -> tuple[Predictions, str]:
    """The answers, and what the names of their rows are: file, text or line."""
    if asked.kind == "pictures":
        from dlrun.experiment.inference import predict_images

        answers = predict_images(
            asked.folder,
            list_image_files([Path(one) for one in asked.items]),
            asked.plugins,
            asked.fit,
        )
        report_skipped(answers.skipped, len(answers.names), "picture", console)
        return answers, "file"
    if asked.kind == "texts" and not any(
        isinstance(one, Path) and one.suffix.lower() in TABLE_SUFFIXES for one in asked.items
    ):
        from dlrun.experiment.inference import predict_texts

        found, skipped = read_input_texts(asked.items, asked.config, asked.encoding)
        report_skipped(skipped, len(found), "text", console)
        return replace(
            predict_texts(asked.folder, found, asked.plugins, asked.fit), skipped=skipped
        ), "text"
    from dlrun.experiment.inference import predict_table

    return predict_table(
        asked.folder, get_single_table(asked.items), asked.plugins, asked.fit, **asked.reading
    ), "line"


def parse_predict_request(words: list[str]) -> PredictRequest:
    """What the words ask for. Raises UserError for words that make no sense, before torch is there."""
    folder, config, rest = parse_run_argument(words, "predict")
    kind = get_input_kind(folder)
    settings, others = {"to": "", "encoding": "", "fit": ""}, list[str]()
    for word in rest:
        key, equals, value = word.removeprefix("data.").partition("=")
        if key in settings and equals:
            settings[key] = value
        elif key.lstrip("+") != "plugins":
            others.append(word)
    items = [parse_input_item(word, kind, USAGE[kind]) for word in others]
    if not items:
        raise UserError(f"answers for which files? {USAGE[kind]}")
    to = Path(settings["to"]).expanduser() if settings["to"] else None
    if to is not None and to.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"to={to}: it must end in .csv or .json")
    if to is not None and not to.absolute().parent.is_dir():
        raise UserError(f"to={to}: there is no folder {to.absolute().parent}")
    return PredictRequest(
        folder,
        config,
        kind,
        items,
        to,
        settings["encoding"],
        load_plugin_packages(rest),
        settings["fit"],
    )


def report_skipped(skipped: dict[str, str], answered: int, what: str, console: Console) -> None:
    """Name the files that gave no picture, or text. Raises UserError when none gave one."""
    lines = [f"left out: {name}: {reason}" for name, reason in list(skipped.items())[:MAX_LISTED]]
    lines += [f"left out: {len(skipped) - MAX_LISTED:,} more"] if len(skipped) > MAX_LISTED else []
    if not answered:
        raise UserError(
            "\n".join([*lines, f"none of {len(skipped):,} files could be read as a {what}"])
        )
    if skipped:
        lines.append(f"{answered:,} answered, {len(skipped):,} left out")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def print_predictions(
    asked: PredictRequest, answers: Predictions, first: str, console: Console
) -> str:
    """Print the table, and scores where there are any; answers with the text of the file that was asked for."""
    from dlrun.core import stored_files
    from dlrun.report import naming, prediction_table
    from dlrun.report.result_tables import to_rich_table

    config, data = (
        stored_files.load_run_config(asked.folder),
        stored_files.load_json_or_none(asked.folder / "data.json") or {},
    )
    note = str(data.get("note") or "")
    title = naming.get_run_title(config)
    what = (answers.spec.targets, answers.names, answers.outputs, answers.truths)
    console.print(f"{title}: answers", style="bold", soft_wrap=True, markup=False)
    if note:
        console.print(note, style="bold red", soft_wrap=True, markup=False)
    if answers.note:
        console.print(answers.note, soft_wrap=True, markup=False)
    names = [truncate_cell(name) for name in answers.names] if first == "text" else answers.names
    console.print(
        to_rich_table(
            prediction_table.make_prediction_table(what[0], names, *what[2:], first=first)
        )
    )
    if below := prediction_table.describe_table(*what[:3]):
        console.print(below, soft_wrap=True, markup=False)
    for line in report_unknown_words(answers):
        console.print(line, soft_wrap=True, markup=False)
    scores = report_scores(asked, answers, config, console)
    if asked.to is not None and asked.to.suffix.lower() == ".csv":
        beside = get_file_columns(asked, answers.names) if first == "line" else {}
        return prediction_table.predictions_to_csv(*what, first=first, note=note, beside=beside)
    return prediction_table.predictions_to_json(
        *what, first=first, about=build_json_output(asked, answers, note, scores)
    )


def get_file_columns(asked: PredictRequest, lines: Sequence[Any]) -> dict[str, list[str]]:
    """The columns of the file that was answered, as they stand there, of these lines."""
    from dlrun.data.tabular import csv_file

    data = asked.config["data"]
    reading = {"separator": data.get("separator"), "header": data.get("header")}
    whole = csv_file.read_csv(
        str(get_single_table(asked.items)),
        encoding=asked.encoding or data.get("encoding") or "utf-8",
        **reading,
    )
    place = {line: row for row, line in enumerate(whole.lines)}
    return {name: [column[place[line]] for line in lines] for name, column in whole.columns.items()}


def build_json_output(
    asked: PredictRequest, answers: Predictions, note: str, scores: dict[str, float]
) -> dict[str, Any]:
    """What the JSON file says besides the answers."""
    skipped = [{"file": name, "reason": reason} for name, reason in answers.skipped.items()]
    undefined = {
        name: score.why for name, score in answers.scores.items() if score.value != score.value
    }
    found = {"run": str(asked.folder), "note": note, "scores": scores, "skipped": skipped}
    found |= {"undefined": undefined} if undefined else {}
    found |= {"fits": list(answers.fits)} if answers.note else {}
    if answers.unknown_words is not None:
        unknown, words = answers.unknown_words.sum(0).tolist()
        found["words"] = {"unknown": unknown, "all": words}
    return found


def truncate_cell(name: object) -> str:
    """A text on one line, a long one without its middle."""
    text = str(name)
    return (
        text
        if len(text) <= MAX_TEXT_WIDTH
        else f"{text[: MAX_TEXT_WIDTH - 20].rsplit(None, 1)[0]} … {text[-17:].split(None, 1)[-1]}"
    )


def report_unknown_words(answers: Predictions) -> Iterator[str]:
    """How many of the texts' words the run does not know, and which texts have none that it knows."""
    if answers.unknown_words is None:
        return
    unknown, words = answers.unknown_words.sum(0).tolist()
    if unknown:
        yield f"{unknown:,} of {words:,} words ({unknown / words:.0%}) are not among those that the run knows"
    for name, (few, all_) in zip(answers.names, answers.unknown_words.tolist(), strict=True):
        if few == all_:
            yield f"no word of '{truncate_cell(name)}' is known: the answer is that to a text of unknown words"


def report_scores(
    asked: PredictRequest, answers: Predictions, config: dict[str, Any], console: Console
) -> dict[str, float]:
    """Print how right the answers are, or why that is not said; measure → value."""
    from dlrun.experiment.inference import is_file_of_run
    from dlrun.report import formatting

    if isinstance(file := asked.items[0], Path) and is_file_of_run(config, file):
        console.print(
            "these are the rows that the run was made from, its test rows perhaps among them: no score is taken; "
            "dlrun evaluate gives the scores",
            soft_wrap=True,
        )
    for name, score in answers.scores.items():
        if score.value != score.value:
            console.print(
                f"{name} is not defined on these rows: {score.why}", soft_wrap=True, markup=False
            )
            continue
        ends = {"value": score.value, "low": score.low, "high": score.high}
        console.print(
            f"{name} {formatting.format_score(ends)} on {counted(score.n, 'row')}",
            soft_wrap=True,
            markup=False,
        )
    return {name: score.value for name, score in answers.scores.items()}


def write_output_file(file: Path, text: str) -> None:
    """Write a file whole or not at all. Raises UserError where that is not allowed."""
    from dlrun.core.files import write_text

    try:
        write_text(file, text)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from error
