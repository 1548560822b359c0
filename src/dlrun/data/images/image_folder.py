"""What picture files there are in a folder or an archive, and of which class they are where each has its folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dlrun.core.errors import UserError
from dlrun.data.images.archives import FileList, is_archive, list_members, normalize_name
from dlrun.data.images.image_column import format_file_list

log = logging.getLogger("dlrun")

IMAGE_EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".gif",
    ".bmp",
    ".ppm",
    ".pgm",
    ".webp",
    ".tif",
    ".tiff",
    ".avif",
)
TABLE_HINTS = {  # the other way to say what is of which class
    "picture": "say data.labels=FILE.csv (columns file, label)",
    "text": "give a table: data.path=FILE.csv data.text=COLUMN data.target=COLUMN",
}
IGNORED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

ValidationMode = Literal["folder", "mixed"]


def find_files(
    path: str, endings: tuple[str, ...] = IMAGE_EXTENSIONS, what: str = "picture"
) -> FileList:
    """The picture files at a path, in the order of their names, which have '/' between folders; or other ones.

    What is a picture, or whatever is meant, is told by the ending. What is left out is said; hidden files are not worth
    a word.

    Links that lead out of the folder, and links to folders, are not followed. Raises UserError when there is no such
    folder or archive, or no picture in it.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        names = list(_walk_files(place.resolve()))
    elif is_archive(place):
        place, names = list_members(place)
    else:
        kind = "is no zip or tar archive" if place.exists() else "does not exist"
        raise UserError(
            f"{path} {kind} (looked at {place.absolute()}); give a folder, or a zip or tar archive"
        )
    names = [name for name in names if not any(_is_hidden(part) for part in name.split("/"))]
    meant = [name for name in names if name.lower().endswith(endings)]
    if others := sorted(set(names) - set(meant)):
        log.warning(
            "%s: %s no %s by the ending: %s",
            path,
            _describe_skipped(len(others)),
            what,
            format_file_list([*map(normalize_name, others)]),
        )
    if not meant:
        raise UserError(f"{path} holds no {what}: no file there ends in {', '.join(endings)}")
    return FileList(place, tuple(sorted(meant, key=normalize_name)))


def _describe_skipped(count: int) -> str:
    return (
        "1 file is left out, as it is"
        if count == 1
        else f"{count:,} files are left out, as they are"
    )


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part.lower() in IGNORED_NAMES


def _walk_files(place: Path) -> Iterator[str]:
    """The files below a folder."""
    links = []
    for folder, inside, files in os.walk(place):
        links += [Path(folder, name) for name in inside if Path(folder, name).is_symlink()]
        for name in files:
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(place):
                links.append(path)
            else:
                yield path.relative_to(place).as_posix()
    if links:
        told = format_file_list(
            sorted(normalize_name(str(path.relative_to(place))) for path in links)
        )
        log.warning("%s: links to other places are not followed: %s", place, told)


def classes_from_folders(
    found: FileList, path: str, what: str = "picture"
) -> tuple[list[str], list[str], list[str]]:
    """Of each file its name, its class and its part: 'train', 'validation', 'test', or '' where there are none.

    The first folder names the class, or the second where the first ones are parts. Raises UserError when there is no
    folder a class, or one class only.
    """
    rows = [tuple(name.split("/")) for name in found.names]
    tops = {row[0] for row in rows if len(row) > 1}
    if (
        found.root.is_file() and len(tops) == 1 and all(len(row) > 1 for row in rows)
    ):  # an archive of one folder
        rows = [row[1:] for row in rows]
        tops = {row[0] for row in rows if len(row) > 1}
    parts = (
        bool(tops)
        and {top.lower() for top in tops} <= set(SPLIT_FOLDERS)
        and "train" in {SPLIT_FOLDERS[t.lower()] for t in tops}
    )
    depth = 1 if parts else 0
    inside = [place for place, row in enumerate(rows) if len(row) > depth + 1]
    loose = [found.names[place] for place, row in enumerate(rows) if len(row) <= depth + 1]
    named = [normalize_name(rows[place][depth]) for place in inside]
    _check_classes(path, sorted(set(named)), loose, what)
    part = [SPLIT_FOLDERS[rows[place][0].lower()] if parts else "" for place in inside]
    return [found.names[place] for place in inside], named, part


def count_validation_files(count: int, what: str, how: ValidationMode) -> int:
    """How many of the development rows, the last ones, a protocol is to hold out, as their folder asks for."""
    if count and how == "mixed":
        log.info(
            "validation %s are the last %d rows: protocol=last_rows protocol.validation=%d",
            what,
            count,
            count,
        )
    return count if how == "folder" else 0


def _check_classes(path: str, names: list[str], loose: list[str], what: str) -> None:
    ways = f"put the {what}s of each class into a folder of its own, or {TABLE_HINTS[what]}"
    if not names:
        raise UserError(
            f"{path} has no folder for each class ({len(loose):,} {what}s lie in none): {ways}"
        )
    if len(names) == 1:
        raise UserError(
            f"{path} has {what}s of one class only, '{names[0]}': there is nothing to tell apart; {ways}"
        )
    if loose:
        log.warning(
            "%s: %s in no class's folder: %s",
            path,
            _describe_skipped(len(loose)),
            format_file_list([*map(normalize_name, loose)]),
        )
