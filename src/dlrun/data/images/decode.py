"""Reads one picture file to pixels of a given size; what cannot be read is refused with the reason in words."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlrun.core.errors import UserError

ResizeMode = Literal["stretch", "crop", "pad"]
MAX_PIXELS = 100_000_000  # pixels; more are taken for a decompression bomb
MAX_FILE_BYTES = 1 << 28  # of one file
COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
FORMATS = (*COMMON_FORMATS, "WEBP", "TIFF", "AVIF")
MAGIC_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")  # what Pillow calls pixels that may be transparent


class ImageDecodeError(UserError):
    """A file that gives no picture. Its text is the reason, to stand behind the file's name."""


@dataclass(frozen=True)
class Reading:
    """How files become pixels. size: (height, width). channels: 3, or 1 for grey.

    fit: how a picture of another shape fills the size. stretch changes its proportions, crop fills the size and cuts
    what juts out on both sides, pad shows all of it between black bars.
    """

    size: tuple[int, int]
    channels: int
    fit: ResizeMode


def parse_image_options(size: list[int], channels: int, fit: ResizeMode) -> Reading:
    """What the settings of a dataset ask for. Raises UserError unless size is a height and a width."""
    if len(size) != 2:
        raise UserError(f"data.size={size}: it must be a height and a width, such as [150, 150]")
    return Reading((int(size[0]), int(size[1])), channels, fit)


def decode_image(source: Path | bytes, reading: Reading) -> np.ndarray:
    """A picture file, or its content, as uint8 (channels, height, width).

    It is turned the way its EXIF data say, put on white where it is transparent, and scaled with an antialiasing
    bilinear filter; of several pictures in a file the first counts. Raises Unreadable, for a bomb before it is decoded.
    """
    content = source if isinstance(source, bytes) else read_file_bytes(source)
    if not content:
        raise ImageDecodeError("empty: 0 bytes")
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of sizes that are looked at here, and of EXIF data that nobody needs
            image = _open_image(content, "L" if reading.channels == 1 else "RGB")
            pixels = np.asarray(_resize_image(image, reading), np.uint8)
    except (ImageDecodeError, MemoryError):  # the latter is no fault of the file
        raise
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise ImageDecodeError(_describe_size_limit(int(found[0]) if found else "more")) from error
    except Exception as error:  # every decoder fails in a way of its own
        raise ImageDecodeError(_describe_error(error, content)) from error
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def read_file_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises Unreadable, naming the system's reason, or the size where no picture is so large."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ImageDecodeError(
                f"too large: {size:,} bytes, and {MAX_FILE_BYTES:,} is the limit for one file"
            )
        return path.read_bytes()
    except OSError as error:
        raise ImageDecodeError(f"cannot be opened: {error.strerror or error}") from error


def _open_image(content: bytes, mode: str) -> Any:
    """The picture as it is meant to be seen, in this mode of Pillow's, at its own size."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(content), formats=COMMON_FORMATS)
    except Image.UnidentifiedImageError:
        Image.init()
        image = Image.open(
            io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN]
        )
    if image.width * image.height > MAX_PIXELS:
        raise ImageDecodeError(
            _describe_size_limit(
                image.width * image.height, f" ({image.width:,} × {image.height:,})"
            )
        )
    image.load()
    turned = ImageOps.exif_transpose(image)
    return _remove_alpha(_to_uint8(turned)).convert(mode)


def _describe_size_limit(pixels: int | str, sides: str = "") -> str:
    many = f"{pixels:,}" if isinstance(pixels, int) else pixels
    return f"too large: {many} pixels{sides}, and {MAX_PIXELS:,} is the limit"


def _to_uint8(image: Any) -> Any:
    """A picture of 16 bits a pixel in 8; others as they are. Raises Unreadable where no one knows what is white."""
    from PIL import Image

    if image.mode == "F":
        raise ImageDecodeError("its pixels are fractions, and nothing says which of them is white")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageDecodeError(
            f"its pixels are numbers from {values.min()} to {values.max()}, not of 8 or 16 bits"
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _remove_alpha(image: Any) -> Any:
    from PIL import Image

    if image.mode not in ALPHA_MODES and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _resize_image(image: Any, reading: Reading) -> Any:
    from PIL import Image, ImageOps

    height, width = reading.size
    filtered = Image.Resampling.BILINEAR  # Pillow's averages over all pixels that become one
    if reading.fit == "stretch":
        return image.resize((width, height), filtered)
    if reading.fit == "crop":
        return ImageOps.fit(image, (width, height), filtered)
    scale = min(width / image.width, height / image.height)
    inner = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), filtered
    )
    whole = Image.new(image.mode, (width, height))
    whole.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return whole


def _describe_error(error: Exception, content: bytes) -> str:
    from PIL import Image

    if isinstance(error, Image.UnidentifiedImageError):
        if content.startswith(MAGIC_BYTES):
            return "damaged, or cut off: its head is that of a picture, but not whole"
        return f"no picture in a format that is known: {', '.join(FORMATS)}"
    if "truncated" in str(error):
        return "cut off: the picture ends too early"
    return f"damaged: {error or type(error).__name__}"
