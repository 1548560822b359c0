"""Bytes to text in any encoding, and what is said where they are not that."""

from __future__ import annotations

import codecs
import zipfile
from pathlib import Path

from dlrun.data import formats
from dlrun.errors import Refused

SOME = "utf-8, utf-16, latin-1, cp1252, cp1250, cp1251, koi8-r, shift_jis, euc-jp, gb18030, big5, euc-kr"


def text_of(path: str, encoding: str) -> str:
    """The text of a file, or of the one CSV file in a zip archive. Raises Refused for whatever else there is."""
    place = Path(path).expanduser()
    if not place.is_file():
        kind = "is a folder" if place.is_dir() else "does not exist"
        raise Refused(f"{path} {kind} (looked at {place.absolute()}); give the path of a CSV file, or of a zip of one")
    try:
        content = place.read_bytes()
        return decoded(_unpacked(place, content) or content, encoding, path)
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error


def _unpacked(place: Path, content: bytes) -> bytes | None:
    """What the only CSV file in an archive holds; None for a file that is no such archive."""
    if content[:4] != b"PK\x03\x04":
        return None
    with zipfile.ZipFile(place) as archive:
        files = [name for name in archive.namelist() if name.lower().endswith(".csv") and "__MACOSX" not in name]
        if len(files) > 1:
            raise Refused(f"{place} must hold one CSV file, and holds {len(files)}")
        return archive.read(files[0]) if files else None


def decoded(content: bytes, encoding: str, place: str) -> str:
    """The text of these bytes, without a byte order mark in front.

    encoding: any that Python knows by name. place: where the bytes are from, for the message. Raises Refused, naming
    the first byte that does not fit, or what the file is where it is no text.
    """
    name = checked(encoding)
    formats.refuse(content, place)
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
    if 4 * content[:4096].count(0) > len(content[:4096]):
        return f"data.encoding=utf-16-{'le' if content[1:2] == bytes(1) else 'be'} by its zeros"
    return "such as data.encoding=latin-1 or cp1252"
