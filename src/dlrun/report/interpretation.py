"""Draws activations, heatmaps, saliency and filters, and lists them for a report."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.report import result_tables
from dlrun.report.blocks import Block, ImageBlock, Section, Text, make_sections
from dlrun.report.plotting import LETTERS_PER_INCH, WIDTH, save_figure

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


COLUMNS = 16  # of a grid (book §5.4)
DPI = 200
MIN_WIDTH = 720  # pixels that a grid is wide at least
WHITE, GAP_COLOR = (255, 255, 255), (205, 222, 238)  # between cells
DESCRIPTIONS = {
    "activations": (
        "Activations",
        "The activations of layers for an image. First layers show edges; deeper ones are more "
        "abstract, and more of their channels are silent.",
    ),
    "heatmap": (
        "Class-activation heatmaps",
        "The regions of an image that speak for a class (Grad-CAM): the warmer, the more.",
    ),
    "saliency": (
        "Saliency",
        "Which pixels the prediction depends on: the brighter, the more it changes with them.",
    ),
    "filters": (
        "Filter patterns",
        "Images that excite one filter each, found by gradient ascent on the pixels.",
    ),
    "weights": ("Weights", "The kernels of the first layer; mid-gray is zero."),
}
name_of = result_tables.get_model_name


def list_images(folder: Path) -> list[dict[str, str]]:
    """The images of `dlrun visualize` in a run folder that exist: file, kind, layer and caption."""
    run = RunFolder(folder)
    entries, images = run.read_json(RunFile.VISUALIZED_LIST) or [], run.path(RunFile.VISUALIZED)
    # The name alone: a path in pictures.json could lead out of the run folder.
    with_paths = [{**entry, "file": Path(entry["file"]).name} for entry in entries]
    return [
        entry
        for entry in with_paths
        # A newer dlrun may have drawn kinds that this one does not know.
        if entry["kind"] in DESCRIPTIONS and (images / entry["file"]).is_file()
    ]


def make_visualization_sections(folder: Path) -> list[Section]:
    """The images of `dlrun visualize`, kind by kind, where there are any."""
    blocks: list[Block] = []
    entries, images = list_images(folder), RunFolder(folder).path(RunFile.VISUALIZED)
    for kind, (title, description) in DESCRIPTIONS.items():
        matching = [entry for entry in entries if entry["kind"] == kind]
        if matching:
            blocks += [Text(title, "heading"), Text(description)]
        for entry in matching:
            blocks.append(ImageBlock(images / entry["file"], entry["caption"], entry["caption"]))
    return make_sections("A look inside", blocks)


def to_uint8(image: Tensor) -> np.ndarray:
    """An image (C, H, W) from 0 to 1 as uint8: (H, W, 3), or (H, W) of other channels."""
    from dlrun.data.display import to_display_image as shown

    scaled = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return shown(scaled)


def tile_images(cells: np.ndarray, columns: int, gap_color: tuple[int, int, int]) -> np.ndarray:
    """Lay images beside each other in rows.

    Args:
        cells: (N, height, width, 3), uint8.
        columns: Images in a row.
        gap_color: The color between them; the gap is a twelfth of an image wide.

    Returns:
        The sheet (height, width, 3), uint8.
    """
    import numpy as np

    count, height, width, _ = cells.shape
    gap = max(1, width // 12)
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), gap_color, np.uint8
    )
    for index, cell in enumerate(cells):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def apply_color_map(cells: np.ndarray, name: str) -> np.ndarray:
    """Images as colors (N, height, width, 3), uint8.

    Args:
        cells: (N, 3, height, width), which are colors; (N, C, height, width), of which the mean
            channel is taken; or (N, height, width).
        name: The color map of values that are no colors.
    """
    from matplotlib import colormaps

    if cells.ndim == 4 and cells.shape[1] == 3:
        return cells.transpose(0, 2, 3, 1)
    flat = cells if cells.ndim == 3 else cells.mean(1).round().astype(cells.dtype)
    colors: np.ndarray = (colormaps[name](flat)[..., :3] * 255).round().astype("uint8")
    return colors


def draw_grid(
    cells: np.ndarray,
    title: str,
    file: Path,
    config: dict[str, Any],
    warning: str,
    *,
    columns: int = COLUMNS,
) -> None:
    """Draw uint8 images (N, height, width) in viridis, or (N, C, height, width) in color or gray.

    A pixel of the sheet is one of the file: resampled, fine stripes would make patterns that are
    not there.
    """
    # Few cells still need room for the heading.
    columns = max(4, min(columns, len(cells)))
    # Between gray images a gap of white would be taken for pixels.
    color_map, gap_color = ("viridis", WHITE) if cells.ndim == 3 else ("gray", GAP_COLOR)
    sheet = resize_grid(tile_images(apply_color_map(cells, color_map), columns, gap_color))
    grid_height = WIDTH * sheet.shape[0] / sheet.shape[1]
    heading_height = get_heading_height(title, config, warning)
    dpi = round(sheet.shape[1] / WIDTH)
    with save_figure(
        file, title, config, warning, height=grid_height + heading_height, width=WIDTH, dpi=dpi
    ) as figure:
        # The constrained layout would resize the panel, and a pixel no longer be a pixel.
        figure.set_layout_engine("none")
        panel = figure.add_axes(
            (0, 0, sheet.shape[1] / dpi / WIDTH, grid_height / (grid_height + heading_height))
        )
        panel.imshow(sheet, interpolation="nearest", aspect="auto")
        panel.set_axis_off()


def resize_grid(sheet: np.ndarray) -> np.ndarray:
    """The sheet scaled by a whole number, to a width between MIN_WIDTH and twice as much."""
    from PIL import Image

    width = sheet.shape[1]
    if width < MIN_WIDTH:
        scale = -(-MIN_WIDTH // width)
        return sheet.repeat(scale, 0).repeat(scale, 1)
    import numpy as np

    return np.asarray(Image.fromarray(sheet).reduce(max(1, width // MIN_WIDTH)))


def draw_heatmap(
    image: np.ndarray,
    warmth: np.ndarray,
    label: str,
    file: Path,
    config: dict[str, Any],
    warning: str,
) -> None:
    """Draw the image, its heatmap, and one over the other."""
    panels = {
        "the image": (image, None),
        f"what speaks for {label}": (warmth, None),
        "both": (image, warmth),
    }
    _draw_images(panels, f"Where {label} is seen", "jet", file, config, warning)


def draw_saliency(
    image: np.ndarray,
    saliency: np.ndarray,
    label: str,
    file: Path,
    config: dict[str, Any],
    warning: str,
) -> None:
    """Draw the image, and how much each of its pixels matters."""
    import numpy as np

    # 1e-12: where no pixel matters, nothing is divided by zero.
    bright = max(float(np.quantile(saliency, 0.995)), 1e-12)  # a few pixels outshine the rest
    panels = {
        "the image": (image, None),
        "pixels that matter": ((saliency / bright).clip(0, 1), None),
    }
    _draw_images(panels, f"Saliency of {label}", "inferno", file, config, warning)


def get_heading_height(title: str, config: dict[str, Any], warning: str) -> float:
    """The height of the heading in inches, as `save_figure` writes it."""
    text = f"{title}: {result_tables.get_run_title(config)}"
    return 0.15 + 0.21 * (len(textwrap.wrap(text, round(WIDTH * LETTERS_PER_INCH))) + bool(warning))


def _draw_images(
    panels: dict[str, Any],
    title: str,
    color_map: str,
    file: Path,
    config: dict[str, Any],
    warning: str,
) -> None:
    """Draw images (uint8) and values from 0 to 1 in a row; overlays lie over their base."""
    shape = next(iter(panels.values()))[0].shape
    height = (
        WIDTH / len(panels) * shape[0] / shape[1]
        + get_heading_height(title, config, warning)
        + 0.25
    )
    with save_figure(file, title, config, warning, height=height, width=WIDTH, dpi=DPI) as figure:
        row = figure.subplots(1, len(panels))
        for panel, (panel_title, (base, overlay)) in zip(row, panels.items(), strict=True):
            if base.dtype == "uint8":
                panel.imshow(base, cmap="gray", vmin=0, vmax=255)
            else:
                panel.imshow(base, cmap=color_map, vmin=0, vmax=1)
            if overlay is not None:
                # The overlay is transparent where it is cold.
                panel.imshow(overlay, cmap=color_map, vmin=0, vmax=1, alpha=0.6 * overlay)
            panel.set_title(textwrap.shorten(panel_title, 26, placeholder="…"))
            panel.set_axis_off()
