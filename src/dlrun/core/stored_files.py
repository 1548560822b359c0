"""Reads the files of a run folder. Here alone is decided that one is damaged; whoever asks has one line that names it.

Needs no torch.
"""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core.errors import CorruptedFileError, UserError
from dlrun.core.renamed_parts import to_current_names

if TYPE_CHECKING:
    import numpy as np

MAX_DEPTH, MAX_VALUES = (
    40,
    200_000,
)  # levels and values of a config: more are no config, but an attack on whoever reads it


def check_config_size(config: Any, name: str) -> None:
    """Raise UserError for a file whose values are without end: aliases that hold themselves, or each other many times."""
    left, level = [config], 0
    seen = 0
    while left:
        level, seen = level + 1, seen + len(left)
        if level > MAX_DEPTH or seen > MAX_VALUES:
            raise UserError(f"{name} is no config: its values go on without end")
        inner = [
            value.values() if isinstance(value, dict) else value
            for value in left
            if isinstance(value, dict | list)
        ]
        left = [each for one in inner for each in one][: MAX_VALUES + 1]


log = logging.getLogger("dlrun")

# What a value is expected to be: a type or several · {key: form}, a mapping with these keys at least ·
# {"?key": form}, if it is there · {...: form}, a mapping whose values all are such · [form], a list of such.
Schema = Any

NUMBER = (int, float, type(None))
SCORES: Schema = {...: {"value": NUMBER}}
JOB: Schema = {"stage": str}
FIELDS: Schema = {...: {"kind": str}}
SCHEMAS: dict[str, Schema] = {
    "config.yaml": {"?engine": dict, "?model": dict, "?task": (dict, str)},
    "sweep.yaml": {"identity": str, "words": list},
    "data.json": {"fingerprint": str, "rows": int, "note": str},
    "fields.json": {"targets": FIELDS},
    "workflow.json": [{"step": int, "verdict": str}],
    "begun.json": {"config": str},
    "audit.json": [{"severity": str, "what": str, "text": str}],
    "openings.json": {"count": int},
    "environment.json": dict,
    "pictures.json": list,
    "members.json": {
        "combine": str,
        "members": [{"folder": str, "job": str, "model": str, "weight": NUMBER}],
    },
    "unfinished.json": {...: {"job": JOB, "why": str, "diverged": bool}},
    "changes.json": {
        ...: [{"epoch": int, "position": int, "stopped": str, "settings": {...: list}}]
    },
    "results.jsonl": {"name": str, "split": str, "job": JOB, "scores": SCORES},
    "history.jsonl": {
        "job": str,
        "epoch": int,
        "split": str,
        "values": {...: NUMBER},
        "?rates": dict,
    },
    "sweep.jsonl": {"job": int, "status": str},
    "preparation": dict,
    "fields": {"targets": FIELDS},
    "errors": [dict],
}
APPENDED_FILES = (
    "history.jsonl",
    "sweep.jsonl",
)  # are added to line by line, so that a kill may cut the last one short
TYPE_NAMES = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    int: "a whole number",
    bool: "true or false",
}
ARCHIVE_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
)  # what numpy meets in an archive
_warned_files: set[tuple[Path, int]] = (
    set()
)  # cut last lines that were told, with the time of the file: once is enough


def load_text(path: Path) -> str:
    """The text of a file. Raises UserError where it is not there, cannot be read, or is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CorruptedFileError(f"{path} is damaged: it is no text") from None


def load_complete_text(path: Path) -> str:
    """The text of a file of whole lines. Raises UserError, also where its last line is cut short."""
    found = load_text(path)
    if not found.endswith("\n"):
        raise CorruptedFileError(
            f"{path} is damaged: {'its last line is cut short' if found else 'it is empty'}"
        )
    return found


def load_command(folder: Path) -> str:
    """The words that a run began with, as they were typed. Raises UserError where they are not kept."""
    found = load_complete_text(path := folder / "command.txt").strip()
    if not found.startswith("dlrun"):
        raise CorruptedFileError(f"{path} is damaged: it does not begin with dlrun")
    return found


def load_json(path: Path, form: Schema = None) -> Any:
    """What a JSON file holds. form: what is asked of it here, besides its usual form.

    Raises UserError where it is not there, or is damaged.
    """
    content = load_text(path)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        why = "it is empty" if not content.strip() else f"it is no JSON ({error})"
        raise CorruptedFileError(f"{path} is damaged: {why}") from None
    return to_current_names(
        check_schema(
            path,
            check_schema(path, found, SCHEMAS.get(path.name) or SCHEMAS.get(path.parent.name)),
            form,
        )
    )


def load_json_or_none(path: Path) -> Any:
    """What a JSON file holds; None where it is not there. Raises UserError where it is damaged."""
    return load_json(path) if path.exists() else None


def load_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; none where it is not there. Raises UserError where it is damaged.

    Of a file that is added to line by line, a last line that a kill has cut short is left out.
    """
    if not path.exists():
        return []
    texts, found, form = load_text(path).split("\n"), [], SCHEMAS.get(path.name, dict)
    for number, line in enumerate(texts, 1):
        if not line.strip():
            continue
        try:
            each = check_schema(path, json.loads(line), form, f"line {number}: ")
            found.append(to_current_names(each) if "_target_" in line else each)
        except (ValueError, RecursionError):
            if number == len(texts) and path.name in APPENDED_FILES:
                _warn_truncated(path)
                break
            raise CorruptedFileError(
                f"{path} is damaged: line {number} is no JSON: {line[:60]!r}"
            ) from None
    if not found and path.name not in APPENDED_FILES:
        raise CorruptedFileError(f"{path} is damaged: it is empty")
    return found


def _warn_truncated(path: Path) -> None:
    if (mark := (path, path.stat().st_mtime_ns)) not in _warned_files:
        _warned_files.add(mark)
        log.warning("%s: its last line was cut short, and is left out", path)


def load_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file holds. Raises UserError where it is not there, or is damaged."""
    import yaml

    content = load_complete_text(path)
    try:
        found = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CorruptedFileError(
            f"{path} is damaged: {' '.join(str(error).split())[:200]}"
        ) from None
    check_config_size(found, str(path))
    return to_current_names(check_schema(path, found, SCHEMAS.get(path.name, dict)))  # type: ignore[no-any-return]


def load_run_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run. Raises UserError where the folder is no run, or its config is damaged."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is no run folder: it has no config.yaml")
    return load_yaml(folder / "config.yaml")


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Raises UserError where it is not there, or is damaged."""
    import numpy as np

    if not path.is_file():
        raise UserError(f"{path.parent.parent} has no {path.parent.name}/{path.name}")
    try:
        with (
            path.open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):  # which a damaged one keeps open
            return dict(archive)
    except (
        *ARCHIVE_ERRORS,
        AttributeError,
        TypeError,
    ) as error:  # a lone array has no arrays in it
        raise CorruptedFileError(
            f"{path} is damaged: {str(error).splitlines()[0] if str(error) else 'it is empty'}"
        ) from None


def check_schema(path: Path, found: Any, form: Schema, where: str = "") -> Any:
    """The value, if it has this form. Raises UserError, naming the file and the part that has not."""
    if form is not None and (fault := find_mismatch(found, form)):
        raise CorruptedFileError(f"{path} is damaged: {where}{fault}")
    return found


def find_mismatch(found: Any, form: Schema, name: str = "it") -> str:
    """What is wrong with a value that should have a form, in words; '' where nothing is."""
    if isinstance(form, Mapping):
        return find_mismatch(found, dict, name) or _find_nested_mismatch(found, form, name)
    if isinstance(form, list):
        parts = enumerate(found, 1) if isinstance(found, list) else ()
        return find_mismatch(found, list, name) or _first_fault(
            find_mismatch(part, form[0], f"{name}[{at}]") for at, part in parts
        )
    kinds = form if isinstance(form, tuple) else (form,)
    if isinstance(found, kinds) and (bool in kinds or not isinstance(found, bool)):
        return ""
    return f"{name} is {_describe_type(found)}, where {TYPE_NAMES.get(kinds[0], 'a number')} is expected"


def _find_nested_mismatch(found: dict[str, Any], form: Mapping[Any, Schema], name: str) -> str:
    inside = "" if name == "it" else f"{name}."
    if ... in form:
        return _first_fault(
            find_mismatch(part, form[...], f"{inside}{key}") for key, part in found.items()
        )
    for key, inner in form.items():
        bare = key.removeprefix("?")
        missing = "" if bare != key else f"{name} has no '{key}'"
        if (
            fault := find_mismatch(found[bare], inner, f"{inside}{bare}")
            if bare in found
            else missing
        ):
            return fault
    return ""


def _first_fault(faults: Any) -> str:
    return next(filter(None, faults), "")


def _describe_type(found: Any) -> str:
    return "empty" if found is None else TYPE_NAMES.get(type(found), "a number")
