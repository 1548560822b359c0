"""`dlrun explain task=… model=…`: what would be trained, layer by layer and number by number, without training it."""

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


MAX_ROWS, MAX_BYTES = (
    4096,
    1 << 26,
)  # the first loss is measured on so many rows, or as many as take so many bytes
MEGABYTE = 1e6
ZERO_LOGIT_LOSSES = {  # the loss of an answer of 0 (before the last layer), where it has a name
    ("cross_entropy", "category"): "ln {size}",
    ("cross_entropy", "tokens"): "ln {size}",
    ("bce", "binary"): "ln 2",
    ("bce", "multilabel"): "ln 2",
    ("bce", "fraction"): "ln 2",
    ("mse", "number"): "mean of y²",
    ("mae", "number"): "mean of |y|",
}
CONSTANT_LOSSES = {  # the loss of the prior as the answer for every row, where it has a name
    ("cross_entropy", "category"): "entropy of the class frequencies",
    ("cross_entropy", "tokens"): "entropy of the token frequencies",
    ("bce", "binary"): "entropy of the class frequencies",
    ("bce", "multilabel"): "mean entropy of the labels",
    ("mse", "number"): "variance of y",
    ("mae", "number"): "mean distance from the mean of y",
}
USUAL_CAUSES = (
    "the usual causes: inputs that are not scaled, a last layer or a loss that does not fit the target, "
    "targets on another scale than the answers, starting weights that are too large"
)


def explain_command(words: list[str]) -> int:
    """Print what the words would train, and whether its first loss is plausible. Answers with the exit code."""
    from rich.console import Console

    console = Console(highlight=False)
    with build_first_fit(words, console) as (assembly, fit):
        from dlrun.interpret.initial_loss import compute_initial_losses

        check_has_predictions(assembly, fit)
        sample = get_training_sample(fit)
        assert fit.baseline is not None
        first = compute_initial_losses(fit.trainer, fit.baseline, sample)
        tables = [
            build_layer_table(assembly, fit, sample[0]),
            build_memory_table(fit, sample[0]),
            build_size_table(fit),
        ]
        tables += [build_target_table(assembly, fit, name) for name in fit.data.spec.targets]
        console.print(
            *map(to_rich_table, [*tables, build_loss_table(assembly, fit, first, sample)])
        )
        for line in get_initial_loss_warnings(fit, first, sample):
            console.print(line, style="bold red", soft_wrap=True, markup=False)
    return 0


@contextmanager
def build_first_fit(
    words: list[str], console: Console
) -> Iterator[tuple[ExperimentBuilder, BuiltFit]]:
    """The first fit that these words ask for, ready but not trained; what is written on the way is thrown away."""
    folders, rest = split_config_folders(words)
    plugins = load_plugin_packages(rest)
    config = configure(rest, folders, plugins)
    config["engine"]["compile"] = (
        False  # a few steps do not pay for it, and hooks do not see inside
    )
    if "cache" in config["model"]:
        config["model"]["cache"] = (
            False  # the whole network is to be seen, and looking at all pictures takes long
        )
    from dlrun.experiment.builder import ExperimentBuilder

    with tempfile.TemporaryDirectory(prefix="dlrun-") as name, log_to_folder(Path(name), console):
        assembly = ExperimentBuilder(config, Path(name), plugins)
        job = assembly.plan([])
        assert job is not None
        fit = assembly.build_fit(job)
        if assembly.dataset.note:
            console.print(assembly.dataset.note, style="bold red", soft_wrap=True, markup=False)
        yield assembly, fit


def check_has_predictions(assembly: ExperimentBuilder, fit: BuiltFit) -> None:
    """Raise UserError where there are no answers to look at."""
    from dlrun.training import batch_norm

    if not fit.trainer.objective.losses:
        objective = assembly.config["objective"]["_target_"].rpartition(".")[2]
        raise UserError(
            f"objective={objective} answers no target, and this command looks at answers"
        )
    batch_norm.check_batch_norm(
        fit.trainer.objective, fit.data.train, fit.trainer.settings.batch_rows
    )


def get_training_sample(fit: BuiltFit) -> list[Batch]:
    """The first batches of the first epoch, as training will see them: at least one."""
    from dlrun.interpret.memory import count_tensor_bytes

    size = fit.trainer.settings.batch_rows
    batches = fit.data.train.batches(size, seed=fit.trainer.seed)
    first = next(batches)
    more = min(MAX_ROWS // size, MAX_BYTES // max(1, count_tensor_bytes(first.values()))) - 1
    return [first, *islice(batches, max(0, more))]


def build_layer_table(assembly: ExperimentBuilder, fit: BuiltFit, batch: Batch) -> TextTable:
    """Inputs and layers: what comes out of each for one batch of B rows, and its parameters."""
    from dlrun.interpret.model_summary import format_shape, summarize_layers
    from dlrun.interpret.sandbox import count_batch_rows

    inputs = [
        [name, field.kind, format_shape(batch[name], count_batch_rows(batch)), ""]
        for name, field in fit.data.spec.inputs.items()
    ]
    objective: Any = fit.trainer.objective
    found = summarize_layers(objective.model, batch)
    rows = [[layer.name, layer.kind, layer.shape, f"{layer.parameters:,}"] for layer in found]
    total, trainable = (
        sum(layer.parameters for layer in found),
        sum(layer.trainable for layer in found),
    )
    caption = f"{total:,} parameters: {trainable:,} trainable, {total - trainable:,} frozen"
    title = f"{assembly.config['task']['name']} · {get_model_part_name(assembly.config['model'])}: layers"
    return TextTable(
        title,
        ["name", "type", "output", "parameters"],
        inputs + rows,
        caption,
        right=frozenset({3}),
    )


def build_memory_table(fit: BuiltFit, batch: Batch) -> TextTable:
    """What one training step takes, in millions of bytes."""
    from dlrun.interpret.memory import estimate_memory

    parts = estimate_memory(fit.trainer, batch)
    rows = [[each.name, f"{each.size / MEGABYTE:.3f}", each.source] for each in parts]
    rows.append(
        [
            "together",
            f"{sum(each.size for each in parts) / MEGABYTE:.3f}",
            "without the data's rows and torch itself",
        ]
    )
    return TextTable("memory", ["", "MB", "how it is known"], rows, right=frozenset({1}))


def build_size_table(fit: BuiltFit) -> TextTable:
    """Rows, batches and steps."""
    trainer, settings = fit.trainer, fit.trainer.settings
    rows, steps = len(fit.data.train), trainer.total_steps
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


def build_target_table(assembly: ExperimentBuilder, fit: BuiltFit, name: str) -> TextTable:
    """How one target is answered and judged, beside what the book's table allows for its kind (§4.5)."""
    field = fit.data.spec.targets[name]
    problem = PROBLEM_TYPES[field.kind]
    chosen, auto = (
        get_loss_name(assembly, name, field.kind),
        get_part_name(get_target_part(assembly.config, "loss", name)) == "auto",
    )
    judged = [measure for measure, (target, _) in fit.trainer.metrics.items() if target == name]
    size = f" ({field.size})" if field.size else ""
    rows = [
        ["last layer", problem.last_layer, problem.last_layer],
        ["loss", f"{chosen} (auto)" if auto else chosen, ", ".join(problem.losses)],
        ["measures", ", ".join(judged), ", ".join(get_metric_names(field.kind))],
    ]
    return TextTable(
        f"target {name}: {field.kind}, {problem.text}{size}",
        ["", "here", "what there is for this kind"],
        rows,
    )


def build_loss_table(
    assembly: ExperimentBuilder, fit: BuiltFit, first: dict[str, InitialLoss], sample: list[Batch]
) -> TextTable:
    """The expected first loss beside the measured one, target by target, and what is added to it."""
    from dlrun.interpret.sandbox import count_batch_rows

    rows = []
    for name, found in first.items():
        field = fit.data.spec.targets[name]
        case = get_loss_name(assembly, name, field.kind), field.kind
        zero = ZERO_LOGIT_LOSSES.get(case, "").format(size=field.size)
        rows += [
            [
                name,
                "0 (it knows nothing)",
                format_number(found.zero),
                f"expected: {zero}" if zero else "expected",
            ],
            [name, *describe_baseline(assembly, fit, name, case, found.constant)],
            [name, "this model's, untrained", format_number(found.measured), "measured"],
        ]
    objective: Any = fit.trainer.objective
    extra = objective.model.penalty()
    if extra is not None:
        rows.append(["", "(any)", format_number(extra.item()), "penalty, L1 and L2"])
    seen = sum(map(count_batch_rows, sample))
    caption = f"mean over {seen:,} training rows"
    return TextTable(
        "first loss", ["target", "answer", "loss", "which is"], rows, caption, right=frozenset({2})
    )


def get_initial_loss_warnings(
    fit: BuiltFit, first: dict[str, InitialLoss], sample: list[Batch]
) -> Iterator[str]:
    """A warning in words for each target whose first loss is not what a model without knowledge gets."""
    from dlrun.interpret.initial_loss import find_largest_input

    for name, found in first.items():
        if not found.is_expected(fit.data.spec.targets[name].kind):
            column, value = find_largest_input(sample, list(fit.data.spec.inputs))
            yield (
                f"WARNING: target {name}: the first loss is {format_number(found.measured)}, but {format_number(found.zero)} is "
                f"expected of a model that knows nothing. {USUAL_CAUSES}. The largest input here is {value:.4g}, in {column}."
            )


def get_part_name(node: dict[str, Any]) -> str:
    """The name of what a node has chosen."""
    return str(node["_target_"]).rpartition(".")[2]


def get_loss_name(assembly: ExperimentBuilder, target: str, kind: str) -> str:
    """The loss that a target of this kind has."""
    name = get_part_name(get_target_part(assembly.config, "loss", target))
    return PROBLEM_TYPES[kind].losses[0] if name == "auto" else name


def describe_baseline(
    assembly: Any, fit: Any, target: str, case: tuple[str, str], loss: float
) -> list[str]:
    """The baseline's line: what it answers, the loss of that, and what this is called where it has a name."""
    if note := fit.baseline.objective.model.note:
        return [note.removeprefix("baseline: "), format_number(loss), "the baseline"]
    named = is_standard_loss(get_target_part(assembly.config, "loss", target))
    return [
        "the same for every row",
        format_number(loss),
        CONSTANT_LOSSES.get(case, "") if named else "",
    ]


def is_standard_loss(loss: dict[str, Any]) -> bool:
    """Whether a loss is neither smoothed nor weighted, so that its names for the constant answer hold."""
    return not loss.get("label_smoothing") and not loss.get("class_weights")
