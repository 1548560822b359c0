"""What a fit has to show, and how it becomes files: text, pictures, points in a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from dlrun.core.files import atomic_write, write_text

if TYPE_CHECKING:
    from PIL import Image


GRID_WIDTH = 480  # pixels that a grid of small pictures is wide at least
FRAME_DURATION = 80  # milliseconds


@dataclass(frozen=True)
class TextSample:
    """A piece of text; the pieces of one call belong together, in their order."""

    text: str


@dataclass(frozen=True)
class ImageGrid:
    """pixels (N, 1 or 3, H, W), from 0 to 1, `columns` side by side. moving: they are moments of one picture.

    own_size: small ones are not enlarged.
    """

    pixels: Tensor
    columns: int
    description: str
    animated: bool = False
    original_size: bool = False


@dataclass(frozen=True)
class ScatterPlot:
    """positions (N, 2) of the groups `of` (N,), whose names are `names`; axes: what the two numbers are."""

    positions: Tensor
    groups: Tensor
    names: tuple[str, ...]
    axes: tuple[str, str]
    description: str


Artifact = TextSample | ImageGrid | ScatterPlot
SampleGenerator = Callable[..., Iterator[Artifact]]


def write_artifacts(found: Iterable[Artifact], folder: Path, stem: str) -> list[Path]:
    """Write artifacts as folder/<stem>.txt, .png or .gif, further ones as <stem>-2.png; answers with the files.

    What a picture is about stands in the file itself (PNG text `Description`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, files = "", list[Path]()
    for artifact in found:
        if isinstance(artifact, TextSample):
            text += artifact.text
            continue
        name = stem if not files else f"{stem}-{len(files) + 1}"
        files.append(_write_image(artifact, folder / name))
    if text:
        write_text(folder / f"{stem}.txt", text)
        files.append(folder / f"{stem}.txt")
    return files


def _write_image(artifact: ImageGrid | ScatterPlot, path: Path) -> Path:
    from PIL.PngImagePlugin import PngInfo

    if isinstance(artifact, ImageGrid) and artifact.animated:
        path = path.with_name(f"{path.name}.gif")
        first, *others = [
            make_image_grid(each[None], 1, artifact.original_size) for each in artifact.pixels
        ]
        with atomic_write(path) as fresh, fresh.open("wb") as file:
            first.save(
                file, "gif", save_all=True, append_images=others, duration=FRAME_DURATION, loop=0
            )
        return path
    info = PngInfo()
    info.add_text("Description", artifact.description)
    if isinstance(artifact, ImageGrid):
        drawn = make_image_grid(artifact.pixels, artifact.columns, artifact.original_size)
    else:
        drawn = draw_scatter(artifact)
    path = path.with_name(f"{path.name}.png")
    with atomic_write(path) as fresh, fresh.open("wb") as file:
        drawn.save(file, "png", pnginfo=info)
    return path


def make_image_grid(pixels: Tensor, columns: int, own_size: bool = False) -> Image.Image:
    """Pictures (N, C, H, W) as one: a grid, in which small ones are enlarged without smoothing."""
    from PIL import Image
    from torchvision.transforms.functional import to_pil_image  # type: ignore[import-untyped]
    from torchvision.utils import make_grid  # type: ignore[import-untyped]

    pixels = pixels.detach().float().cpu().clamp(0, 1)
    found = pixels[0] if len(pixels) == 1 else make_grid(pixels, columns, 2, pad_value=1.0)
    drawn: Image.Image = to_pil_image(found)
    times = 1 if own_size else max(1, round(GRID_WIDTH / drawn.width))
    return drawn.resize((drawn.width * times, drawn.height * times), Image.Resampling.NEAREST)


def draw_scatter(points: ScatterPlot) -> Image.Image:
    """Points in a plane, a colour for each group."""
    import io

    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    panel = figure.subplots()
    positions, of = points.positions.detach().cpu().numpy(), points.groups.cpu().numpy()
    size = max(
        6.0, min(36.0, 5000 / max(1, len(positions)))
    )  # square points (of print): few are large
    for number, name in enumerate(points.names):
        mine = positions[of == number]
        panel.scatter(
            mine[:, 0], mine[:, 1], s=size, label=name, color=f"C{number % 10}", linewidths=0
        )
    panel.set(xlabel=points.axes[0], ylabel=points.axes[1])
    panel.legend(
        markerscale=1.5, fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return Image.open(buffer)
