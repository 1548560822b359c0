"""Makes image files for tests: two kinds of shapes, written in any format."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 40, width: int = 60, kind: int = 0) -> np.ndarray:
    """Uint8 (H, W, 3): smooth colors, darker on the left for kind 0 and on the right for others."""
    random = np.random.default_rng(seed)
    slope = np.linspace(40, 200, width)[:: 1 if kind == 0 else -1]
    found = (
        slope[None, :, None]
        + random.integers(-30, 30, (1, 1, 3))
        + random.integers(-9, 10, (height, width, 1))
    )
    return found.clip(0, 255).astype(np.uint8)


def encoded(values: np.ndarray, ending: str = "png", **options) -> bytes:
    """The content of a file with these pixels."""
    stream = io.BytesIO()
    Image.fromarray(values).save(
        stream, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **options
    )
    return stream.getvalue()


def folder(place: Path, classes: dict[str, int], ending: str = "png") -> Path:
    """A folder for each class with so many images, all different."""
    for kind, (name, count) in enumerate(classes.items()):
        (place / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            content = encoded(pixels(1000 * kind + number, kind=kind), ending)
            (place / name / f"{number:03}.{ending}").write_bytes(content)
    return place
