"""What a report is made of, before anyone decides whether it becomes HTML or plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlrun.report.result_tables import TextTable


@dataclass(frozen=True)
class Text:
    """A paragraph. tone: '' · 'small' · 'strong' · 'heading' · 'loud' (red, for what must not be overlooked)."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class BulletList:
    """A list of lines."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Text to be kept letter by letter; behind its title, where it has one."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Pairs:
    """Names and their values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ImageBlock:
    """An image file with a sentence that says what is to be seen in it."""

    file: Path
    about: str
    caption: str = ""


@dataclass(frozen=True)
class ErrorRow:
    """One of the worst errors: what was true, what was answered, and the row as a person sees it."""

    row: str
    truth: str
    prediction: str
    loss: str
    text: str = ""
    cells: tuple[tuple[str, str], ...] = ()
    image: Path | None = None


@dataclass(frozen=True)
class Gallery:
    """Several mistakes, worst first."""

    errors: tuple[ErrorRow, ...]


Block = Text | BulletList | Code | Pairs | ImageBlock | Gallery | TextTable


@dataclass(frozen=True)
class Section:
    """A part of a report with its heading; `inner` ones are told under another section."""

    title: str
    blocks: tuple[Block, ...]


def make_sections(title: str, blocks: Sequence[Block]) -> list[Section]:
    """A list of one section, or of none where there is nothing to tell."""
    return [Section(title, tuple(blocks))] if blocks else []


def make_data_note(text: str) -> Text:
    """A remark on the data: loud where they are made up."""
    return Text(text, "loud" if "SYNTHETIC" in text else "")
