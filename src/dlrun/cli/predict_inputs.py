"""The inputs of `dlrun predict`: images, texts, or a table, as the run reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlrun.cli.run_argument import parse_run_argument
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFolder
from dlrun.launch.run_config import load_plugin_packages

if TYPE_CHECKING:
    from dlrun.experiment.inference import NamedImagePath


InputKind = Literal["pictures", "texts", "series", "table"]
InputItem = Path | str  # a file or folder, or a text itself
TABLE_SUFFIXES = (".csv", ".tsv", ".tab")  # files that hold rows
NOT_IN_TABLES = ("image", "series")
USAGE: dict[InputKind, str] = {
    "pictures": "dlrun predict RUN photo.jpg folder/ … [to=predictions.csv]",
    "texts": "dlrun predict RUN 'a text' file.txt folder/ … (or rows.csv) [to=predictions.csv]",
    "series": "dlrun predict RUN series.csv [to=predictions.csv]",
    "table": "dlrun predict RUN rows.csv [to=predictions.csv]",
}


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
        raise UserError(f"predictions for which files? {USAGE[kind]}")
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


def get_input_kind(folder: Path) -> InputKind:
    """Return what a run reads.

    Raises:
        UserError: For a run whose inputs cannot be given as files, texts or a table.
    """
    fields = RunFolder(folder).require_inputs()
    kinds = [field["kind"] for field in fields["inputs"].values()]
    # The order matters: a series with a forecast is no table, though it is read from one.
    if kinds == ["image"]:
        return "pictures"
    if "series" in kinds and all(field.get("outlook") for field in fields["targets"].values()):
        return "series"
    if kinds in (["tokens"], ["bag"]):
        return "texts"
    if not set(kinds) & set(NOT_IN_TABLES):
        return "table"
    described = ", ".join(f"{field['kind']} '{name}'" for name, field in fields["inputs"].items())
    raise UserError(
        f"{folder} reads {described}; predict takes images, texts, series, and rows of a table"
    )


def parse_input_item(word: str, kind: InputKind, usage: str) -> InputItem:
    """Return the file or folder that a word names, or the text that it is.

    Args:
        word: The word.
        kind: What the run reads.
        usage: How the command is called, for the message.

    Raises:
        UserError: For a file that does not exist.
    """
    if not word.strip():
        raise UserError(f"'{word}' is an empty text")
    path = Path(word).expanduser()
    try:
        exists = path.exists()
    # A text is longer than a file name may be.
    except OSError:
        exists = False
    if exists:
        return path
    if kind != "texts" or is_path_like(word):
        readable = "a table" if kind == "table" else kind
        raise UserError(f"there is no file or folder {word}. This run reads {readable}: {usage}")
    return word


def is_path_like(word: str) -> bool:
    """Return whether a word is rather the path of a missing file than a text."""
    # A word with blanks is a text, unless it ends as a file does.
    if re.search(r"\s", word):
        return word.lower().endswith((".txt", *TABLE_SUFFIXES))
    return bool(re.search(r"[/\\]|\.\w+$", word))


def list_image_files(paths: list[Path]) -> list[NamedImagePath]:
    """List the image files: those that are named, and those in folders and archives, sorted."""
    from dlrun.data.images.archives import is_archive
    from dlrun.data.images.image_folder import IMAGE_EXTENSIONS, find_files

    images: list[NamedImagePath] = []
    for path in paths:
        if path.is_dir() or (path.suffix.lower() not in IMAGE_EXTENSIONS and is_archive(path)):
            files = find_files(str(path))
            images += [(path if path.is_dir() else files.root, name) for name in files.names]
        else:
            # An empty name marks a file that lies in no folder or archive of the list.
            images.append((path, ""))
    return images


def get_single_table(items: list[InputItem]) -> Path:
    """Return the CSV file.

    Raises:
        UserError: For several files, a folder, or a text.
    """
    item = items[0]
    if len(items) > 1 or isinstance(item, str) or item.is_dir():
        raise UserError(
            f"rows come from a table: name one CSV file by itself, not {', '.join(map(str, items))}"
        )
    return item


def read_input_texts(
    items: list[InputItem], config: dict[str, Any], encoding: str
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Read texts given as words, and .txt files, also those in folders.

    Args:
        items: Texts, files and folders.
        config: The config of the run.
        encoding: Of the files; "" for that of the run's own.

    Returns:
        Pairs of name and text; and file → why it could not be read.

    Raises:
        UserError: For files of another kind.
    """
    file_encoding = encoding or config["data"].get("encoding") or "utf-8"
    texts: list[tuple[str, str]] = []
    skipped: dict[str, str] = {}
    for item in items:
        if isinstance(item, str):
            texts.append((" ".join(item.split()), item))
            continue
        for file in _list_text_files(item):
            try:
                texts.append((str(file), _read_content(file, file_encoding)))
            except UserError as error:
                skipped[str(file)] = str(error).removeprefix(f"{file} ")
    return texts, skipped


def _list_text_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.suffix.lower() == ".txt" and file.is_file()
        )
        if not files:
            raise UserError(f"there is no .txt file in {path}")
        return files
    if path.suffix.lower() != ".txt":
        raise UserError(
            f"{path}: a text is a .txt file (or stands in quotes), and rows with texts are one "
            ".csv file"
        )
    return [path]


def _read_content(file: Path, encoding: str) -> str:
    from dlrun.data.tabular.text_encoding import decode_text

    try:
        text = decode_text(file.read_bytes(), encoding, str(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except UserError as error:
        # The option as this command calls it.
        raise UserError(str(error).replace("data.encoding=", "encoding=")) from error
    if not text.strip():
        raise UserError(f"{file} is empty")
    return text
