"""The blocks of a report, from which both HTML and plain text are written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
