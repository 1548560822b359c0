"""Decodes text files in any encoding, and recognizes files that are no text."""

from __future__ import annotations

import codecs
import io
import logging
import zipfile
from pathlib import Path
from typing import NamedTuple

from dlrun.core.errors import UserError

CSV_HINT = (
    "write it as a CSV file, such as with pandas: "
    "read_{}('{{place}}').to_csv('{{place}}.csv', index=False)"
)
UNPACK_HINT = "unpack it first: {} '{{place}}'"
# From standard input: these programs refuse files without their own suffix.
STREAM_HINT = UNPACK_HINT.replace("{} ", "{} < ") + " > '{{unpacked}}'"
SHEET_HINT = "save its sheet as a CSV file, in the program that made it"
OTHER_HINT = "give a CSV or text file"
NUMPY_HINT = "write it as a CSV file: numpy.savetxt, with delimiter=','"
SQLITE_HINT = (
    "write a table of it: sqlite3 -header -csv '{place}' 'select * from TABLE' > TABLE.csv"
)


class FileFormat(NamedTuple):
    """A format that is no text.

    Attributes:
        magic: Its first bytes.
        description: What it is, after "FILE is".
        hint: What to do, with the fields {place} and {unpacked}.
        suffixes: Suffixes of its names, for a file whose first bytes are not these.
    """

    magic: bytes
    description: str
    hint: str
    suffixes: tuple[str, ...] = ()


FORMATS = (
    FileFormat(b"PAR1", "a Parquet file", CSV_HINT.format("parquet"), (".parquet",)),
    FileFormat(
        b"ARROW1", "an Arrow (Feather) file", CSV_HINT.format("feather"), (".feather", ".arrow")
    ),
    FileFormat(b"FEA1", "a Feather file", CSV_HINT.format("feather")),
    FileFormat(b"ORC", "an ORC file", CSV_HINT.format("orc"), (".orc",)),
    FileFormat(b"SQLite format 3\0", "an SQLite database", SQLITE_HINT, (".sqlite", ".db")),
    FileFormat(b"\x89HDF\r\n\x1a\n", "an HDF5 file", CSV_HINT.format("hdf"), (".h5", ".hdf5")),
    FileFormat(b"\x1f\x8b", "packed by gzip", STREAM_HINT.format("gunzip"), (".gz",)),
    FileFormat(b"BZh", "packed by bzip2", STREAM_HINT.format("bunzip2"), (".bz2",)),
    FileFormat(b"\xfd7zXZ\0", "packed by xz", STREAM_HINT.format("unxz"), (".xz",)),
    FileFormat(b"\x28\xb5\x2f\xfd", "packed by zstd", STREAM_HINT.format("unzstd"), (".zst",)),
    FileFormat(b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK_HINT.format("7z x"), (".7z",)),
    FileFormat(b"Rar!\x1a\x07", "a RAR archive", UNPACK_HINT.format("unrar x"), (".rar",)),
    FileFormat(
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Office file (xls, doc)",
        SHEET_HINT,
        (".xls",),
    ),
    FileFormat(b"\x93NUMPY", "a NumPy file", NUMPY_HINT, (".npy",)),
    FileFormat(b"\x80\x04\x95", "a Python pickle", CSV_HINT.format("pickle"), (".pkl", ".pickle")),
    FileFormat(b"\x80\x05\x95", "a Python pickle", CSV_HINT.format("pickle")),
    FileFormat(b"Obj\x01", "an Avro file", OTHER_HINT),
    FileFormat(b"$FL2", "an SPSS file", CSV_HINT.format("spss"), (".sav",)),
    FileFormat(b"<stata_dta>", "a Stata file", CSV_HINT.format("stata"), (".dta",)),
    FileFormat(b"%PDF-", "a PDF file", OTHER_HINT, (".pdf",)),
    FileFormat(b"{\\rtf", "a rich text file", "save it as plain text"),
    FileFormat(b"\x89PNG", "an image (PNG)", OTHER_HINT),
    FileFormat(b"\xff\xd8\xff", "an image (JPEG)", OTHER_HINT),
    FileFormat(b"GIF8", "an image (GIF)", OTHER_HINT),
)
# Formats inside a zip archive, by the name of a file in it.
ZIP_CONTENTS = (
    ("xl/workbook.xml", "an Excel workbook (xlsx)", SHEET_HINT),
    ("xl/workbook.bin", "an Excel workbook (xlsb)", SHEET_HINT),
    ("content.xml", "an OpenDocument file (ods, odt)", SHEET_HINT),
    ("word/document.xml", "a Word file (docx)", "save it as plain text"),
)
SUFFIXES = {
    **{suffix: (form.description, form.hint) for form in FORMATS for suffix in form.suffixes},
    ".xlsx": ("an Excel workbook (xlsx)", SHEET_HINT),
    ".ods": ("an OpenDocument file (ods)", SHEET_HINT),
}
TEXT_SIGNATURES = (b"%PDF-", b"{\\rtf")  # of formats that may hold no binary data
CONTROL_CHARACTERS = bytes(set(range(32)) - {7, 8, 9, 10, 12, 13, 26, 27})


def check_is_text(content: bytes, source: str) -> None:
    """Raise UserError for content that is no text, with what it is and what to do.

    Args:
        content: The file's content.
        source: The file, for the message.
    """
    detected = _detect_format(content)
    if detected is None and is_binary(content):
        unknown = ("no text but binary data", OTHER_HINT)
        detected = SUFFIXES.get(Path(source).suffix.lower(), unknown)
    if detected is not None:
        description, hint = detected
        advice = hint.format(place=source, unpacked=_strip_archive_suffix(source))
        raise UserError(f"{source} is {description}: {advice}")


def _strip_archive_suffix(name: str) -> str:
    """The name of a file once it is unpacked."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and dot and suffix.lower() in ("gz", "bz2", "xz", "zst") else f"{name}.csv"


def is_binary(content: bytes) -> bool:
    """Whether bytes are no text in any encoding: they have control characters, not as UTF-16."""
    sample = content[:4096]
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff") or sample[:4] == b"\0\0\xfe\xff":
        return False
    # UTF-16 without its mark: every other byte of Latin text is zero.
    zeros = [sample[offset::2].count(0) for offset in (0, 1)]
    if 4 * max(zeros) > len(sample) and 10 * min(zeros) < max(zeros) + 10:
        return False
    return len(sample.translate(None, CONTROL_CHARACTERS)) < len(sample)


def _detect_format(content: bytes) -> tuple[str, str] | None:
    """What a file is, and what to do with it; None for a text, or an unknown format."""
    if content[:4] == b"PK\x03\x04":
        return _detect_zip_content(content)
    if content[257:262] == b"ustar":
        return "a tar archive", UNPACK_HINT.format("tar xf")
    form = next((form for form in FORMATS if content.startswith(form.magic)), None)
    if form is None:
        return None
    # A text may begin with letters such as ORC or BZh.
    could_be_text = form.magic.isascii() and form.magic not in TEXT_SIGNATURES
    if could_be_text and not is_binary(content):
        return None
    return form.description, form.hint


def _detect_zip_content(content: bytes) -> tuple[str, str]:
    try:
        names = set(zipfile.ZipFile(io.BytesIO(content)).namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        names = set()
    for name, description, hint in ZIP_CONTENTS:
        if name in names:
            return description, hint
    return "a zip archive", UNPACK_HINT.format("unzip")


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
    check_is_text(content, source)
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
