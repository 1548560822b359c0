"""`dlrun predict`: what a finished run answers for your own pictures, or for the rows of a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.commands.again import opened
from dlrun.commands.train import named_plugins
from dlrun.errors import Refused

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.inference import Answers, Place

USAGE = "dlrun predict RUN photo.jpg folder/ … (or rows.csv) [to=answers.csv]"
TABLES = ("number", "fraction", "binary", "category", "multilabel")
NAMED = 20  # skipped files that are named on the terminal


@dataclass(frozen=True)
class Asked:
    """What the words ask for: of which run, for which files and folders, written where."""

    folder: Path
    paths: list[Path]
    to: Path | None
    plugins: tuple[str, ...]


def predict(words: list[str]) -> int:
    """Answer for new pictures, or rows; show them, and with to=FILE.csv or FILE.json write all. Gives the exit code.

    Files that give no picture are named and left out. Raises Refused where nothing could be answered.
    """
    from rich.console import Console

    asked = read_words(words)
    pictures = reads_pictures(asked.folder)
    if pictures:
        from dlrun.inference import of_pictures

        answers = of_pictures(asked.folder, places(asked.paths), asked.plugins)
    else:
        from dlrun.inference import of_table

        answers = of_table(asked.folder, one_table(asked.paths), asked.plugins)
    console = Console(highlight=False)
    told_skipped(answers.skipped, len(answers.names), console)
    show(asked, answers, "file" if pictures else "line", console)
    return 0


def read_words(words: list[str]) -> Asked:
    """The run, the paths and the file to write. Raises Refused for words that make no sense, before torch is there."""
    folder, _, rest = opened(words, "predict")
    to, paths = None, list[Path]()
    for word in rest:
        key, equals, value = word.partition("=")
        if key == "to" and equals:
            to = Path(value).expanduser()
        elif key.lstrip("+") != "plugins":
            paths.append(Path(word).expanduser())
    if missing := [path for path in paths if not path.exists()]:
        raise Refused(f"there is no file or folder {', '.join(map(str, missing))}. {USAGE}")
    if not paths:
        raise Refused(f"answers for which files? {USAGE}")
    if to is not None and to.suffix.lower() not in (".csv", ".json"):
        raise Refused(f"to={to}: it must end in .csv or .json")
    if to is not None and not to.absolute().parent.is_dir():
        raise Refused(f"to={to}: there is no folder {to.absolute().parent}")
    return Asked(folder, paths, to, named_plugins(rest))


def reads_pictures(folder: Path) -> bool:
    """Whether a run reads one picture, and not a table. Raises Refused for one that reads neither."""
    file = folder / "fields.json"
    if not file.is_file():
        raise Refused(f"{folder} has no fields.json: no fit has begun there")
    inputs = json.loads(file.read_text(encoding="utf-8"))["inputs"]
    kinds = [about["kind"] for about in inputs.values()]
    if kinds == ["image"]:
        return True
    if all(kind in TABLES for kind in kinds):
        return False
    told = ", ".join(f"{about['kind']} '{name}'" for name, about in inputs.items())
    raise Refused(f"{folder} reads {told}; predict answers for pictures, and for the rows of a table")


def places(paths: list[Path]) -> list[Place]:
    """The files: those that are named, and the pictures in folders and archives, in the order of their names."""
    from dlrun.data.archives import packed
    from dlrun.data.folders import ENDINGS, found

    these: list[Place] = []
    for path in paths:
        if path.is_dir() or (path.suffix.lower() not in ENDINGS and packed(path)):
            files = found(str(path))
            these += [(path if path.is_dir() else files.place, name) for name in files.names]
        else:
            these.append((path, ""))
    return these


def one_table(paths: list[Path]) -> Path:
    """The CSV file. Raises Refused for several, and for a folder."""
    if len(paths) > 1 or paths[0].is_dir():
        raise Refused(f"this run reads a table: name one CSV file, not {', '.join(map(str, paths))}")
    return paths[0]


def told_skipped(skipped: dict[str, str], answered: int, console: Console) -> None:
    """Name the files that gave no picture. Raises Refused when none gave one."""
    lines = [f"left out: {name}: {reason}" for name, reason in list(skipped.items())[:NAMED]]
    lines += [f"left out: {len(skipped) - NAMED:,} more"] if len(skipped) > NAMED else []
    if not answered:
        raise Refused("\n".join([*lines, f"none of {len(skipped):,} files could be read as a picture"]))
    if skipped:
        lines.append(f"{answered:,} answered, {len(skipped):,} left out")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def show(asked: Asked, answers: Answers, first: str, console: Console) -> None:
    """The table on the terminal, scores where there are any, and the file that was asked for."""
    from dlrun.report import predicted, read
    from dlrun.report.table import rich_table

    config, data = read.config(asked.folder), read.plain(asked.folder / "data.json") or {}
    note = str(data.get("note") or "")
    title = " · ".join(filter(None, (read.name_of_task(config), read.name_of_model(config))))
    what = (answers.spec.targets, answers.names, answers.outputs, answers.truths)
    console.print(f"{title}: answers", style="bold", soft_wrap=True, markup=False)
    if note:
        console.print(note, style="bold red", soft_wrap=True, markup=False)
    console.print(rich_table(predicted.table(*what, first=first)))
    if below := predicted.below(*what[:3]):
        console.print(below, soft_wrap=True, markup=False)
    scores = told_scores(asked, answers, config, console)
    if asked.to is None:
        return
    if asked.to.suffix.lower() == ".csv":
        text = predicted.csv_text(*what, first=first, note=note)
    else:
        skipped = [{"file": name, "reason": reason} for name, reason in answers.skipped.items()]
        about = {"run": str(asked.folder), "note": note, "scores": scores, "skipped": skipped}
        text = predicted.json_text(*what, first=first, about=about)
    write(asked.to, text)
    console.print(f"written: {asked.to}", soft_wrap=True, markup=False)


def told_scores(asked: Asked, answers: Answers, config: dict[str, Any], console: Console) -> dict[str, float]:
    """Print how right the answers are, or why that is not said; measure → value."""
    from dlrun.inference import own_rows
    from dlrun.report import measures

    if own_rows(config, asked.paths[0]):
        console.print(
            "these are the rows that the run was made from, its test rows perhaps among them: no score is taken; "
            "dlrun evaluate gives the scores",
            soft_wrap=True,
        )
    for name, score in answers.scores.items():
        ends = {"value": score.value, "low": score.low, "high": score.high}
        console.print(f"{name} {measures.score_text(ends)} on {score.n:,} rows", soft_wrap=True, markup=False)
    return {name: score.value for name, score in answers.scores.items()}


def write(file: Path, text: str) -> None:
    """Write a file whole or not at all. Raises Refused where that is not allowed."""
    from dlrun.whole import write_text

    try:
        write_text(file, text)
    except OSError as error:
        raise Refused(f"cannot write {file}: {error.strerror or error}") from error
