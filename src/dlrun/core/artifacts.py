"""What a fit generates, and how it becomes files: text, images, points in a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from dlrun.core.files import atomic_write, write_text

if TYPE_CHECKING:
    from PIL import Image


GRID_WIDTH = 480  # pixels; narrower grids of small images are enlarged to about this
FRAME_DURATION = 80  # milliseconds


@dataclass(frozen=True)
class TextSample:
    """A piece of text; the pieces of one call belong together, in their order.

    Attributes:
        text: The piece.
    """

    text: str


@dataclass(frozen=True)
class ImageGrid:
    """Images in rows and columns.

    Attributes:
        pixels: (N, 1 or 3, H, W), from 0 to 1.
        columns: Images in a row.
        description: What they show; written into the file.
        animated: They are the frames of one animation.
        original_size: Small images are not enlarged.
    """

    pixels: Tensor
    columns: int
    description: str
    animated: bool = False
    original_size: bool = False


@dataclass(frozen=True)
class ScatterPlot:
    """Points in a plane.

    Attributes:
        positions: (N, 2).
        groups: int64 (N,), the group of each point.
        names: Group names, for the legend.
        axes: Names of the two axes.
        description: What they show; written into the file.
    """

    positions: Tensor
    groups: Tensor
    names: tuple[str, ...]
    axes: tuple[str, str]
    description: str


Artifact = TextSample | ImageGrid | ScatterPlot
SampleGenerator = Callable[..., Iterator[Artifact]]


def write_artifacts(artifacts: Iterable[Artifact], folder: Path, stem: str) -> list[Path]:
    """Write artifacts as <stem>.txt, .png or .gif, further images as <stem>-2.png.

    The description of an image stands in the file itself (PNG text `Description`).

    Args:
        artifacts: What a fit has generated.
        folder: Made where it is missing.
        stem: Name of the files without suffix.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, files = "", list[Path]()
    for artifact in artifacts:
        if isinstance(artifact, TextSample):
            text += artifact.text
            continue
        name = stem if not files else f"{stem}-{len(files) + 1}"
        files.append(_write_image(artifact, folder / name))
    # The pieces of a text are one file, however many images stand between them.
    if text:
        write_text(folder / f"{stem}.txt", text)
        files.append(folder / f"{stem}.txt")
    return files


def _write_image(artifact: ImageGrid | ScatterPlot, path: Path) -> Path:
    # Imported here, as torchvision and matplotlib below: most runs draw nothing.
    from PIL.PngImagePlugin import PngInfo

    if isinstance(artifact, ImageGrid) and artifact.animated:
        path = path.with_name(f"{path.name}.gif")
        first_frame, *frames = [
            make_image_grid(frame[None], 1, artifact.original_size) for frame in artifact.pixels
        ]
        with atomic_write(path) as fresh, fresh.open("wb") as file:
            first_frame.save(
                file, "gif", save_all=True, append_images=frames, duration=FRAME_DURATION, loop=0
            )
        return path
    info = PngInfo()
    info.add_text("Description", artifact.description)
    if isinstance(artifact, ImageGrid):
        image = make_image_grid(artifact.pixels, artifact.columns, artifact.original_size)
    else:
        image = draw_scatter(artifact)
    path = path.with_name(f"{path.name}.png")
    with atomic_write(path) as fresh, fresh.open("wb") as file:
        image.save(file, "png", pnginfo=info)
    return path


def make_image_grid(pixels: Tensor, columns: int, original_size: bool = False) -> Image.Image:
    """Draw images as one; small ones are enlarged without smoothing.

    Args:
        pixels: (N, C, H, W), from 0 to 1.
        columns: Images in a row.
        original_size: Do not enlarge.
    """
    from PIL import Image
    from torchvision.transforms.functional import to_pil_image  # type: ignore[import-untyped]
    from torchvision.utils import make_grid  # type: ignore[import-untyped]

    pixels = pixels.detach().float().cpu().clamp(0, 1)
    # make_grid would frame a single image with padding.
    grid = pixels[0] if len(pixels) == 1 else make_grid(pixels, columns, 2, pad_value=1.0)
    image: Image.Image = to_pil_image(grid)
    factor = 1 if original_size else max(1, round(GRID_WIDTH / image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def draw_scatter(points: ScatterPlot) -> Image.Image:
    """Draw points in a plane, one color a group."""
    import io

    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    panel = figure.subplots()
    positions, groups = points.positions.detach().cpu().numpy(), points.groups.cpu().numpy()
    # Marker area in square points (of print): many points must not cover each other.
    size = max(6.0, min(36.0, 5000 / max(1, len(positions))))
    for number, name in enumerate(points.names):
        members = positions[groups == number]
        panel.scatter(
            members[:, 0], members[:, 1], s=size, label=name, color=f"C{number % 10}", linewidths=0
        )
    panel.set(xlabel=points.axes[0], ylabel=points.axes[1])
    panel.legend(
        markerscale=1.5, fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return Image.open(buffer)
