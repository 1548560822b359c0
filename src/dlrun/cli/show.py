"""`dlrun show task=… augment=…`: training images on one sheet, each beside its augmented
versions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.explain import build_first_fit
from dlrun.core.errors import UserError
from dlrun.report.contact_sheet import ImageRow, draw_image_table

if TYPE_CHECKING:
    from torch import Tensor

    from dlrun.core.types import Batch, Field
    from dlrun.experiment.builder import BuiltFit, ExperimentBuilder


MIN_ROWS, MAX_ROWS, COLUMNS = 6, 10, 8  # of the sheet
MIN_LABEL_FRACTION = 0.005  # a label with a smaller share is not shown


def show_command(words: list[str]) -> int:
    """Write the sheet, to the file of to=… or in a new folder, and print its path.

    Args:
        words: Overrides as for training, and to=FILE.png.

    Returns:
        The exit code.
    """
    from rich.console import Console

    requested, overrides = split_output_file(words)
    console = Console(highlight=False)
    with build_first_fit(overrides, console) as (builder, fit):
        lines = build_image_grid(fit)
        file = requested or make_image_file(builder)
        dataset = builder.dataset
        warning = dataset.note if dataset.synthetic else ""
        draw_image_table(lines, get_grid_title(builder), builder.config, warning, file)
    console.print(f"images: {file}", soft_wrap=True, markup=False)
    return 0


def split_output_file(words: list[str]) -> tuple[Path | None, list[str]]:
    """Separate to=FILE from the overrides of the config.

    Returns:
        The file, or None; and the overrides.

    Raises:
        UserError: Where no PNG file can be written there.
    """
    named = [word.partition("=")[2] for word in words if word.startswith("to=")]
    file = Path(named[-1]) if named else None
    # Checked before the data are loaded, which may take minutes.
    if file is not None and (
        file.suffix.lower() != ".png" or not file.absolute().parent.is_dir() or file.is_dir()
    ):
        raise UserError(
            f"to={named[-1]}: it must be a file in a folder that is there, and its name end in .png"
        )
    return file, [word for word in words if not word.startswith("to=")]


def make_image_file(builder: ExperimentBuilder) -> Path:
    """Return a path for the sheet in a new folder."""
    from dlrun.core.files import create_run_folder
    from dlrun.core.run_folder import RunFile, RunFolder

    output = Path(builder.config["output"])
    folder = create_run_folder(output, builder.config["task"]["name"], "show")
    return RunFolder(folder).path(RunFile.IMAGE_TABLE)


def get_grid_title(builder: ExperimentBuilder) -> str:
    """Return the title of the sheet."""
    steps = ", ".join(builder.config["augment"])
    if not steps:
        return "Training images"
    return f"Training images (left), and what {steps} make of them"


def build_image_grid(fit: BuiltFit) -> list[ImageRow]:
    """Build the rows of the sheet: images of each class, with augmented versions where there are
    any.

    Args:
        fit: The first fit.

    Raises:
        UserError: Where the data have no images, or the model takes features in their stead.
    """
    import torch

    spec, objective = fit.data.spec, fit.trainer.objective
    images = [name for name, field in spec.inputs.items() if field.kind == "image"]
    if not images:
        inputs = ", ".join(f"{name} ({field.kind})" for name, field in spec.inputs.items())
        raise UserError(f"these data have no image input to show; the inputs are {inputs}")
    augment = objective.augment
    rows_by_class = collect_class_images(
        fit, next(iter(spec.targets), ""), COLUMNS if augment is None else 1
    )
    # DeepDream and style transfer optimize one image, and read no rows.
    if not rows_by_class:
        raise UserError("nothing is learned from rows here: the photograph itself is what changes")
    first_row = next(iter(rows_by_class.values()))[0]
    if missing := [name for name in images if name not in first_row]:
        raise UserError(
            f"the model takes features that are computed ahead instead of {', '.join(missing)}: "
            "no images"
        )
    # The same sheet for the same seed.
    torch.manual_seed(fit.trainer.seed)
    grid = []
    for name in images:
        suffix = f" · {name}" if len(images) > 1 else ""
        if augment is None:
            grid += build_class_rows(rows_by_class, name, suffix)
        else:
            grid += build_augmented_rows(fit, rows_by_class, name, suffix)
    return grid


def collect_class_images(fit: BuiltFit, target: str, min_rows: int) -> dict[str, list[Batch]]:
    """Collect training rows of each class.

    Args:
        fit: The first fit.
        target: The target that names the class; rows without a target are of one class, "".
        min_rows: The number of rows of each class; more where there are few classes.

    Returns:
        Class → rows, sorted by name; empty where no rows are read.
    """
    import torch

    field = fit.data.spec.targets.get(target)
    available = 1
    if field is not None:
        available = {"category": field.size, "binary": 2}.get(field.kind, MIN_ROWS)
    num_classes = min(available, MAX_ROWS)
    num_rows = max(min_rows, MIN_ROWS // available)
    rows_by_class: dict[str, list[Batch]] = {}
    for batch in fit.data.train.batches(64, seed=fit.trainer.seed):
        # Sparse columns cannot be indexed by row, and hold no images.
        columns = {name: column for name, column in batch.items() if column.layout == torch.strided}
        for row in range(len(next(iter(batch.values()), ()))):
            name = "" if field is None else format_target_label(field, batch[target][row])
            if name in rows_by_class or len(rows_by_class) < num_classes:
                rows = rows_by_class.setdefault(name, [])
                if len(rows) < num_rows:
                    rows.append({key: column[row] for key, column in columns.items()})
        if len(rows_by_class) == num_classes and all(
            len(rows) == num_rows for rows in rows_by_class.values()
        ):
            break
    return dict(sorted(rows_by_class.items()))


def build_class_rows(
    rows_by_class: dict[str, list[Batch]], name: str, suffix: str
) -> list[ImageRow]:
    """Build a row of the sheet for each class."""
    return [
        ImageRow(text + suffix, [to_uint8_image(row[name]) for row in rows])
        for text, rows in rows_by_class.items()
    ]


def build_augmented_rows(
    fit: BuiltFit, rows_by_class: dict[str, list[Batch]], name: str, suffix: str
) -> list[ImageRow]:
    """Build a row of the sheet for each image: as it is, then augmented, anew each time."""
    import torch

    augment: Any = fit.trainer.objective.augment
    rows = [(text, row) for text, class_rows in rows_by_class.items() for row in class_rows]
    # One batch, as in training: mixing takes the other image from it.
    batch = {key: torch.stack([row[key] for _, row in rows]) for key in rows[0][1]}
    batches = [augment(batch) for _ in range(COLUMNS - 1)]
    grid = []
    for index, (text, _) in enumerate(rows):
        images = [to_uint8_image(shown[name][index]) for shown in (batch, *batches)]
        captions = [describe_mixed_labels(fit, batch, shown, index) for shown in batches]
        grid.append(ImageRow(text + suffix, images, ["", *captions]))
    return grid


def to_uint8_image(image: Tensor) -> Any:
    """Convert an image (C, H, W) in [0, 1] to uint8 (H, W) or (H, W, 3)."""
    from dlrun.data.display import to_display_image as shown

    return shown(image.clamp(0, 1).mul(255).round().byte().cpu().numpy())


def format_target_label(field: Field, value: Tensor) -> str:
    """Format a row's target."""
    from dlrun.evaluation import worst_errors

    if field.kind == "category":
        return worst_errors.get_label_name(field, int(value))
    if field.kind == "binary":
        return worst_errors.get_label_name(field, round(float(value.flatten()[0])))
    if field.kind == "multilabel":
        indices = value.nonzero().flatten().tolist()
        return ", ".join(worst_errors.get_label_name(field, index) for index in indices) or "none"
    return " ".join(f"{number:.4g}" for number in value.flatten().tolist())


def describe_mixed_labels(fit: BuiltFit, batch: Batch, augmented: Batch, row: int) -> str:
    """Describe the labels of an image that was mixed, with their shares; "" where it was not."""
    from dlrun.evaluation import worst_errors

    target, field = next(iter(fit.data.spec.targets.items()))
    plain = field.to_probabilities(batch[target])[row]
    mixed = field.to_probabilities(augmented[target])[row]
    # Most augmentations leave the label alone.
    if plain.equal(mixed):
        return ""
    if field.kind == "binary":
        shares = [1 - float(mixed[0]), float(mixed[0])]
    else:
        shares = mixed.tolist()
    return ", ".join(
        f"{worst_errors.get_label_name(field, index)}\u00a0{share:.2f}"
        for index, share in enumerate(shares)
        if share > MIN_LABEL_FRACTION
    )
