"""Tells of what a run has made: texts and pictures after its epochs, and those that were asked for later."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dlrun.report.blocks import Block, Code, ImageBlock, Section, Text, make_sections

MAX_EPOCHS = 4  # epochs that are shown of each kind, the last one among them
EPOCH_PATTERN = re.compile(r"(.+)-epoch-(\d+)(?:-\d+)?$")
FILE_TYPES = (".png", ".gif", ".jpg", ".txt")


def make_sample_sections(folder: Path) -> list[Section]:
    """'Samples' of what was made after epochs, 'Generated' of what `dlrun generate` has made."""
    place = folder / "samples"
    jobs = (
        sorted({file.parent for file in place.rglob("*") if file.suffix in FILE_TYPES})
        if place.is_dir()
        else []
    )
    samples: list[Block] = []
    for job in jobs:
        samples += [Text(job.name, "heading")] if len(jobs) > 1 else []
        samples += [block for file in select_sample_files(job) for block in make_file_blocks(file)]
    made = [
        block
        for file in list_sample_files(folder / "generated")
        for block in make_file_blocks(file)
    ]
    return [*make_sections("Samples", samples), *make_sections("Generated", made)]


def list_sample_files(place: Path) -> list[Path]:
    """What can be shown, in the order of its numbers: grid-2 before grid-10."""
    by_number = lambda file: [  # noqa: E731
        int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)
    ]
    return sorted((file for file in place.glob("*") if file.suffix in FILE_TYPES), key=by_number)


def select_sample_files(job: Path) -> list[Path]:
    """Of each kind the files of a few epochs, evenly spread, the last one first; then those of no epoch."""
    kinds: dict[str, dict[int, list[Path]]] = {}
    others: list[Path] = []
    for file in list_sample_files(job):
        if match := EPOCH_PATTERN.match(file.stem):
            kinds.setdefault(match[1], {}).setdefault(int(match[2]), []).append(file)
        else:
            others.append(file)
    return [
        file
        for epochs in kinds.values()
        for epoch in select_epochs(sorted(epochs))
        for file in epochs[epoch]
    ] + others


def select_epochs(epochs: list[int]) -> Iterable[int]:
    """At most KEPT of these, the last and the first among them, latest first."""
    steps = max(1, min(MAX_EPOCHS, len(epochs)) - 1)
    places = {round(place * (len(epochs) - 1) / steps) for place in range(steps + 1)}
    return [epochs[place] for place in sorted(places, reverse=True)]


def make_file_blocks(file: Path) -> list[Block]:
    """A file with what it is about."""
    match = EPOCH_PATTERN.match(file.stem)
    title = f"{match[1]} after epoch {int(match[2])}" if match else file.stem
    if file.suffix == ".txt":
        return [Text(title, "small"), Code(file.read_text(encoding="utf-8", errors="replace"))]
    return [ImageBlock(file, title, ": ".join(filter(None, (title, read_image_description(file)))))]


def read_image_description(file: Path) -> str:
    """What the picture's own text says of it."""
    from PIL import Image

    with Image.open(file) as opened:
        return str(opened.info.get("Description", ""))
