"""Reports what a run has generated: texts and images, after its epochs and later."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dlrun.report.blocks import Block, Code, ImageBlock, Section, Text, make_sections

MAX_EPOCHS = 4  # epochs that are shown of each kind, the last one among them
EPOCH_PATTERN = re.compile(r"(.+)-epoch-(\d+)(?:-\d+)?$")
FILE_TYPES = (".png", ".gif", ".jpg", ".txt")


def make_sample_sections(folder: Path) -> list[Section]:
    """'Samples', made after epochs, and 'Generated', made by `dlrun generate`."""
    directory = folder / "samples"
    jobs = (
        sorted({file.parent for file in directory.rglob("*") if file.suffix in FILE_TYPES})
        if directory.is_dir()
        else []
    )
    samples: list[Block] = []
    for job in jobs:
        samples += [Text(job.name, "heading")] if len(jobs) > 1 else []
        samples += [block for file in select_sample_files(job) for block in make_file_blocks(file)]
    generated = [
        block
        for file in list_sample_files(folder / "generated")
        for block in make_file_blocks(file)
    ]
    return [*make_sections("Samples", samples), *make_sections("Generated", generated)]


def list_sample_files(directory: Path) -> list[Path]:
    """The files that can be shown, in the order of their numbers: grid-2 before grid-10."""
    # grid-10 sorts before grid-2 as text.
    by_number = lambda file: [  # noqa: E731
        int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", file.name)
    ]
    return sorted(
        (file for file in directory.glob("*") if file.suffix in FILE_TYPES), key=by_number
    )


def select_sample_files(job: Path) -> list[Path]:
    """The files of a few epochs of each kind, the last epoch first; then those of no epoch."""
    kinds: dict[str, dict[int, list[Path]]] = {}
    unnumbered: list[Path] = []
    for file in list_sample_files(job):
        if match := EPOCH_PATTERN.match(file.stem):
            kinds.setdefault(match[1], {}).setdefault(int(match[2]), []).append(file)
        else:
            unnumbered.append(file)
    return [
        file
        for epochs in kinds.values()
        for epoch in select_epochs(sorted(epochs))
        for file in epochs[epoch]
    ] + unnumbered


def select_epochs(epochs: list[int]) -> Iterable[int]:
    """At most MAX_EPOCHS of these, evenly spread, with the last and the first, latest first."""
    steps = max(1, min(MAX_EPOCHS, len(epochs)) - 1)
    indices = {round(step * (len(epochs) - 1) / steps) for step in range(steps + 1)}
    return [epochs[step] for step in sorted(indices, reverse=True)]


def make_file_blocks(file: Path) -> list[Block]:
    """A file with its title and its description."""
    match = EPOCH_PATTERN.match(file.stem)
    title = f"{match[1]} after epoch {int(match[2])}" if match else file.stem
    if file.suffix == ".txt":
        return [Text(title, "small"), Code(file.read_text(encoding="utf-8", errors="replace"))]
    return [ImageBlock(file, title, ": ".join(filter(None, (title, read_image_description(file)))))]


def read_image_description(file: Path) -> str:
    """The description that is stored in an image file."""
    from PIL import Image

    with Image.open(file) as opened:
        return str(opened.info.get("Description", ""))
