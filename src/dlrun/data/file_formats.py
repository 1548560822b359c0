"""Which files are no text, by their first bytes or the end of their name: what they are, and what to do with them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from dlrun.core.errors import UserError

CSV_HINT = "write it as a CSV file, such as with pandas: read_{}('{{place}}').to_csv('{{place}}.csv', index=False)"
UNPACK_HINT = "unpack it first: {} '{{place}}'"
STREAM_HINT = (
    UNPACK_HINT.replace("{} ", "{} < ") + " > '{{unpacked}}'"
)  # whatever the file is called
SHEET_HINT = "save its sheet as a CSV file, in the program that made it"
OTHER_HINT = "give a CSV or text file"
MAGIC = (
    (b"PAR1", "a Parquet file", CSV_HINT.format("parquet")),
    (b"ARROW1", "an Arrow (Feather) file", CSV_HINT.format("feather")),
    (b"FEA1", "a Feather file", CSV_HINT.format("feather")),
    (b"ORC", "an ORC file", CSV_HINT.format("orc")),
    (b"SQLite format 3\0", "an SQLite database", "write a table of it: sqlite3 -header -csv '{place}' 'select * from "
     "TABLE' > TABLE.csv"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", CSV_HINT.format("hdf")),
    (b"\x1f\x8b", "packed by gzip", STREAM_HINT.format("gunzip")),
    (b"BZh", "packed by bzip2", STREAM_HINT.format("bunzip2")),
    (b"\xfd7zXZ\0", "packed by xz", STREAM_HINT.format("unxz")),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", STREAM_HINT.format("unzstd")),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK_HINT.format("7z x")),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK_HINT.format("unrar x")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (xls, doc)", SHEET_HINT),
    (b"\x93NUMPY", "a NumPy file", "write it as a CSV file: numpy.savetxt, with delimiter=','"),
    (b"\x80\x04\x95", "a Python pickle", CSV_HINT.format("pickle")),
    (b"\x80\x05\x95", "a Python pickle", CSV_HINT.format("pickle")),
    (b"Obj\x01", "an Avro file", OTHER_HINT),
    (b"$FL2", "an SPSS file", CSV_HINT.format("spss")),
    (b"<stata_dta>", "a Stata file", CSV_HINT.format("stata")),
    (b"%PDF-", "a PDF file", OTHER_HINT),
    (b"{\\rtf", "a rich text file", "save it as plain text"),
    (b"\x89PNG", "a picture (PNG)", OTHER_HINT),
    (b"\xff\xd8\xff", "a picture (JPEG)", OTHER_HINT),
    (b"GIF8", "a picture (GIF)", OTHER_HINT),
)  # fmt: skip
ZIP_CONTENTS = (  # of a zip archive, by a name in it
    ("xl/workbook.xml", "an Excel workbook (xlsx)", SHEET_HINT),
    ("xl/workbook.bin", "an Excel workbook (xlsb)", SHEET_HINT),
    ("content.xml", "an OpenDocument file (ods, odt)", SHEET_HINT),
    ("word/document.xml", "a Word file (docx)", "save it as plain text"),
)
SUFFIXES = {
    ".parquet": MAGIC[0], ".feather": MAGIC[1], ".arrow": MAGIC[1], ".orc": MAGIC[3], ".sqlite": MAGIC[4],
    ".db": MAGIC[4], ".h5": MAGIC[5], ".hdf5": MAGIC[5], ".gz": MAGIC[6], ".bz2": MAGIC[7], ".xz": MAGIC[8],
    ".zst": MAGIC[9], ".7z": MAGIC[10], ".rar": MAGIC[11], ".xls": MAGIC[12], ".npy": MAGIC[13], ".pkl": MAGIC[14],
    ".pickle": MAGIC[14], ".sav": MAGIC[17], ".dta": MAGIC[18], ".pdf": MAGIC[19],
    ".xlsx": (b"", "an Excel workbook (xlsx)", SHEET_HINT), ".ods": (b"", "an OpenDocument file (ods)", SHEET_HINT),
}  # fmt: skip
TEXT_SIGNATURES = (b"%PDF-", b"{\\rtf")  # no binary data in all of these
CONTROL_CHARACTERS = bytes(set(range(32)) - {7, 8, 9, 10, 12, 13, 26, 27})


def check_is_text(content: bytes, place: str) -> None:
    """Raise UserError for the content of a file that is no text, naming what it is and what to do."""
    found = _detect_format(content)
    if found is None and is_binary(content):
        found = SUFFIXES.get(
            Path(place).suffix.lower(), (b"", "no text but binary data", OTHER_HINT)
        )[1:]
    if found is not None:
        raise UserError(
            f"{place} is {found[0]}: {found[1].format(place=place, unpacked=_strip_archive_suffix(place))}"
        )


def _strip_archive_suffix(place: str) -> str:
    """What the file is called once it is unpacked."""
    bare, dot, ending = place.rpartition(".")
    return bare if bare and dot and ending.lower() in ("gz", "bz2", "xz", "zst") else f"{place}.csv"


def is_binary(content: bytes) -> bool:
    """Whether bytes are no text in any encoding: control characters among them, and not as UTF-16 has them."""
    some = content[:4096]
    if some[:2] in (b"\xff\xfe", b"\xfe\xff") or some[:4] == b"\0\0\xfe\xff":
        return False
    zeros = [some[first::2].count(0) for first in (0, 1)]
    if 4 * max(zeros) > len(some) and 10 * min(zeros) < max(zeros) + 10:
        return False  # UTF-16 without its mark
    return len(some.translate(None, CONTROL_CHARACTERS)) < len(some)


def _detect_format(content: bytes) -> tuple[str, str] | None:
    if content[:4] == b"PK\x03\x04":
        return _detect_zip_content(content)
    if content[257:262] == b"ustar":
        return "a tar archive", UNPACK_HINT.format("tar xf")
    found = next((one for one in MAGIC if content.startswith(one[0])), None)
    if found is None or (
        found[0].isascii() and found[0] not in TEXT_SIGNATURES and not is_binary(content)
    ):
        return None  # a text may begin with such letters
    return found[1:]


def _detect_zip_content(content: bytes) -> tuple[str, str]:
    try:
        names = set(zipfile.ZipFile(io.BytesIO(content)).namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        names = set()
    for name, what, how in ZIP_CONTENTS:
        if name in names:
            return what, how
    return "a zip archive", UNPACK_HINT.format("unzip")
