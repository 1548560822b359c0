"""`dlrun show task=… augment=…`: training pictures on one sheet, each beside what augmentation makes of it."""

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


MIN_ROWS, MOST_ROWS, COLUMNS = 6, 10, 8
MIN_LABEL_FRACTION = 0.005  # a share of a label below this is not told


def show_command(words: list[str]) -> int:
    """Write the sheet, to the file that to=… names or in a new folder, and print where. Answers with the exit code."""
    from rich.console import Console

    named, rest = split_output_file(words)
    console = Console(highlight=False)
    with build_first_fit(rest, console) as (assembly, fit):
        lines = build_image_grid(fit)
        file = named or make_image_file(assembly)
        draw_image_table(
            lines, get_grid_title(assembly), assembly.config, assembly.dataset.note, file
        )
    console.print(f"pictures: {file}", soft_wrap=True, markup=False)
    return 0


def split_output_file(words: list[str]) -> tuple[Path | None, list[str]]:
    """The file that to=FILE names, and the words that are for the config. Raises UserError where none can be written."""
    own = [word.partition("=")[2] for word in words if word.startswith("to=")]
    file = Path(own[-1]) if own else None
    if file is not None and (
        file.suffix.lower() != ".png" or not file.absolute().parent.is_dir() or file.is_dir()
    ):
        raise UserError(
            f"to={own[-1]}: it must be a file in a folder that is there, and its name end in .png"
        )
    return file, [word for word in words if not word.startswith("to=")]


def make_image_file(assembly: ExperimentBuilder) -> Path:
    """A place for the sheet that nobody else has."""
    from dlrun.core.run_folder import create_run_folder

    return (
        create_run_folder(Path(assembly.config["output"]), assembly.config["task"]["name"], "show")
        / "show.png"
    )


def get_grid_title(assembly: ExperimentBuilder) -> str:
    """What the sheet shows."""
    steps = ", ".join(assembly.config["augment"])
    return (
        f"Training pictures (left), and what {steps} make of them" if steps else "Training pictures"
    )


def build_image_grid(fit: BuiltFit) -> list[ImageRow]:
    """Rows of the sheet: a few pictures of each class with their changed versions; without augmentation, a class each.

    Raises UserError where the data have no pictures, or the model takes features in their stead.
    """
    import torch

    spec, objective = fit.data.spec, fit.trainer.objective
    images = [name for name, field in spec.inputs.items() if field.kind == "image"]
    if not images:
        there = ", ".join(f"{name} ({field.kind})" for name, field in spec.inputs.items())
        raise UserError(f"these data have no image input to show; the inputs are {there}")
    augment = objective.augment
    found = collect_class_images(
        fit, next(iter(spec.targets), ""), COLUMNS if augment is None else 1
    )
    if not found:
        raise UserError("nothing is learnt from rows here: the photograph itself is what changes")
    if missing := [name for name in images if name not in next(iter(found.values()))[0]]:
        raise UserError(
            f"the model takes features that are computed ahead instead of {', '.join(missing)}: no pictures"
        )
    if augment is None:
        return [
            line
            for name in images
            for line in build_class_rows(found, name, f" · {name}" * (len(images) > 1))
        ]
    torch.manual_seed(fit.trainer.seed)
    return [
        line
        for name in images
        for line in build_augmented_rows(fit, found, name, f" · {name}" * (len(images) > 1))
    ]


def collect_class_images(fit: BuiltFit, target: str, least: int) -> dict[str, list[Batch]]:
    """Class → some of its training rows, in the order of their names: `least` of each, more where classes are few.

    Rows without a target are of one class, ''. None where no rows are read.
    """
    import torch

    field = fit.data.spec.targets.get(target)
    classes = (
        1 if field is None else {"category": field.size, "binary": 2}.get(field.kind, MIN_ROWS)
    )
    wanted, each = min(classes, MOST_ROWS), max(least, MIN_ROWS // classes)
    found: dict[str, list[Batch]] = {}
    for batch in fit.data.train.batches(64, seed=fit.trainer.seed):
        columns = {name: column for name, column in batch.items() if column.layout == torch.strided}
        for row in range(len(next(iter(batch.values()), ()))):
            name = "" if field is None else format_target_label(field, batch[target][row])
            if name in found or len(found) < wanted:
                rows = found.setdefault(name, [])
                rows += (
                    [{key: column[row] for key, column in columns.items()}]
                    if len(rows) < each
                    else []
                )
        if len(found) == wanted and all(len(rows) == each for rows in found.values()):
            break
    return dict(sorted(found.items()))


def build_class_rows(found: dict[str, list[Batch]], name: str, where: str) -> list[ImageRow]:
    """A row for each class."""
    return [
        ImageRow(text + where, [to_uint8_image(row[name]) for row in rows])
        for text, rows in found.items()
    ]


def build_augmented_rows(
    fit: BuiltFit, found: dict[str, list[Batch]], name: str, where: str
) -> list[ImageRow]:
    """A row for each picture: as it is, then changed, anew each time."""
    import torch

    augment: Any = fit.trainer.objective.augment
    rows = [(text, row) for text, some in found.items() for row in some]
    batch = {key: torch.stack([row[key] for _, row in rows]) for key in rows[0][1]}
    changed = [augment(batch) for _ in range(COLUMNS - 1)]
    return [
        ImageRow(
            text + where,
            [
                to_uint8_image(batch[name][place]),
                *(to_uint8_image(new[name][place]) for new in changed),
            ],
            ["", *(describe_mixed_labels(fit, batch, new, place) for new in changed)],
        )
        for place, (text, _) in enumerate(rows)
    ]


def to_uint8_image(picture: Tensor) -> Any:
    """A picture (C, H, W) in [0, 1] as uint8 (H, W) or (H, W, 3)."""
    from dlrun.data.display import to_display_image as shown

    return shown(picture.clamp(0, 1).mul(255).round().byte().cpu().numpy())


def format_target_label(field: Field, value: Tensor) -> str:
    """What a row's target is called."""
    from dlrun.evaluation import worst_errors

    if field.kind == "category":
        return worst_errors.get_label_name(field, int(value))
    if field.kind == "binary":
        return worst_errors.get_label_name(field, round(float(value.flatten()[0])))
    if field.kind == "multilabel":
        return (
            ", ".join(
                worst_errors.get_label_name(field, place)
                for place in value.nonzero().flatten().tolist()
            )
            or "none"
        )
    return " ".join(f"{number:.4g}" for number in value.flatten().tolist())


def describe_mixed_labels(fit: BuiltFit, batch: Batch, new: Batch, place: int) -> str:
    """The labels of a picture that has been mixed, with their shares; '' for one that has not."""
    from dlrun.evaluation import worst_errors

    target, field = next(iter(fit.data.spec.targets.items()))
    before, after = (
        field.to_probabilities(batch[target])[place],
        field.to_probabilities(new[target])[place],
    )
    if before.equal(after):
        return ""
    if field.kind == "binary":
        parts = [1 - float(after[0]), float(after[0])]
    else:
        parts = after.tolist()
    return ", ".join(
        f"{worst_errors.get_label_name(field, index)}\u00a0{part:.2f}"
        for index, part in enumerate(parts)
        if part > MIN_LABEL_FRACTION
    )
