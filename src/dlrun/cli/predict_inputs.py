"""What `dlrun predict` is asked about: pictures, texts, or a table, as the run reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlrun.core import stored_files
from dlrun.core.errors import UserError

if TYPE_CHECKING:
    from dlrun.experiment.inference import NamedImagePath


InputKind = Literal["pictures", "texts", "series", "table"]
InputItem = Path | str  # a file or folder, or a text itself
TABLE_SUFFIXES = (".csv", ".tsv", ".tab")  # files that hold rows
NOT_IN_TABLES = ("image", "series")


def get_input_kind(folder: Path) -> InputKind:
    """What a run reads. Raises UserError for one whose inputs no files, texts or tables give."""
    fields = stored_files.load_json(folder / "fields.json", {"inputs": stored_files.FIELDS})
    kinds = [about["kind"] for about in fields["inputs"].values()]
    if kinds == ["image"]:
        return "pictures"
    if "series" in kinds and all(about.get("outlook") for about in fields["targets"].values()):
        return "series"
    if kinds in (["tokens"], ["bag"]):
        return "texts"
    if not set(kinds) & set(NOT_IN_TABLES):
        return "table"
    told = ", ".join(f"{about['kind']} '{name}'" for name, about in fields["inputs"].items())
    raise UserError(
        f"{folder} reads {told}; predict answers for pictures, for texts, for series, and for rows of a table"
    )


def parse_input_item(word: str, kind: InputKind, usage: str) -> InputItem:
    """The file or folder that a word names, or the text that it is. Raises UserError for a file that is not there."""
    if not word.strip():
        raise UserError(f"'{word}' is an empty text")
    path = Path(word).expanduser()
    try:
        there = path.exists()
    except OSError:  # a text that is longer than any name
        there = False
    if there:
        return path
    if kind != "texts" or is_path_like(word):
        what = "a table" if kind == "table" else kind
        raise UserError(f"there is no file or folder {word}. This run reads {what}: {usage}")
    return word


def is_path_like(word: str) -> bool:
    """Whether a word is rather a file that is not there than a text: without blanks, with a slash or an ending."""
    if re.search(r"\s", word):
        return word.lower().endswith((".txt", *TABLE_SUFFIXES))
    return bool(re.search(r"[/\\]|\.\w+$", word))


def list_image_files(paths: list[Path]) -> list[NamedImagePath]:
    """The picture files: those that are named, and those in folders and archives, in the order of their names."""
    from dlrun.data.images.archives import is_archive
    from dlrun.data.images.image_folder import IMAGE_EXTENSIONS, find_files

    these: list[NamedImagePath] = []
    for path in paths:
        if path.is_dir() or (path.suffix.lower() not in IMAGE_EXTENSIONS and is_archive(path)):
            files = find_files(str(path))
            these += [(path if path.is_dir() else files.root, name) for name in files.names]
        else:
            these.append((path, ""))
    return these


def get_single_table(items: list[InputItem]) -> Path:
    """The CSV file. Raises UserError for several, and for a folder."""
    only = items[0]
    if len(items) > 1 or isinstance(only, str) or only.is_dir():
        raise UserError(
            f"rows come from a table: name one CSV file by itself, not {', '.join(map(str, items))}"
        )
    return only


def read_input_texts(
    items: list[InputItem], config: dict[str, Any], encoding: str
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Name and text, of texts themselves and of .txt files, also those in folders; and file → why it gives none.

    encoding: of the files; '' for that of the run's own. Raises UserError for files of another kind.
    """
    given = encoding or config["data"].get("encoding") or "utf-8"
    found: list[tuple[str, str]] = []
    skipped: dict[str, str] = {}
    for one in items:
        if isinstance(one, str):
            found.append((" ".join(one.split()), one))
            continue
        for file in _list_text_files(one):
            try:
                found.append((str(file), _read_content(file, given)))
            except UserError as error:
                skipped[str(file)] = str(error).removeprefix(f"{file} ")
    return found, skipped


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
            f"{path}: a text is a .txt file (or stands in quotes), and rows with texts are one .csv file"
        )
    return [path]


def _read_content(file: Path, encoding: str) -> str:
    from dlrun.data.tabular.text_encoding import decode_text

    try:
        text = decode_text(file.read_bytes(), encoding, str(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except UserError as error:
        raise UserError(str(error).replace("data.encoding=", "encoding=")) from error
    if not text.strip():
        raise UserError(f"{file} is empty")
    return text
