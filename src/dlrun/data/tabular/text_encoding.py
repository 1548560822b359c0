"""Bytes to text in any encoding, and what is said where they are not that."""

from __future__ import annotations

import codecs
import logging
import zipfile
from pathlib import Path

from dlrun.core.errors import UserError
from dlrun.data import file_formats

log = logging.getLogger("dlrun")

MARKS = {  # how a file begins that says itself what it is; that of UTF-32 begins as that of UTF-16
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
COMMON_ENCODINGS = "utf-8, utf-16, latin-1, cp1252, cp1250, cp1251, koi8-r, shift_jis, euc-jp, gb18030, big5, euc-kr"


def read_encoded_text(path: str, encoding: str) -> str:
    """The text of a file, or of the one CSV file in a zip archive. Raises UserError for whatever else there is."""
    place = Path(path).expanduser()
    if not place.is_file():
        kind = "is a folder" if place.is_dir() else "does not exist"
        raise UserError(
            f"{path} {kind} (looked at {place.absolute()}); give the path of a CSV file, or of a zip of one"
        )
    try:
        packed = place.read_bytes()
        content = _unzip_csv(place, packed) or packed
        text = decode_text(content, encoding, path)
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if (
        not canonical_encoding(encoding).startswith("utf")
        and not content.isascii()
        and _is_utf8(content)
    ):
        log.warning(
            "%s reads as UTF-8, too, which is rarely by chance: was data.encoding=%s meant?",
            path,
            encoding,
        )
    return text


def _unzip_csv(place: Path, content: bytes) -> bytes | None:
    """What the only CSV file in an archive holds; None for a file that is no such archive."""
    if content[:4] != b"PK\x03\x04":
        return None
    with zipfile.ZipFile(place) as archive:
        files = [
            name
            for name in archive.namelist()
            if name.lower().endswith(".csv") and "__MACOSX" not in name
        ]
        if len(files) > 1:
            raise UserError(f"{place} must hold one CSV file, and holds {len(files)}")
        return archive.read(files[0]) if files else None


def decode_text(content: bytes, encoding: str, place: str) -> str:
    """The text of these bytes, without a byte order mark in front.

    encoding: any that Python knows by name. place: where the bytes are from, for the message. Raises UserError, naming
    the first byte that does not fit, or what the file is where it is no text.
    """
    name = canonical_encoding(encoding)
    file_formats.check_is_text(content, place)
    said, mark = "UTF-8" if name == "utf-8" else encoding, _marked(content)
    try:
        text = content.decode("utf-8-sig" if name == "utf-8" else name).removeprefix("\ufeff")
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise UserError(
            f"{place} is not {said} text (byte {at}): say what it is, {_encoding_hint(content)}"
        ) from error
    if (mark and not name.startswith(mark)) or "\0" in text[
        :4096
    ]:  # encodings of one byte a letter take any bytes
        raise UserError(f"{place} is not {said} text: say what it is, {_encoding_hint(content)}")
    return text


def _marked(content: bytes) -> str:
    """The encoding that the first bytes of a file name; '' where they name none."""
    return next((name for mark, name in MARKS.items() if content.startswith(mark)), "")


def _is_utf8(content: bytes) -> bool:
    try:
        return bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def canonical_encoding(encoding: str) -> str:
    """The name that Python has for an encoding of text. Raises UserError for one that it does not know."""
    try:
        found = codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise UserError(
            f"data.encoding={encoding}: no such encoding. Among others there are: {COMMON_ENCODINGS}"
        ) from error
    if not getattr(found, "_is_text_encoding", True):
        raise UserError(
            f"data.encoding={encoding} is no encoding of text. Among others there are: {COMMON_ENCODINGS}"
        )
    return found.name


def _encoding_hint(content: bytes) -> str:
    if mark := _marked(content):
        return f"data.encoding={mark} by its first bytes"
    if 4 * content[:4096].count(0) > len(content[:4096]):
        return f"data.encoding=utf-16-{'le' if content[1:2] == bytes(1) else 'be'} by its zeros"
    return "such as data.encoding=latin-1 or cp1252"
