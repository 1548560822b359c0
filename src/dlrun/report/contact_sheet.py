"""Draws a contact sheet: rows of images, the first of each row with its class."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.report.plotting import save_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes


IMAGE_SIZE = 1.15  # inches of an image
MAX_CAPTION_LENGTH = 17  # letters of a line above or below it


@dataclass(frozen=True)
class ImageRow:
    """One row of a contact sheet.

    Attributes:
        title: What stands above its first image.
        images: Images (H, W) or (H, W, 3), uint8.
        captions: What stands below each; [] for nothing.
    """

    title: str
    pictures: list[np.ndarray]
    captions: list[str] = field(default_factory=list)


def draw_image_table(
    rows: list[ImageRow], title: str, config: dict[str, Any], warning: str, file: Path
) -> Path:
    """Write the sheet; `warning` stands in its heading."""
    columns = max(len(row.pictures) for row in rows)
    tallest = max(row.pictures[0].shape[0] / row.pictures[0].shape[1] for row in rows)
    text_height = 0.36 if any(any(row.captions) for row in rows) else 0.18
    height = 0.6 + len(rows) * (IMAGE_SIZE * tallest + text_height)
    heading = {"task": config["task"]}
    with save_figure(
        file, title, heading, warning, height=height, width=columns * IMAGE_SIZE
    ) as figure:
        panels = figure.subplots(len(rows), columns, squeeze=False)
        for row, row_panels in zip(rows, panels, strict=True):
            captions = row.captions or [""] * len(row.pictures)
            for panel in row_panels:
                panel.set_axis_off()
            for panel, image, caption in zip(row_panels, row.pictures, captions, strict=False):
                draw_image(panel, image, caption)
            row_panels[0].set_title(
                textwrap.shorten(row.title, MAX_CAPTION_LENGTH, placeholder="…"), fontsize=9, pad=2
            )
    return file


def draw_image(panel: Axes, image: np.ndarray, caption: str) -> None:
    """Draw an image with its pixels as they are, and a few words below it."""
    panel.imshow(
        image,
        cmap="gray",
        vmin=0,
        vmax=255,
        # Small images show their pixels; larger ones would get stripes.
        interpolation="nearest" if max(image.shape) < 64 else None,
    )
    text = "\n".join(textwrap.wrap(caption, MAX_CAPTION_LENGTH)[:2])
    panel.text(0.5, -0.04, text, transform=panel.transAxes, ha="center", va="top", fontsize=7)
