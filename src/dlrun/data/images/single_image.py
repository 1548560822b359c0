"""Single photographs as data of one row: the one that is changed, and those that say how."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np

from dlrun.config.annotations import Count
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.types import Kind
from dlrun.data.images.decode import FORMATS, ImageDecodeError, Reading, decode_image

log = logging.getLogger("dlrun")

Source = Literal["official", "sample"]
SAMPLE_HEIGHT = 96  # largest height in pixels with source=sample
MAX_IMAGE_PIXELS = 16_000_000  # of a photograph after resizing
TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
ORIENTATION_TAG = 0x0112
SAMPLE_NOTE = "SYNTHETIC sample: small images, to try things out"


def photograph(*, source: Source, image: str | None, size: Count | None) -> Dataset:
    """One photograph: input `image` uint8 (1, 3, H, W), no target.

    Args:
        source: `sample` makes it small; it then stands before an untrained network.
        image: Its file; None: a photograph of a temple that comes with scikit-learn.
        size: Its height in pixels, the width follows; None: as it is.

    Raises:
        UserError: The file gives no image.
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
    """A photograph and the images whose style it is to take on.

    Inputs `content` and `style`, `style_2`, …, all uint8 (1, 3, H, W); no target.

    Args:
        source: `sample` makes them small; they then stand before an untrained network.
        content: File of the photograph; None: a temple that comes with scikit-learn.
        style: File or files of the styles; None: a flower that comes with scikit-learn.
        size: Height of the content in pixels, the width follows; None: as it is.
        style_size: Height of the styles in pixels; None: the height of the content.

    Raises:
        UserError: A file gives no image, or `style` is empty.
    """
    size = limit_sample_height(source, size)
    columns = {"content": load_single_image("content", content, "china.jpg", size)}
    files = style if isinstance(style, list) else [style]
    if not files:
        raise UserError("style=[]: name one image, or several")
    height = limit_sample_height(source, style_size) or columns["content"].shape[2]
    for number, file in enumerate(files, 1):
        columns["style" if number == 1 else f"style_{number}"] = load_single_image(
            "style", file, "flower.jpg", height
        )
    return _build_dataset(columns, source)


def _build_dataset(columns: dict[str, np.ndarray], source: Source) -> Dataset:
    kinds: dict[str, Kind] = dict.fromkeys(columns, "image")
    is_sample = source == "sample"
    note = SAMPLE_NOTE if is_sample else ""
    return Dataset(dict(columns), kinds, {}, {}, note=note, synthetic=is_sample)


def limit_sample_height(source: Source, size: int | None) -> int | None:
    """Return the height that is asked for, for samples at most SAMPLE_HEIGHT."""
    return min(size or SAMPLE_HEIGHT, SAMPLE_HEIGHT) if source == "sample" else size


def load_single_image(key: str, file: str | None, default: str, height: int | None) -> np.ndarray:
    """Read an image as uint8 (1, 3, H, W).

    Args:
        key: The setting that names the file, for messages.
        file: The file; None for `default`.
        default: Name of a photograph that comes with scikit-learn.
        height: Height in pixels, the width follows; None: as it is.

    Raises:
        UserError: The file gives no image, or one of too many pixels.
    """
    if file is None:
        log.info(
            "%s: %s, which comes with scikit-learn; say %s=FILE for another", key, default, key
        )
    path = find_sklearn_image(default) if file is None else Path(file).expanduser()
    if path.is_dir():
        raise UserError(f"{key}={path}: a folder; name the file of one image")
    size = compute_target_size(key, path, height)
    try:
        return decode_image(path, Reading(size, 3, "stretch"))[None]
    except ImageDecodeError as error:
        raise UserError(f"{key}={path}: {error}") from error


def find_sklearn_image(name: str) -> Path:
    """Return the path of a photograph that comes with scikit-learn."""
    import sklearn.datasets  # type: ignore[import-untyped]

    return Path(sklearn.datasets.__file__).parent / "images" / name


def compute_target_size(key: str, path: Path, height: int | None) -> tuple[int, int]:
    """Return height and width to which a file is resized.

    It is (1, 1) where the file gives no image: decoding it then reports why.

    Args:
        key: The setting that names the file, for messages.
        path: The file.
        height: Height in pixels, the width follows; None: as it is.

    Raises:
        UserError: The result would have more than MAX_IMAGE_PIXELS.
    """
    size = read_image_size(path)
    if size is None:
        return 1, 1
    new_height = height or size[0]
    new_width = max(1, round(size[1] * new_height / size[0]))
    if new_height * new_width > MAX_IMAGE_PIXELS:
        raise UserError(
            f"{key}={path} would be {new_height:,} × {new_width:,} pixels: "
            "say a smaller height, such as data.size=400"
        )
    return new_height, new_width


def read_image_size(path: Path) -> tuple[int, int] | None:
    """Return height and width of an image as it is displayed, without decoding it.

    None where the file gives no image.
    """
    from PIL import Image

    Image.init()
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            transposed = image.getexif().get(ORIENTATION_TAG) in TRANSPOSED_ORIENTATIONS
            return (image.width, image.height) if transposed else (image.height, image.width)
    except Exception:  # every decoder fails in a way of its own
        return None
