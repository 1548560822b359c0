"""Bytes to text in any encoding, and what is said where they are not that."""

from __future__ import annotations

import codecs

from dlrun.errors import Refused

SOME = "utf-8, utf-16, latin-1, cp1252, cp1250, cp1251, koi8-r, shift_jis, euc-jp, gb18030, big5, euc-kr"


def decoded(content: bytes, encoding: str, place: str) -> str:
    """The text of these bytes, without a byte order mark in front.

    encoding: any that Python knows by name. place: where the bytes are from, for the message. Raises Refused, naming
    the first byte that does not fit.
    """
    name = checked(encoding)
    try:
        return content.decode("utf-8-sig" if name == "utf-8" else name).removeprefix("\ufeff")
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        said = "UTF-8" if name == "utf-8" else encoding
        raise Refused(f"{place} is not {said} text (byte {at}): say what it is, {_guess(content)}") from error


def checked(encoding: str) -> str:
    """The name that Python has for an encoding of text. Raises Refused for one that it does not know."""
    try:
        found = codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise Refused(f"data.encoding={encoding}: no such encoding. Among others there are: {SOME}") from error
    if not getattr(found, "_is_text_encoding", True):
        raise Refused(f"data.encoding={encoding} is no encoding of text. Among others there are: {SOME}")
    return found.name


def _guess(content: bytes) -> str:
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "data.encoding=utf-16 by its first bytes"
    return "such as data.encoding=latin-1 or cp1252"
