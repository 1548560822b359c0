"""The blocks of a report, and how they are written as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.report.result_tables import TextTable


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: Its text.
        tone: '', 'small', 'strong', 'heading', or 'loud' (red, for what must not be overlooked).
    """

    text: str
    # Not a style: each writer decides how a tone looks.
    tone: str = ""


@dataclass(frozen=True)
class BulletList:
    """A list of lines."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Text to be kept letter by letter.

    Attributes:
        text: The text.
        title: Where it has one, the text is folded behind it.
    """

    text: str
    title: str = ""


@dataclass(frozen=True)
class Pairs:
    """Names and their values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ImageBlock:
    """An image.

    Attributes:
        file: The image file.
        about: Its description, for whoever does not see it.
        caption: The text below it.
    """

    file: Path
    about: str
    caption: str = ""


@dataclass(frozen=True)
class ErrorRow:
    """One of the worst errors.

    Attributes:
        row: The number of the row.
        truth: Its true value.
        prediction: What was predicted.
        loss: The loss of the row.
        text: The row as text, or its file.
        cells: Its columns and their values.
        image: The row as an image file.
    """

    row: str
    truth: str
    prediction: str
    loss: str
    text: str = ""
    cells: tuple[tuple[str, str], ...] = ()
    image: Path | None = None


@dataclass(frozen=True)
class Gallery:
    """Several errors, worst first."""

    errors: tuple[ErrorRow, ...]


# A writer has one function for each; see WRITERS in html.py and markdown.py.
Block = Text | BulletList | Code | Pairs | ImageBlock | Gallery | TextTable


@dataclass(frozen=True)
class Section:
    """A section of a report with its heading."""

    title: str
    blocks: tuple[Block, ...]


def make_sections(title: str, blocks: Sequence[Block]) -> list[Section]:
    """A list of one section, or of none where it has no blocks."""
    return [Section(title, tuple(blocks))] if blocks else []


def make_data_notes(notes: Iterable[str], warnings: Collection[str]) -> list[Text]:
    """Remarks on the data; those that are warnings (SYNTHETIC …) are loud."""
    return [Text(note, "loud" if note in warnings else "") for note in notes]


WIDTH = 100


def make_markdown_page(heading: str, sections: Sequence[Section], folder: Path) -> str:
    """The whole text; images stand in it by their file names within `folder`."""
    fragments = [f"# {escape_markdown(heading)}"]
    for section in sections:
        fragments += [f"## {escape_markdown(section.title)}"] if section.title else []
        fragments += [WRITERS[type(block)](block, folder) for block in section.blocks]
    return "\n\n".join(filter(None, fragments)) + "\n"


def escape_markdown(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return (
        # A line break in a name from data would end the heading or table row.
        " ".join(text.split())
        .replace("\\", "\\\\")
        .replace("<", "\\<")
        .replace("`", "\\`")
        .replace("*", "\\*")
    )


def make_markdown_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()
) -> str:
    """A Markdown table whose columns stand under each other."""
    cells = [
        [escape_markdown(cell).replace("|", "\\|") for cell in row] for row in (columns, *rows)
    ]
    # Three dashes at least, as Markdown readers expect under a heading.
    widths = [max(3, *(len(row[index]) for row in cells)) for index in range(len(columns))]
    lines = [
        "-" * (width - 1) + (":" if index in right else "-") for index, width in enumerate(widths)
    ]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, [cells[0], lines, *cells[1:]]))


def _wrap_text(text: str, first_indent: str = "", next_indent: str = "") -> str:
    # A path that is broken cannot be copied.
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(
        text, WIDTH, initial_indent=first_indent, subsequent_indent=next_indent, **options
    )


def _text(block: Text, folder: Path) -> str:
    text = escape_markdown(block.text)
    if block.tone == "heading":
        return f"### {text}"
    return _wrap_text(f"**{text}**" if block.tone in ("strong", "loud") else text)


def _points(block: BulletList, folder: Path) -> str:
    return "\n".join(_wrap_text(escape_markdown(line), "- ", "  ") for line in block.lines)


def _code(block: Code, folder: Path) -> str:
    """The code, indented; code with a title lies in the folder as a file of its own."""
    return "" if block.title else textwrap.indent(block.text, "    ")


def _pairs(block: Pairs, folder: Path) -> str:
    return "\n".join(
        f"- {escape_markdown(name)}: {escape_markdown(value)}" for name, value in block.rows
    )


def _summary(block: TextTable, folder: Path) -> str:
    title = f"**{escape_markdown(block.title)}**" if block.title else ""
    caption = _wrap_text(escape_markdown(block.caption)) if block.caption else ""
    return "\n\n".join(
        filter(None, [title, make_markdown_table(block.columns, block.rows, block.right), caption])
    )


def _image(block: ImageBlock, folder: Path) -> str:
    return _wrap_text(
        f"Image {_relative_name(block.file, folder)}: "
        f"{escape_markdown(block.caption or block.about)}"
    )


def _gallery(block: Gallery, folder: Path) -> str:
    return "\n".join(_error_row(error, folder) for error in block.errors)


def _error_row(error: ErrorRow, folder: Path) -> str:
    verdict = f"true {error.truth}, predicted {error.prediction}"
    summary = f"row {error.row}: {verdict}, loss {error.loss}"
    image = f"image {_relative_name(error.image, folder)}" if error.image else ""
    cells = ", ".join(f"{name} {value}" for name, value in error.cells)
    details = (
        _wrap_text(escape_markdown(text), "  ", "  ") for text in (image, error.text, cells) if text
    )
    return "\n".join([_wrap_text(escape_markdown(summary), "- ", "  "), *details])


def _relative_name(file: Path, folder: Path) -> str:
    # Forward slashes on every system.
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


WRITERS: dict[type[Block], Callable[[Any, Path], str]] = {
    Text: _text,
    BulletList: _points,
    Code: _code,
    Pairs: _pairs,
    ImageBlock: _image,
    Gallery: _gallery,
    TextTable: _summary,
}
