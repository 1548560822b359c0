"""`dlrun explain task=… model=…`: what would be trained, layer by layer, without training it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import (
    PROBLEM_TYPES,
    get_metric_names,
    get_model_part_name,
    get_target_part,
)
from dlrun.config.compose import configure
from dlrun.config.overrides import split_config_folders
from dlrun.core.errors import UserError
from dlrun.core.formatting import format_number
from dlrun.launch.run_config import load_plugin_packages
from dlrun.launch.run_log import log_to_folder
from dlrun.report.result_tables import TextTable, to_rich_table

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.core.types import Batch
    from dlrun.experiment.builder import BuiltFit, ExperimentBuilder
    from dlrun.interpret.initial_loss import InitialLoss


# The first loss is measured on so many rows, or as many as take so many bytes.
MAX_ROWS = 4096
MAX_BYTES = 1 << 26
MEGABYTE = 1e6
# (loss, kind of target) → the loss of a logit of 0, where it has a name.
ZERO_LOGIT_LOSSES = {
    ("cross_entropy", "category"): "ln {size}",
    ("cross_entropy", "tokens"): "ln {size}",
    ("bce", "binary"): "ln 2",
    ("bce", "multilabel"): "ln 2",
    ("bce", "fraction"): "ln 2",
    ("mse", "number"): "mean of y²",
    ("mae", "number"): "mean of |y|",
}
# (loss, kind of target) → the loss of predicting the prior for every row, where it has a name.
CONSTANT_LOSSES = {
    ("cross_entropy", "category"): "entropy of the class frequencies",
    ("cross_entropy", "tokens"): "entropy of the token frequencies",
    ("bce", "binary"): "entropy of the class frequencies",
    ("bce", "multilabel"): "mean entropy of the labels",
    ("mse", "number"): "variance of y",
    ("mae", "number"): "mean distance from the mean of y",
}
USUAL_CAUSES = (
    "the usual causes: inputs that are not scaled, a last layer or a loss that does not fit the "
    "target, targets on another scale than the predictions, starting weights that are too large"
)


def explain_command(words: list[str]) -> int:
    """Print what the overrides would train, and whether its first loss is plausible.

    Args:
        words: Overrides, as for training.

    Returns:
        The exit code.
    """
    from rich.console import Console

    console = Console(highlight=False)
    with build_first_fit(words, console) as (builder, fit):
        from dlrun.interpret.initial_loss import compute_initial_losses

        check_has_predictions(builder, fit)
        sample = get_training_sample(fit)
        assert fit.baseline is not None
        losses = compute_initial_losses(fit.trainer, fit.baseline, sample)
        tables = [
            build_layer_table(builder, fit, sample[0]),
            build_memory_table(fit, sample[0]),
            build_size_table(fit),
        ]
        tables += [build_target_table(builder, fit, name) for name in fit.data.spec.targets]
        console.print(
            *map(to_rich_table, [*tables, build_loss_table(builder, fit, losses, sample)])
        )
        for line in get_initial_loss_warnings(fit, losses, sample):
            console.print(line, style="bold red", soft_wrap=True, markup=False)
    return 0


@contextmanager
def build_first_fit(
    words: list[str], console: Console
) -> Iterator[tuple[ExperimentBuilder, BuiltFit]]:
    """Build the first fit of a config without training it; files on the way are thrown away.

    Args:
        words: Overrides, as for training.
        console: Where messages are printed.

    Yields:
        The builder, and the fit.
    """
    folders, overrides = split_config_folders(words)
    plugins = load_plugin_packages(overrides)
    config = configure(overrides, folders, plugins)
    # A few steps do not pay for compiling, and hooks do not see inside.
    config["engine"]["compile"] = False
    # The complete network is to be shown, and extracting features from all images takes long.
    if "cache" in config["model"]:
        config["model"]["cache"] = False
    from dlrun.experiment.builder import ExperimentBuilder

    with (
        # The builder writes into a run folder; this one is thrown away.
        tempfile.TemporaryDirectory(prefix="dlrun-") as folder,
        log_to_folder(Path(folder), console),
    ):
        builder = ExperimentBuilder(config, Path(folder), plugins)
        job = builder.plan([])
        assert job is not None
        fit = builder.build_fit(job)
        if builder.dataset.note:
            console.print(builder.dataset.note, style="bold red", soft_wrap=True, markup=False)
        yield builder, fit


def check_has_predictions(builder: ExperimentBuilder, fit: BuiltFit) -> None:
    """Refuse an objective without targets, and batches too small for batch normalization.

    Raises:
        UserError: In both cases.
    """
    from dlrun.training import step_runner

    if not fit.trainer.objective.losses:
        objective = builder.config["objective"]["_target_"].rpartition(".")[2]
        raise UserError(
            f"objective={objective} predicts no target, and this command looks at predictions"
        )
    step_runner.check_batch_norm(
        fit.trainer.objective, fit.data.train, fit.trainer.settings.batch_rows
    )


def get_training_sample(fit: BuiltFit) -> list[Batch]:
    """Return the first batches of the first epoch, as training will see them: at least one."""
    from dlrun.interpret.memory import count_tensor_bytes

    size = fit.trainer.settings.batch_rows
    batches = fit.data.train.batches(size, seed=fit.trainer.seed)
    first = next(batches)
    # Images are large: the sample is limited by its bytes, too.
    num_more = min(MAX_ROWS // size, MAX_BYTES // max(1, count_tensor_bytes(first.values()))) - 1
    return [first, *islice(batches, max(0, num_more))]


def build_layer_table(builder: ExperimentBuilder, fit: BuiltFit, batch: Batch) -> TextTable:
    """Build the table of inputs and layers: output shapes for a batch of B rows, and parameters."""
    from dlrun.interpret.model_summary import format_shape, summarize_layers
    from dlrun.interpret.sandbox import count_batch_rows

    # The batch size is shown as B: it says nothing about the layers.
    inputs = [
        [name, field.kind, format_shape(batch[name], count_batch_rows(batch)), ""]
        for name, field in fit.data.spec.inputs.items()
    ]
    objective: Any = fit.trainer.objective
    layers = summarize_layers(objective.model, batch)
    rows = [[layer.name, layer.kind, layer.shape, f"{layer.parameters:,}"] for layer in layers]
    total = sum(layer.parameters for layer in layers)
    trainable = sum(layer.trainable for layer in layers)
    caption = f"{total:,} parameters: {trainable:,} trainable, {total - trainable:,} frozen"
    model = get_model_part_name(builder.config["model"])
    title = f"{builder.config['task']['name']} · {model}: layers"
    return TextTable(
        title,
        ["name", "type", "output", "parameters"],
        inputs + rows,
        caption,
        right=frozenset({3}),
    )


def build_memory_table(fit: BuiltFit, batch: Batch) -> TextTable:
    """Build the table of what one training step takes, in millions of bytes."""
    from dlrun.interpret.memory import estimate_memory

    estimates = estimate_memory(fit.trainer, batch)
    rows = [
        [estimate.name, f"{estimate.size / MEGABYTE:.3f}", estimate.source]
        for estimate in estimates
    ]
    total = sum(estimate.size for estimate in estimates) / MEGABYTE
    rows.append(["together", f"{total:.3f}", "without the data's rows and torch itself"])
    return TextTable("memory", ["", "MB", "how it is known"], rows, right=frozenset({1}))


def build_size_table(fit: BuiltFit) -> TextTable:
    """Build the table of rows, batches and steps."""
    trainer, settings = fit.trainer, fit.trainer.settings
    rows, steps = len(fit.data.train), trainer.total_steps
    # Rounded up: the last batch of an epoch may be smaller.
    batches = -(-rows // settings.batch_rows)
    held_out = 0 if fit.data.val is None else len(fit.data.val)
    cells = {
        "training rows": f"{rows:,}",
        "validation rows": f"{held_out:,}",
        "rows a batch": f"{settings.batch_rows:,}",
        "batches an epoch": f"{batches:,}",
        "epochs": f"{settings.epochs:,}",
        "optimizer steps": f"{steps:,}",
        "folds": f"{fit.job.folds:,}",
    }
    return TextTable(
        "sizes",
        ["", "number"],
        [[name, cell] for name, cell in cells.items()],
        right=frozenset({1}),
    )


def build_target_table(builder: ExperimentBuilder, fit: BuiltFit, name: str) -> TextTable:
    """Build the table of one target's last layer, loss and metrics.

    Each stands beside those that suit its kind, by the book's table (§4.5).

    Args:
        builder: The builder of the experiment.
        fit: The first fit.
        name: The name of the target.
    """
    field = fit.data.spec.targets[name]
    problem = PROBLEM_TYPES[field.kind]
    loss = get_loss_name(builder, name, field.kind)
    is_auto = get_part_name(get_target_part(builder.config, "loss", name)) == "auto"
    metrics = [measure for measure, (target, _) in fit.trainer.metrics.items() if target == name]
    size = f" ({field.size})" if field.size else ""
    rows = [
        ["last layer", problem.last_layer, problem.last_layer],
        ["loss", f"{loss} (auto)" if is_auto else loss, ", ".join(problem.losses)],
        ["measures", ", ".join(metrics), ", ".join(get_metric_names(field.kind))],
    ]
    return TextTable(
        f"target {name}: {field.kind}, {problem.text}{size}",
        ["", "here", "what there is for this kind"],
        rows,
    )


def build_loss_table(
    builder: ExperimentBuilder, fit: BuiltFit, losses: dict[str, InitialLoss], sample: list[Batch]
) -> TextTable:
    """Build the table of expected and measured first losses, target by target.

    Args:
        builder: The builder of the experiment.
        fit: The first fit.
        losses: Target → its losses.
        sample: The batches on which they were measured.
    """
    from dlrun.interpret.sandbox import count_batch_rows

    rows = []
    for name, loss in losses.items():
        field = fit.data.spec.targets[name]
        case = get_loss_name(builder, name, field.kind), field.kind
        formula = ZERO_LOGIT_LOSSES.get(case, "").format(size=field.size)
        expected = f"expected: {formula}" if formula else "expected"
        rows += [
            [name, "0 (it knows nothing)", format_number(loss.zero), expected],
            [name, *describe_baseline(builder, fit, name, case, loss.constant)],
            [name, "this model's, untrained", format_number(loss.measured), "measured"],
        ]
    objective: Any = fit.trainer.objective
    penalty = objective.model.penalty()
    if penalty is not None:
        rows.append(["", "(any)", format_number(penalty.item()), "penalty, L1 and L2"])
    num_rows = sum(map(count_batch_rows, sample))
    caption = f"mean over {num_rows:,} training rows"
    return TextTable(
        "first loss", ["target", "answer", "loss", "which is"], rows, caption, right=frozenset({2})
    )


def get_initial_loss_warnings(
    fit: BuiltFit, losses: dict[str, InitialLoss], sample: list[Batch]
) -> Iterator[str]:
    """Yield a warning for each target whose first loss is not that of a model without knowledge."""
    from dlrun.interpret.initial_loss import find_largest_input

    for name, loss in losses.items():
        if not loss.is_expected(fit.data.spec.targets[name].kind):
            column, value = find_largest_input(sample, list(fit.data.spec.inputs))
            yield (
                f"WARNING: target {name}: the first loss is {format_number(loss.measured)}, but "
                f"{format_number(loss.zero)} is expected of a model that knows nothing. "
                f"{USUAL_CAUSES}. The largest input here is {value:.4g}, in {column}."
            )


def get_part_name(node: dict[str, Any]) -> str:
    """Return the name of the class or function of a node."""
    return str(node["_target_"]).rpartition(".")[2]


def get_loss_name(builder: ExperimentBuilder, target: str, kind: str) -> str:
    """Return the name of the loss of a target; "auto" is resolved by the kind of the target."""
    name = get_part_name(get_target_part(builder.config, "loss", target))
    return PROBLEM_TYPES[kind].losses[0] if name == "auto" else name


def describe_baseline(
    builder: Any, fit: Any, target: str, case: tuple[str, str], loss: float
) -> list[str]:
    """Build the cells of the baseline: what it predicts, its loss, and the name of that loss."""
    if note := fit.baseline.objective.model.note:
        return [note.removeprefix("baseline: "), format_number(loss), "the baseline"]
    has_name = is_standard_loss(get_target_part(builder.config, "loss", target))
    return [
        "the same for every row",
        format_number(loss),
        CONSTANT_LOSSES.get(case, "") if has_name else "",
    ]


def is_standard_loss(loss: dict[str, Any]) -> bool:
    """Return whether a loss is neither smoothed nor weighted: only then its known values hold."""
    return not loss.get("label_smoothing") and not loss.get("class_weights")
