"""The image files of a folder or an archive, and their classes where each has its own folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dlrun.core.errors import UserError
from dlrun.core.formatting import format_file_list
from dlrun.data.images.archives import FileList, is_archive, list_members, normalize_name

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
# The other way to label files, for messages.
TABLE_HINTS = {
    "image": "say data.labels=FILE.csv (columns file, label)",
    "text": "give a table: data.path=FILE.csv data.text=COLUMN data.target=COLUMN",
}
# What Windows and macOS add to folders and archives of their own accord.
IGNORED_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

ValidationMode = Literal["folder", "mixed"]


def find_files(
    path: str, extensions: tuple[str, ...] = IMAGE_EXTENSIONS, what: str = "image"
) -> FileList:
    """List the files at a path by their extension; log what is ignored, but for hidden files.

    Links that lead out of the folder, and links to folders, are not followed.

    Args:
        path: A folder, or a zip or tar archive.
        extensions: The endings of the files to list, in lower case.
        what: What the files are, for messages.

    Returns:
        The files in the order of their names.

    Raises:
        UserError: There is no such folder or archive, or no such file in it.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        names = list(_walk_files(root.resolve()))
    elif is_archive(root):
        root, names = list_members(root)
    else:
        kind = "is no zip or tar archive" if root.exists() else "does not exist"
        raise UserError(
            f"{path} {kind} (looked at {root.absolute()}); give a folder, or a zip or tar archive"
        )
    names = [name for name in names if not any(_is_hidden(folder) for folder in name.split("/"))]
    matching = [name for name in names if name.lower().endswith(extensions)]
    if ignored := sorted(set(names) - set(matching)):
        log.warning(
            "%s: %s no %s by the ending: %s",
            path,
            _describe_skipped(len(ignored)),
            what,
            format_file_list([*map(normalize_name, ignored)]),
        )
    if not matching:
        raise UserError(f"{path} holds no {what}: no file there ends in {', '.join(extensions)}")
    # Sorted: file systems list files in an order of their own.
    return FileList(root, tuple(sorted(matching, key=normalize_name)))


def _describe_skipped(count: int) -> str:
    if count == 1:
        return "1 file is left out, as it is"
    return f"{count:,} files are left out, as they are"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED_NAMES


def _walk_files(root: Path) -> Iterator[str]:
    """Yield the names of the files below a folder, relative to it."""
    links = []
    for folder, subfolders, files in os.walk(root):
        links += [Path(folder, name) for name in subfolders if Path(folder, name).is_symlink()]
        for name in files:
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                links.append(path)
            else:
                yield path.relative_to(root).as_posix()
    if links:
        listed = format_file_list(
            sorted(normalize_name(str(path.relative_to(root))) for path in links)
        )
        log.warning("%s: links to other places are not followed: %s", root, listed)


def classes_from_folders(
    files: FileList, path: str, what: str = "image"
) -> tuple[list[str], list[str], list[str]]:
    """Return name, class and split of each file.

    The first folder names the class; where the first folders are splits, the second one does.

    Args:
        files: The files of a folder or an archive.
        path: Where they lie, for messages.
        what: What the files are, for messages.

    Returns:
        Three lists of equal length: the names, the classes, and the splits ('train', 'validation',
        'test', or '' where there are none).

    Raises:
        UserError: There is not a folder for each class, or only one class.
    """
    rows = [tuple(name.split("/")) for name in files.names]
    tops = {row[0] for row in rows if len(row) > 1}
    # An archive often holds a single folder, with everything else in it.
    if files.root.is_file() and len(tops) == 1 and all(len(row) > 1 for row in rows):
        rows = [row[1:] for row in rows]
        tops = {row[0] for row in rows if len(row) > 1}
    # All folders must be splits: beside other folders, one called "test" is a class.
    has_splits = (
        bool(tops)
        and {top.lower() for top in tops} <= set(SPLIT_FOLDERS)
        and "train" in {SPLIT_FOLDERS[top.lower()] for top in tops}
    )
    # Folders below the one that names the class do not matter.
    depth = 1 if has_splits else 0
    inside = [index for index, row in enumerate(rows) if len(row) > depth + 1]
    unclassified = [files.names[index] for index, row in enumerate(rows) if len(row) <= depth + 1]
    class_names = [normalize_name(rows[index][depth]) for index in inside]
    _check_classes(path, sorted(set(class_names)), unclassified, what)
    splits = [SPLIT_FOLDERS[rows[index][0].lower()] if has_splits else "" for index in inside]
    return [files.names[index] for index in inside], class_names, splits


def count_validation_files(count: int, what: str, mode: ValidationMode) -> int:
    """Return how many rows, the last ones, a protocol is to hold out.

    Args:
        count: Number of rows in a folder validation.
        what: What the files are, for messages.
        mode: `folder` holds those rows out; `mixed` logs how to do so.
    """
    if count and mode == "mixed":
        log.info(
            "validation %s are the last %d rows: protocol=last_rows protocol.validation=%d",
            what,
            count,
            count,
        )
    return count if mode == "folder" else 0


def _check_classes(path: str, names: list[str], unclassified: list[str], what: str) -> None:
    advice = f"put the {what}s of each class into a folder of its own, or {TABLE_HINTS[what]}"
    if not names:
        raise UserError(
            f"{path} has no folder for each class ({len(unclassified):,} {what}s lie in none): "
            f"{advice}"
        )
    if len(names) == 1:
        raise UserError(
            f"{path} has {what}s of one class only, '{names[0]}': there is nothing to tell apart; "
            f"{advice}"
        )
    if unclassified:
        log.warning(
            "%s: %s in no class's folder: %s",
            path,
            _describe_skipped(len(unclassified)),
            format_file_list([*map(normalize_name, unclassified)]),
        )
