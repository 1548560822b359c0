"""Decodes bytes in any encoding, and says what is wrong where that fails."""

from __future__ import annotations

import codecs
import logging
import zipfile
from pathlib import Path

from dlrun.core.errors import UserError
from dlrun.data import file_formats

log = logging.getLogger("dlrun")

# Byte order marks that name an encoding. UTF-32's begins like UTF-16's, and so comes first.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
COMMON_ENCODINGS = (
    "utf-8, utf-16, latin-1, cp1252, cp1250, cp1251, koi8-r, shift_jis, euc-jp, gb18030, big5, "
    "euc-kr"
)


def read_encoded_text(path: str, encoding: str) -> str:
    """The text of a file, or of the one CSV file in a zip archive.

    Raises:
        UserError: There is no such file, or it cannot be read in this encoding.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(
            f"{path} {problem} (looked at {file.absolute()}); "
            "give the path of a CSV file, or of a zip of one"
        )
    try:
        content = file.read_bytes()
        content = _unzip_csv(file, content) or content
        text = decode_text(content, encoding, path)
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    is_utf = canonical_encoding(encoding).startswith("utf")
    # Encodings of one byte a letter read anything: bytes that are UTF-8, too, were meant as that.
    if not is_utf and not content.isascii() and _is_utf8(content):
        log.warning(
            "%s reads as UTF-8, too, which is rarely by chance: was data.encoding=%s meant?",
            path,
            encoding,
        )
    return text


def _unzip_csv(path: Path, content: bytes) -> bytes | None:
    """The content of the only CSV file in an archive; None for a file that is none."""
    if content[:4] != b"PK\x03\x04":
        return None
    with zipfile.ZipFile(path) as archive:
        # macOS adds a hidden copy of each file under __MACOSX.
        names = [name for name in archive.namelist() if "__MACOSX" not in name]
        files = [name for name in names if name.lower().endswith(".csv")]
        if len(files) > 1:
            raise UserError(f"{path} must hold one CSV file, and holds {len(files)}")
        return archive.read(files[0]) if files else None


def decode_text(content: bytes, encoding: str, source: str) -> str:
    """The text of these bytes, without a byte order mark in front.

    Args:
        content: The bytes.
        encoding: Any that Python knows by name.
        source: The file, for messages.

    Raises:
        UserError: A byte does not fit, or this is no text at all.
    """
    name = canonical_encoding(encoding)
    file_formats.check_is_text(content, source)
    label, mark = "UTF-8" if name == "utf-8" else encoding, _marked_encoding(content)
    try:
        text = content.decode("utf-8-sig" if name == "utf-8" else name).removeprefix("\ufeff")
    except UnicodeError as error:
        position = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise UserError(
            f"{source} is not {label} text (byte {position}): say what it is, "
            f"{_encoding_hint(content)}"
        ) from error
    # Encodings of one byte a letter take any bytes: a mark or a zero gives them away.
    if (mark and not name.startswith(mark)) or "\0" in text[:4096]:
        raise UserError(f"{source} is not {label} text: say what it is, {_encoding_hint(content)}")
    return text


def _marked_encoding(content: bytes) -> str:
    """The encoding that the first bytes of a file name; '' where they name none."""
    marks = BYTE_ORDER_MARKS.items()
    return next((name for mark, name in marks if content.startswith(mark)), "")


def _is_utf8(content: bytes) -> bool:
    try:
        return bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def canonical_encoding(encoding: str) -> str:
    """Python's name for a text encoding.

    Raises:
        UserError: Python does not know it.
    """
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise UserError(
            f"data.encoding={encoding}: no such encoding. Among others there are: "
            f"{COMMON_ENCODINGS}"
        ) from error
    if not getattr(codec, "_is_text_encoding", True):  # such as base64, which is a codec, too
        raise UserError(
            f"data.encoding={encoding} is no encoding of text. Among others there are: "
            f"{COMMON_ENCODINGS}"
        )
    return codec.name


def _encoding_hint(content: bytes) -> str:
    if mark := _marked_encoding(content):
        return f"data.encoding={mark} by its first bytes"
    if 4 * content[:4096].count(0) > len(content[:4096]):
        return f"data.encoding=utf-16-{'le' if content[1:2] == bytes(1) else 'be'} by its zeros"
    return "such as data.encoding=latin-1 or cp1252"
