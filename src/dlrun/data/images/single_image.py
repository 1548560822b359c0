"""Single photographs as data of one row: the one that is changed, and those that say how."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.config.constraints import Count
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.images.decode import FORMATS, ImageDecodeError, Reading, decode_image

log = logging.getLogger("dlrun")

Source = Literal["official", "sample"]
SAMPLE_HEIGHT = 96  # pixels that a photograph is high at most where all is made up
MAX_IMAGE_PIXELS = 16_000_000  # pixels of a photograph as it is worked on
TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations in which height and width change places
ORIENTATION_TAG = 0x0112
SAMPLE_NOTE = "SYNTHETIC sample: small pictures, to try things out"


def photograph(*, source: Source, image: str | None, size: Count | None) -> Dataset:
    """One photograph: input `image` uint8 (1, 3, H, W), no target.

    image: its file; null: a photograph of a temple that comes with scikit-learn. size: its height in pixels, the width
    follows; null: as it is. source: with sample it is small, and stands before a network that has not been trained.
    Raises UserError for a file that gives no picture.
    """
    size = limit_sample_height(source, size)
    return _build_dataset({"image": load_single_image("image", image, "china.jpg", size)}, source)


def content_style(
    *,
    source: Source,
    content: str | None,
    style: str | list[str] | None,
    size: Count | None,
    style_size: Count | None,
) -> Dataset:
    """A photograph, input `content`, and what it is to look like, inputs `style`, `style_2`, …; all (1, 3, H, W).

    content, style: their files; null: a temple and a flower that come with scikit-learn. size, style_size: heights in
    pixels, widths follow; null: as it is for the content, and for styles the height of the content. Raises UserError.
    """
    size = limit_sample_height(source, size)
    found = {"content": load_single_image("content", content, "china.jpg", size)}
    files = style if isinstance(style, list) else [style]
    if not files:
        raise UserError("style=[]: name one picture, or several")
    height = limit_sample_height(source, style_size) or found["content"].shape[2]
    for number, file in enumerate(files, 1):
        found["style" if number == 1 else f"style_{number}"] = load_single_image(
            "style", file, "flower.jpg", height
        )
    return _build_dataset(found, source)


def _build_dataset(columns: dict[str, np.ndarray], source: Source) -> Dataset:
    kinds: dict[str, Kind] = dict.fromkeys(columns, "image")
    return Dataset(dict(columns), kinds, {}, {}, note=SAMPLE_NOTE if source == "sample" else "")


def limit_sample_height(source: Source, size: int | None) -> int | None:
    """The height that is asked for, but no more than a little where all is made up."""
    return min(size or SAMPLE_HEIGHT, SAMPLE_HEIGHT) if source == "sample" else size


def load_single_image(word: str, file: str | None, usual: str, height: int | None) -> np.ndarray:
    """A picture as uint8 (1, 3, H, W). word: how it was asked for. usual: scikit-learn's own that stands for none.

    Raises UserError where the file gives no picture, or one of an absurd shape.
    """
    if file is None:
        log.info(
            "%s: %s, which comes with scikit-learn; say %s=FILE for another", word, usual, word
        )
    path = find_sklearn_image(usual) if file is None else Path(file).expanduser()
    if path.is_dir():
        raise UserError(f"{word}={path}: a folder; name the file of one picture")
    size = compute_target_size(word, path, height)
    try:
        return decode_image(path, Reading(size, 3, "stretch"))[None]
    except ImageDecodeError as error:
        raise UserError(f"{word}={path}: {error}") from error


def find_sklearn_image(name: str) -> Path:
    """Where scikit-learn keeps a photograph."""
    import sklearn.datasets  # type: ignore[import-untyped]

    return Path(sklearn.datasets.__file__).parent / "images" / name


def compute_target_size(word: str, path: Path, height: int | None) -> tuple[int, int]:
    """Height and width at which a file is read; (1, 1) where it gives none, which whoever reads it will tell.

    Raises UserError for more pixels than can be worked on.
    """
    sides = read_image_size(path)
    if sides is None:
        return 1, 1
    tall = height or sides[0]
    wide = max(1, round(sides[1] * tall / sides[0]))
    if tall * wide > MAX_IMAGE_PIXELS:
        raise UserError(
            f"{word}={path} would be {tall:,} × {wide:,} pixels: say a smaller height, such as data.size=400"
        )
    return tall, wide


def read_image_size(path: Path) -> tuple[int, int] | None:
    """Height and width of a picture as it is meant to be seen, from the head of its file; None where it has none."""
    from PIL import Image

    Image.init()
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as found:
            turned = found.getexif().get(ORIENTATION_TAG) in TRANSPOSED_ORIENTATIONS
            return (found.width, found.height) if turned else (found.height, found.width)
    except Exception:  # every decoder fails in a way of its own
        return None
