"""Reads plain files, and decides alone that one is damaged.

Whoever asks gets one line that names the file. `RunFolder` asks for the files of a run. Needs no
torch.
"""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core.errors import CorruptedFileError, UserError
from dlrun.core.renamed_parts import has_old_names, to_current_names, to_current_override

if TYPE_CHECKING:
    import numpy as np


# What a value is expected to be:
#   a type, or a tuple of types
#   {key: schema}     a mapping with at least these keys
#   {"?key": schema}  a key that may be missing
#   {...: schema}     a mapping whose values all fit
#   [schema]          a list whose items all fit
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
# Appended to line by line, so that a kill may cut the last line short.
APPENDED_FILES = ("history.jsonl", "sweep.jsonl")
TYPE_NAMES = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    int: "a whole number",
    bool: "true or false",
}


def check_schema(path: Path, value: Any, schema: Schema, location: str = "") -> Any:
    """Return a value that fits its schema.

    Args:
        path: The file that it is from.
        value: Parsed value.
        schema: See `Schema`; None: anything.
        location: Where in the file, for the message, such as 'line 3: '.

    Raises:
        CorruptedFileError: It does not fit; names the file and the mismatch.
    """
    if schema is not None and (mismatch := find_mismatch(value, schema)):
        raise CorruptedFileError(f"{path} is damaged: {location}{mismatch}")
    return value


def find_mismatch(value: Any, schema: Schema, name: str = "it") -> str:
    """Where a value does not fit a schema, in words; "" where it fits.

    Args:
        value: Parsed value.
        schema: See `Schema`.
        name: What the value is called in the message.
    """
    if isinstance(schema, Mapping):
        return find_mismatch(value, dict, name) or _find_nested_mismatch(value, schema, name)
    if isinstance(schema, list):
        items = enumerate(value, 1) if isinstance(value, list) else ()
        return find_mismatch(value, list, name) or _first_mismatch(
            find_mismatch(item, schema[0], f"{name}[{number}]") for number, item in items
        )
    types = schema if isinstance(schema, tuple) else (schema,)
    # bool is a subclass of int in Python, but true is no number in a file.
    if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
        return ""
    expected = TYPE_NAMES.get(types[0], "a number")
    return f"{name} is {_describe_type(value)}, where {expected} is expected"


def _find_nested_mismatch(value: dict[str, Any], schema: Mapping[Any, Schema], name: str) -> str:
    prefix = "" if name == "it" else f"{name}."
    if ... in schema:
        return _first_mismatch(
            find_mismatch(item, schema[...], f"{prefix}{key}") for key, item in value.items()
        )
    for key, inner_schema in schema.items():
        name_in_file = key.removeprefix("?")
        if name_in_file in value:
            mismatch = find_mismatch(value[name_in_file], inner_schema, f"{prefix}{name_in_file}")
        else:
            mismatch = f"{name} has no '{key}'" if name_in_file == key else ""
        if mismatch:
            return mismatch
    return ""


def _first_mismatch(mismatches: Iterable[str]) -> str:
    return next(filter(None, mismatches), "")


def _describe_type(value: Any) -> str:
    return "empty" if value is None else TYPE_NAMES.get(type(value), "a number")


# Levels and values of a config. YAML aliases make a file of 1 KB grow without end ("billion
# laughs"): more than this is no config, but an attack on its reader.
MAX_DEPTH, MAX_VALUES = 40, 200_000


def check_config_size(config: Any, name: str) -> None:
    """Refuse a file without end: YAML aliases that hold themselves, or each other many times.

    Args:
        config: Parsed values.
        name: The file, for the message.

    Raises:
        UserError: There are too many values or levels.
    """
    values, depth, count = [config], 0, 0
    while values:
        depth, count = depth + 1, count + len(values)
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise UserError(f"{name} is no config: its values go on without end")
        containers = [
            value.values() if isinstance(value, dict) else value
            for value in values
            if isinstance(value, dict | list)
        ]
        # The next level, cut off: one level alone may be too large to hold.
        values = [item for container in containers for item in container][: MAX_VALUES + 1]


log = logging.getLogger("dlrun")


# What numpy raises for a damaged archive, depending on where the damage is.
ARCHIVE_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
# Files whose cut last line was reported, with their time: one warning a file is enough.
_warned_files: set[tuple[Path, int]] = set()


def load_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: It is not there, cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CorruptedFileError(f"{path} is damaged: it is no text") from None


def load_complete_text(path: Path) -> str:
    """The text of a file of whole lines.

    Raises:
        UserError: As `load_text`, and where the last line is cut short.
    """
    text = load_text(path)
    if not text.endswith("\n"):
        raise CorruptedFileError(
            f"{path} is damaged: {'its last line is cut short' if text else 'it is empty'}"
        )
    return text


def load_json(path: Path, schema: Schema = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        schema: What is required here, besides the file's usual schema.

    Raises:
        UserError: It is missing or damaged.
    """
    content = load_text(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        # An empty file is what a full disk leaves behind.
        why = "it is empty" if not content.strip() else f"it is no JSON ({error})"
        raise CorruptedFileError(f"{path} is damaged: {why}") from None
    check_schema(path, value, SCHEMAS.get(path.name) or SCHEMAS.get(path.parent.name))
    return to_current_names(check_schema(path, value, schema))


def load_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a JSON Lines file; none where it is not there.

    Of a file that is appended to, a last line that a kill has cut short is left out.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return []
    lines, rows, schema = load_text(path).split("\n"), [], SCHEMAS.get(path.name, dict)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = check_schema(path, json.loads(line), schema, f"line {number}: ")
            is_old = "_target_" in line or has_old_names(line)
            rows.append(_with_current_words(to_current_names(row)) if is_old else row)
        except (ValueError, RecursionError):
            # A kill can cut only the last line of a file that is appended to; any other is damage.
            if number == len(lines) and path.name in APPENDED_FILES:
                _warn_truncated(path)
                break
            raise CorruptedFileError(
                f"{path} is damaged: line {number} is no JSON: {line[:60]!r}"
            ) from None
    if not rows and path.name not in APPENDED_FILES:
        raise CorruptedFileError(f"{path} is damaged: it is empty")
    return rows


def _with_current_words(row: dict[str, Any]) -> dict[str, Any]:
    """A line of sweep.jsonl with the overrides of the job in today's words; any other as it is."""
    overrides = {key: row[key] for key in ("words", "own") if isinstance(row.get(key), list)}
    return row | {key: list(map(to_current_override, words)) for key, words in overrides.items()}


def _warn_truncated(path: Path) -> None:
    if (mark := (path, path.stat().st_mtime_ns)) not in _warned_files:
        _warned_files.add(mark)
        log.warning("%s: its last line was cut short, and is left out", path)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file.

    Raises:
        UserError: It is missing or damaged.
    """
    import yaml

    content = load_complete_text(path)
    try:
        values = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CorruptedFileError(
            f"{path} is damaged: {' '.join(str(error).split())[:200]}"
        ) from None
    check_config_size(values, str(path))
    check_schema(path, values, SCHEMAS.get(path.name, dict))
    return to_current_names(values)  # type: ignore[no-any-return]


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file.

    Raises:
        UserError: It is missing or damaged.
    """
    import numpy as np

    if not path.is_file():
        raise UserError(f"{path.parent.parent} has no {path.parent.name}/{path.name}")
    try:
        # Opened here: np.load leaves the file of a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    # Attribute and type errors: a file of one array holds no names.
    except (*ARCHIVE_ERRORS, AttributeError, TypeError) as error:
        why = str(error).splitlines()[0] if str(error) else "it is empty"
        raise CorruptedFileError(f"{path} is damaged: {why}") from None
