"""Decodes one image file to pixels of a given size, or says why that is impossible."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlrun.core.errors import UserError

# Pillow warns of large sizes, which are checked here, and of EXIF data nobody needs. Set once:
# `warnings.catch_warnings` would change the filters of other threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

ResizeMode = Literal["stretch", "crop", "pad"]
MAX_PIXELS = 100_000_000  # more are taken for a decompression bomb
MAX_FILE_BYTES = 1 << 28
# Pillow looks for these first: loading the plugins of all formats takes a noticeable time.
COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
FORMATS = (*COMMON_FORMATS, "WEBP", "TIFF", "AVIF")
# How files of these formats begin: tells a damaged image from a file that never was one.
MAGIC_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")  # Pillow's modes with transparency


class ImageDecodeError(UserError):
    """A file cannot be decoded as an image; its text is the reason, to follow the file's name."""


@dataclass(frozen=True)
class Reading:
    """How files become pixels.

    Attributes:
        size: Height and width in pixels.
        channels: 3 (RGB), or 1 (grayscale).
        fit: How an image of another aspect ratio fills the size: `stretch` changes its
            proportions, `crop` fills the size and cuts off both sides, `pad` adds black bars.
    """

    # The names of this class and its fields are part of cache keys and of the fingerprints in
    # run folders, through its repr: renaming one makes stored fingerprints differ.
    size: tuple[int, int]
    channels: int
    fit: ResizeMode


def parse_image_options(size: list[int], channels: int, fit: ResizeMode) -> Reading:
    """Return the decoding options that a dataset's settings ask for.

    Args:
        size: Height and width in pixels.
        channels: 3 (RGB), or 1 (grayscale).
        fit: How images of another aspect ratio fill the size, see `Reading`.

    Raises:
        UserError: `size` is not a height and a width.
    """
    if len(size) != 2:
        raise UserError(f"data.size={size}: it must be a height and a width, such as [150, 150]")
    return Reading((int(size[0]), int(size[1])), channels, fit)


def decode_image(source: Path | bytes, reading: Reading) -> np.ndarray:
    """Decode an image file to uint8 pixels (channels, height, width).

    It is turned as its EXIF orientation says, put on white where it is transparent, and scaled
    with an antialiasing bilinear filter. Of several images in a file the first counts.

    Args:
        source: The path of the file, or its content.
        reading: Size, channels and fit of the result.

    Raises:
        ImageDecodeError: The file gives no image, or is a decompression bomb (tested before it
            is decoded).
    """
    content = source if isinstance(source, bytes) else read_file_bytes(source)
    if not content:
        raise ImageDecodeError("empty: 0 bytes")
    from PIL import Image

    try:
        image = _open_image(content, "L" if reading.channels == 1 else "RGB")
        pixels = np.asarray(_resize_image(image, reading), np.uint8)
    except (ImageDecodeError, MemoryError):  # the latter is no fault of the file
        raise
    except Image.DecompressionBombError as error:
        match = re.search(r"\d+", str(error))
        raise ImageDecodeError(_describe_size_limit(int(match[0]) if match else "more")) from error
    except Exception as error:  # every decoder fails in a way of its own
        raise ImageDecodeError(_describe_error(error, content)) from error
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def read_file_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        ImageDecodeError: The system cannot open it (with its reason), or it is too large.
    """
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
    """Return the image as it is meant to be seen, in this mode of Pillow's, at its own size."""
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
    ImageOps.exif_transpose(image, in_place=True)  # without a copy, unless it has to be turned
    return _remove_alpha(_to_uint8(image)).convert(mode)


def _describe_size_limit(pixels: int | str, sides: str = "") -> str:
    count = f"{pixels:,}" if isinstance(pixels, int) else pixels
    return f"too large: {count} pixels{sides}, and {MAX_PIXELS:,} is the limit"


def _to_uint8(image: Any) -> Any:
    """Convert 16 bits a pixel to 8; raise ImageDecodeError where the value of white is unknown."""
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
    # 257 = 65535 / 255, rounded to the nearest: both ends of the range are kept exactly.
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
    bilinear = Image.Resampling.BILINEAR  # Pillow's averages over all pixels that become one
    if reading.fit == "stretch":
        return image.resize((width, height), bilinear)
    if reading.fit == "crop":
        return ImageOps.fit(image, (width, height), bilinear)
    scale = min(width / image.width, height / image.height)
    inner = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), bilinear
    )
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return canvas


def _describe_error(error: Exception, content: bytes) -> str:
    # These texts are stored with predictions, as the reason why a file was skipped, and earlier
    # runs hold them: they must not change.
    from PIL import Image

    if isinstance(error, Image.UnidentifiedImageError):
        if content.startswith(MAGIC_BYTES):
            return "damaged, or cut off: its head is that of an image, but not whole"
        return f"no image in a format that is known: {', '.join(FORMATS)}"
    if "truncated" in str(error):
        return "cut off: the image ends too early"
    return f"damaged: {error or type(error).__name__}"
