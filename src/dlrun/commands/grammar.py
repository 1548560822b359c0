"""What one plain word on the command line says: its key, and its value as Hydra's grammar reads it."""

from __future__ import annotations

import re
from typing import Any

KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
PLACED = re.compile(
    r"([a-z]\w*)@([a-z]\w*(\.[a-z]\w*)*)", re.ASCII
)  # an option of a group, at another place than its own
WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
TEXT = re.compile(r"(\.{0,2}/)?[A-Za-z_][\w/.-]*", re.ASCII)
NAMED = {"true": True, "false": False, "null": None}


class Beyond(Exception):
    """Only Hydra can tell what is meant here."""


def group_of(key: str) -> str:
    """The group of a choice, 'reader' for 'reader@model.reader'; any other key as it is."""
    return key.partition("@")[0] if PLACED.fullmatch(key) else key


def setting(word: str) -> tuple[str, Any]:
    """The key and the value of a word. Raises Beyond."""
    key, equals, text = word.partition("=")
    known = KEY.fullmatch(key) or PLACED.fullmatch(key)
    if not equals or not known or key.partition(".")[0] == "hydra":
        raise Beyond
    if text[:1] + text[-1:] == "[]":
        inside = text[1:-1].strip(" ")
        return key, [scalar(item.strip(" ")) for item in inside.split(",")] if inside else []
    return key, scalar(text) if text else ""


def scalar(text: str) -> Any:
    """What Hydra's grammar makes of one plain value. Raises Beyond where that is not plain to see."""
    low = text.lower()
    if low in NAMED:
        return NAMED[low]
    if WHOLE.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text) or low in ("inf", "nan"):
        return float(text)
    if not TEXT.fullmatch(text):
        raise Beyond
    return text
