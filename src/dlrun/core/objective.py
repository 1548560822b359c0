"""The contract between a problem and the loop that trains it: every hook, with its default.

It lies in `core`, below both rooms that need it: objectives implement it, training runs it, and
neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from dlrun.core import checkpoint
from dlrun.core.dataset import Dataset, PreparedData
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.files import atomic_write, write_text
from dlrun.core.types import Batch, Score, Step

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


Loss = Callable[[Tensor, Tensor], Tensor]
"""(raw output, target) → the mean loss over the rows, a tensor of one number with a gradient."""


class Objective(nn.Module):
    """What is minimized: the losses of a problem, in the order in which they are taken.

    A subclass must define `steps`. All else has a default: an objective says only what is special
    about it. It touches no optimizer, no gradient and no device; the loop does that.

    Attributes:
        model: The network that is trained, or None where there is none (as when pixels are).
        groups: Group → the parameters that its steps change, each with an optimizer of its own.
            Empty where there is nothing to learn: such a fit lasts one epoch and is only measured.
        losses: Target → its loss, where the objective predicts targets. Empty for all others.
            Metrics, stored predictions, fields.json and the overfit check follow from it.
        goals: Metric → its better direction, 'min' or 'max', of all that is measured.
            Empty: the loss, and the metrics of the targets in `losses`, which know their own.
        generators: Kind → a function with plain keyword arguments that yields artifacts
            (`dlrun generate`, and the callback `samples`).
        default_samples: The kinds of `generators` that are written after an epoch, unless others
            are named.
        augment: What is done to a training batch before it is learned from, or None.
        ticks: Batches of an epoch, for an objective that reads no data; None for one that does.
        steady: Whether every batch of one shape makes the same calls, so that a step can be
            recorded and replayed. False is always right; True wrongly costs time, never a wrong
            number.
        streams: Random generators that steps draw from, besides torch's own.

    Example:
        class Reconstruct(Objective):
            goals = {"loss": "min"}

            def __init__(self, context, *, weight=1.0):
                super().__init__()
                self.model, self.weight = context.model, weight
                self.groups = {"model": list(self.model.parameters())}

            def steps(self, batch):
                error = self.model(batch)["x"] - batch["x"]
                yield Step("model", self.weight * error.square().mean())
    """

    groups: dict[str, list[nn.Parameter]]
    # Immutable, since all objectives share these: whoever has some assigns its own.
    losses: Mapping[str, Loss] = MappingProxyType({})
    goals: Mapping[str, str] = MappingProxyType({})
    generators: Mapping[str, SampleGenerator] = MappingProxyType({})
    default_samples: tuple[str, ...] = ()
    ticks: int | None = None
    steady: bool = False
    streams: Sequence[torch.Generator] = ()

    def __init__(self) -> None:
        super().__init__()
        # No class attributes: they would hide a module that torch registers under these names.
        self.model: Any = None
        self.augment: Callable[[Batch], Batch] | None = None
        self.groups = {}

    def steps(self, batch: Batch) -> Iterator[Step]:
        """The losses of a batch, one after the other.

        The loop resumes the generator only when the step has been taken: a later step sees the
        weights that an earlier one has changed. Nothing is learned while `self.training` is False.

        Args:
            batch: Column → its values, of B rows each; empty where `ticks` is set.

        Yields:
            Steps, each with the group whose parameters it changes.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no steps(batch)")

    def baseline_objective(self) -> Objective | None:
        """The objective of the baseline that has to be beaten; None where none is known."""
        return None

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """Scores of a whole split that no mean over batches gives, taken when a fit is scored.

        Args:
            batches: The split, batch by batch; read once.

        Returns:
            Name → score, in addition to the losses and metrics.
        """
        return {}

    def rates(self) -> dict[nn.Parameter, float]:
        """Parameter → factor on its learning rate; those that are missing have 1."""
        return {}

    def penalty(self) -> Tensor | None:
        """The penalty on weights that is part of the loss, a scalar tensor; None: no penalty."""
        return None

    def begin_with(self, state: dict[str, Any]) -> None:
        """Start with the (averaged) weights of another fit, unless a subclass knows better.

        Args:
            state: The checkpoint of that fit, as `checkpoint.load_best` reads it.

        Raises:
            UserError: if these weights are of another model.
        """
        checkpoint.load_averaged_weights(self, state)


def as_objective(module: nn.Module) -> Objective:
    """The same module as an `Objective`: hooks that it does not define get their defaults.

    Args:
        module: An `nn.Module` of the user's own with `steps` and `groups`; see `inherit_hooks`.

    Returns:
        The module itself.
    """
    if isinstance(module, Objective):
        return module
    defined = {*vars(module), *module._modules, *dir(type(module))}
    inherit_hooks(module, Objective)
    defaults: dict[str, Any] = {"model": None, "augment": None, "groups": {}}
    for name in defaults.keys() - defined:
        setattr(module, name, defaults[name])
    return cast(Objective, module)


def inherit_hooks(module: nn.Module, contract: type[nn.Module]) -> None:
    """Let a module of the user's own inherit the hooks of a contract that it does not define.

    Its class is replaced by a subclass of the same name, as torch's own `fully_shard` does; a
    wrapper around it would rename the weights in checkpoints.
    """
    kind = type(module)
    # Torch looks for children only after class attributes: a layer that is called as a hook is
    # (`self.penalty = nn.Linear(…)`) would be hidden by that hook's default.
    children = {name: _child_property(name) for name in vars(contract) if name in module._modules}
    # The module's name is kept, as replay trusts the classes of torch.nn.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    module.__class__ = type(kind.__name__, (kind, contract), {**children, **names})


def _child_property(name: str) -> property:
    return property(lambda module: module._modules[name])


@dataclass(frozen=True)
class ObjectiveContext:
    """What the builder hands to the target of group `objective`.

    Attributes:
        model: The one that the config names, built for data.spec.
        data: As prepared for this fit, on the device.
        dataset: The raw one, which knows what words and labels are called. Its test rows are
            sealed.
        losses: Target → its loss.
        weights: Target → its weight in the sum of losses; None: all 1.
        augment: What is done to training batches; None: nothing.
        device: Where model and data are.
        processes: That share the fit: what is drawn for a batch is drawn for all of them.
    """

    model: nn.Module
    data: PreparedData
    dataset: Dataset
    losses: dict[str, Loss] = field(default_factory=dict)
    weights: dict[str, float] | None = None
    augment: Callable[[Batch], Batch] | None = None
    device: torch.device = torch.device("cpu")
    processes: ProcessGroup = ONE_PROCESS
