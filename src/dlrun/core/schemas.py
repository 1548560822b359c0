"""What the files of a run folder must hold, and how a value is checked. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dlrun.core.errors import CorruptedFileError

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
