"""`dlrun explain task=… model=…`: what would be trained, layer by layer and number by number, without training it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import PROBLEMS, name_of, of_target
from dlrun.config.compose import configure
from dlrun.config.overrides import user_folders
from dlrun.core.errors import Refused
from dlrun.core.formatting import number
from dlrun.launch.run_config import named_plugins
from dlrun.launch.run_log import logging_to
from dlrun.report.result_tables import Summary, rich_table

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.core.types import Batch
    from dlrun.experiment.builder import Assembly, Fit
    from dlrun.interpret.initial_loss import First


ROWS, BYTES = 4096, 1 << 26  # the first loss is measured on so many rows, or as many as take so many bytes
MEGA = 1e6
ZERO = {  # the loss of an answer of 0 (before the last layer), where it has a name
    ("cross_entropy", "category"): "ln {size}",
    ("cross_entropy", "tokens"): "ln {size}",
    ("bce", "binary"): "ln 2",
    ("bce", "multilabel"): "ln 2",
    ("bce", "fraction"): "ln 2",
    ("mse", "number"): "mean of y²",
    ("mae", "number"): "mean of |y|",
}
CONSTANT = {  # the loss of the prior as the answer for every row, where it has a name
    ("cross_entropy", "category"): "entropy of the class frequencies",
    ("cross_entropy", "tokens"): "entropy of the token frequencies",
    ("bce", "binary"): "entropy of the class frequencies",
    ("bce", "multilabel"): "mean entropy of the labels",
    ("mse", "number"): "variance of y",
    ("mae", "number"): "mean distance from the mean of y",
}
CAUSES = (
    "the usual causes: inputs that are not scaled, a last layer or a loss that does not fit the target, "
    "targets on another scale than the answers, starting weights that are too large"
)


def explain(words: list[str]) -> int:
    """Print what the words would train, and whether its first loss is plausible. Answers with the exit code."""
    from rich.console import Console

    console = Console(highlight=False)
    with assembled(words, console) as (assembly, fit):
        from dlrun.interpret.initial_loss import first_losses

        must_answer(assembly, fit)
        sample = training_sample(fit)
        assert fit.baseline is not None
        first = first_losses(fit.trainer, fit.baseline, sample)
        tables = [layer_table(assembly, fit, sample[0]), memory_table(fit, sample[0]), size_table(fit)]
        tables += [target_table(assembly, fit, name) for name in fit.data.spec.targets]
        console.print(*map(rich_table, [*tables, first_table(assembly, fit, first, sample)]))
        for line in doubts(fit, first, sample):
            console.print(line, style="bold red", soft_wrap=True, markup=False)
    return 0


@contextmanager
def assembled(words: list[str], console: Console) -> Iterator[tuple[Assembly, Fit]]:
    """The first fit that these words ask for, ready but not trained; what is written on the way is thrown away."""
    folders, rest = user_folders(words)
    plugins = named_plugins(rest)
    config = configure(rest, folders, plugins)
    config["engine"]["compile"] = False  # a few steps do not pay for it, and hooks do not see inside
    if "cache" in config["model"]:
        config["model"]["cache"] = False  # the whole network is to be seen, and looking at all pictures takes long
    from dlrun.experiment.builder import Assembly

    with tempfile.TemporaryDirectory(prefix="dlrun-") as name, logging_to(Path(name), console):
        assembly = Assembly(config, Path(name), plugins)
        job = assembly.plan([])
        assert job is not None
        fit = assembly.fit(job)
        if assembly.raw.note:
            console.print(assembly.raw.note, style="bold red", soft_wrap=True, markup=False)
        yield assembly, fit


def must_answer(assembly: Assembly, fit: Fit) -> None:
    """Raise Refused where there are no answers to look at."""
    from dlrun.training import batch_norm

    if not hasattr(fit.trainer.objective, "losses"):
        objective = assembly.config["objective"]["_target_"].rpartition(".")[2]
        raise Refused(f"objective={objective} answers no target, and this command looks at answers")
    batch_norm.check(fit.trainer.objective, fit.data.train, fit.trainer.settings.batch_rows)


def training_sample(fit: Fit) -> list[Batch]:
    """The first batches of the first epoch, as training will see them: at least one."""
    from dlrun.interpret.memory import bytes_of

    size = fit.trainer.settings.batch_rows
    batches = fit.data.train.batches(size, seed=fit.trainer.seed)
    first = next(batches)
    more = min(ROWS // size, BYTES // max(1, bytes_of(first.values()))) - 1
    return [first, *islice(batches, max(0, more))]


def layer_table(assembly: Assembly, fit: Fit, batch: Batch) -> Summary:
    """Inputs and layers: what comes out of each for one batch of B rows, and its parameters."""
    from dlrun.interpret.model_summary import layers, shape_text
    from dlrun.interpret.sandbox import rows_of

    inputs = [
        [name, field.kind, shape_text(batch[name], rows_of(batch)), ""] for name, field in fit.data.spec.inputs.items()
    ]
    objective: Any = fit.trainer.objective
    found = layers(objective.model, batch)
    rows = [[layer.name, layer.kind, layer.shape, f"{layer.parameters:,}"] for layer in found]
    total, trainable = sum(layer.parameters for layer in found), sum(layer.trainable for layer in found)
    caption = f"{total:,} parameters: {trainable:,} trainable, {total - trainable:,} frozen"
    title = f"{assembly.config['task']['name']} · {name_of(assembly.config['model'])}: layers"
    return Summary(title, ["name", "type", "output", "parameters"], inputs + rows, caption, right=frozenset({3}))


def memory_table(fit: Fit, batch: Batch) -> Summary:
    """What one training step takes, in millions of bytes."""
    from dlrun.interpret.memory import memory

    parts = memory(fit.trainer, batch)
    rows = [[each.what, f"{each.size / MEGA:.3f}", each.how] for each in parts]
    rows.append(
        ["together", f"{sum(each.size for each in parts) / MEGA:.3f}", "without the data's rows and torch itself"]
    )
    return Summary("memory", ["", "MB", "how it is known"], rows, right=frozenset({1}))


def size_table(fit: Fit) -> Summary:
    """Rows, batches and steps."""
    trainer, settings = fit.trainer, fit.trainer.settings
    rows, steps = len(fit.data.train), trainer.steps_planned
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
    return Summary("sizes", ["", "number"], [[name, cell] for name, cell in cells.items()], right=frozenset({1}))


def target_table(assembly: Assembly, fit: Fit, name: str) -> Summary:
    """How one target is answered and judged, beside what the book's table allows for its kind (§4.5)."""
    field = fit.data.spec.targets[name]
    problem = PROBLEMS[field.kind]
    chosen, auto = loss_name(assembly, name, field.kind), last_of(of_target(assembly.config, "loss", name)) == "auto"
    judged = [measure for measure, (target, _) in fit.trainer.measures.items() if target == name]
    size = f" ({field.size})" if field.size else ""
    rows = [
        ["last layer", problem.last_layer, problem.last_layer],
        ["loss", f"{chosen} (auto)" if auto else chosen, ", ".join(problem.losses)],
        ["measures", ", ".join(judged), ", ".join(problem.metrics)],
    ]
    return Summary(
        f"target {name}: {field.kind}, {problem.text}{size}", ["", "here", "what there is for this kind"], rows
    )


def first_table(assembly: Assembly, fit: Fit, first: dict[str, First], sample: list[Batch]) -> Summary:
    """The expected first loss beside the measured one, target by target, and what is added to it."""
    from dlrun.interpret.sandbox import rows_of

    rows = []
    for name, found in first.items():
        field = fit.data.spec.targets[name]
        case = loss_name(assembly, name, field.kind), field.kind
        zero = ZERO.get(case, "").format(size=field.size)
        rows += [
            [name, "0 (it knows nothing)", number(found.zero), f"expected: {zero}" if zero else "expected"],
            [name, *common_sense(assembly, fit, name, case, found.constant)],
            [name, "this model's, untrained", number(found.measured), "measured"],
        ]
    objective: Any = fit.trainer.objective
    extra = objective.penalty()
    if extra is not None:
        rows.append(["", "(any)", number(extra.item()), "penalty, L1 and L2"])
    seen = sum(map(rows_of, sample))
    caption = f"mean over {seen:,} training rows"
    return Summary("first loss", ["target", "answer", "loss", "which is"], rows, caption, right=frozenset({2}))


def doubts(fit: Fit, first: dict[str, First], sample: list[Batch]) -> Iterator[str]:
    """A warning in words for each target whose first loss is not what a model without knowledge gets."""
    from dlrun.interpret.initial_loss import largest

    for name, found in first.items():
        if not found.plausible(fit.data.spec.targets[name].kind):
            column, value = largest(sample, list(fit.data.spec.inputs))
            yield (
                f"WARNING: target {name}: the first loss is {number(found.measured)}, but {number(found.zero)} is "
                f"expected of a model that knows nothing. {CAUSES}. The largest input here is {value:.4g}, in {column}."
            )


def last_of(node: dict[str, Any]) -> str:
    """The name of what a node has chosen."""
    return str(node["_target_"]).rpartition(".")[2]


def loss_name(assembly: Assembly, target: str, kind: str) -> str:
    """The loss that a target of this kind has."""
    name = last_of(of_target(assembly.config, "loss", target))
    return PROBLEMS[kind].losses[0] if name == "auto" else name


def common_sense(assembly: Any, fit: Any, target: str, case: tuple[str, str], loss: float) -> list[str]:
    """The baseline's line: what it answers, the loss of that, and what this is called where it has a name."""
    if note := getattr(fit.baseline.objective.model, "note", ""):
        return [note.removeprefix("baseline: "), number(loss), "the baseline"]
    named = plain(of_target(assembly.config, "loss", target))
    return ["the same for every row", number(loss), CONSTANT.get(case, "") if named else ""]


def plain(loss: dict[str, Any]) -> bool:
    """Whether a loss is neither smoothed nor weighted, so that its names for the constant answer hold."""
    return not loss.get("label_smoothing") and not loss.get("class_weights")
