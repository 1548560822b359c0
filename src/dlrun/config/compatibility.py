"""What goes with what: problems, objectives, models and inputs, as tables. Needs no torch."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dlrun.config.parts import list_builtin_parts
from dlrun.config.signatures import find_symbol
from dlrun.core.errors import format_names

NON_SEQUENCE_KINDS = ("number", "binary", "category", "multilabel", "fraction", "bag", "image")
SEQUENCE_KINDS = ("tokens", "series")
SINGLE_OUTPUT_KINDS = (
    "number",
    "fraction",
    "binary",
    "category",
    "multilabel",
)  # targets with one answer a row
READERS: dict[str, tuple[str, ...]] = {
    "embedding": ("tokens",),
    "convnet": ("image",),
}  # others: any sequence

ACCEPTS: dict[str, tuple[str, ...]] = {  # by the names of conf/model
    "constant": (*NON_SEQUENCE_KINDS, *SEQUENCE_KINDS),
    "linear": (*NON_SEQUENCE_KINDS, "series"),
    "linear_solved": (*NON_SEQUENCE_KINDS, *SEQUENCE_KINDS),
    "dense": (*NON_SEQUENCE_KINDS, "series"),
    "combined": (*NON_SEQUENCE_KINDS, *SEQUENCE_KINDS),
    "embedding": (*NON_SEQUENCE_KINDS, "tokens"),
    **dict.fromkeys(
        ("rnn", "lstm", "gru", "conv1d", "conv_gru", "transformer"),
        (*NON_SEQUENCE_KINDS, *SEQUENCE_KINDS),
    ),
    "convnet": NON_SEQUENCE_KINDS,
    "residual": NON_SEQUENCE_KINDS,
    "inception": NON_SEQUENCE_KINDS,
    "separable": NON_SEQUENCE_KINDS,
    "pretrained": NON_SEQUENCE_KINDS,
    **dict.fromkeys(
        ("bigram", "language_lstm", "language_gru", "language_transformer"), ("tokens",)
    ),
}
ANSWERS: dict[str, tuple[str, ...]] = {  # kinds of target; others: SINGLE
    "constant": (*SINGLE_OUTPUT_KINDS, "tokens"),
    "bigram": ("tokens", "category"),
    **dict.fromkeys(("language_lstm", "language_gru", "language_transformer"), ("tokens",)),
}
NEEDS: dict[str, tuple[str, ...]] = {  # at least one input of one of these kinds
    "combined": SEQUENCE_KINDS,
    "embedding": ("tokens",),
    **dict.fromkeys(("rnn", "lstm", "gru", "conv1d", "conv_gru", "transformer"), SEQUENCE_KINDS),
    **dict.fromkeys(("convnet", "residual", "inception", "separable", "pretrained"), ("image",)),
    **dict.fromkeys(
        ("bigram", "language_lstm", "language_gru", "language_transformer"), ("tokens",)
    ),
}
KIND_NAMES = {"image": "an image input", "tokens": "tokens", "series": "a series"}
SEQUENCE_HINT = "; words in turn come with text=sequence, for imdb and reuters with data.length=500"


def get_model_part_name(node: dict[str, Any]) -> str:
    """What the model that this node of a config describes is called: its reader's name where one reads all.

    A recurrent reader is called after its cell.
    """
    name = str(node.get("cell") or str(node.get("_target_", "")).rpartition(".")[2])
    reader = node.get("reader")
    if name != "combined" or not isinstance(reader, dict) or node.get("readers"):
        return name
    return get_encoder_name(reader)


def get_encoder_name(node: dict[str, Any]) -> str:
    """What a reader is called: the kind of its cells, where it has cells."""
    return str(node.get("cell") or str(node.get("_target_", "")).rpartition(".")[2])


def get_input_error(
    node: dict[str, Any], inputs: dict[str, str], targets: dict[str, str] | None = None
) -> str | None:
    """Why the model of this node cannot read these inputs, or answer these targets (name → kind), where they are known;
    None if it can, or is the user's own."""
    if not str(node.get("_target_", "")).startswith("dlrun."):
        return None
    readers, share = node.get("readers") or {}, node.get("share") or []
    if (
        not isinstance(readers, dict)
        or not isinstance(share, list)
        or not all(isinstance(g, list) for g in share)
    ):
        return None  # whoever checks types says so
    for name, reader in readers.items():
        if not isinstance(reader, dict):
            return f"model.readers.{name}={reader!r}: choose a reader by name: +reader@model.readers.{name}=NAME"
    named = next(
        find_encoder_errors(
            {name: get_encoder_name(reader) for name, reader in readers.items()}, share, inputs
        ),
        None,
    )
    return named or (
        None if readers else get_model_error(get_model_part_name(node), inputs, targets or {})
    )


def find_encoder_errors(
    readers: dict[str, str], share: list[list[str]], inputs: dict[str, str]
) -> Iterator[str]:
    """What is wrong with readers by input (input → the reader's name, '' where unknown) and with who shares one."""
    there = f"the inputs are {format_names(f'{name} ({kind})' for name, kind in inputs.items())}"
    for group in share:
        if len(group) < 2:
            yield f"model.share: {group} shares with nobody; name two inputs or more; {there}"
        if unknown := [name for name in group if name not in inputs]:
            yield f"model.share names {', '.join(unknown)}; {there}"
        elif flat := [
            name
            for name in group
            if inputs[name] not in SEQUENCE_KINDS and not set(group) & set(readers)
        ]:
            yield f"model.share names {', '.join(flat)}, which no reader reads; {there}"
    for name, reader in readers.items():
        if name not in inputs:
            yield f"model.readers names {name}; {there}"
            continue
        kinds = READERS.get(reader, SEQUENCE_KINDS) if reader else (*SEQUENCE_KINDS, "image")
        if inputs[name] not in kinds:
            yield f"model.readers.{name}: {reader or 'a reader'} reads {' or '.join(kinds)}; {there}"


def can_read_inputs(model: str, kinds: Iterable[str]) -> bool:
    """Whether a model of ours can read inputs of these kinds."""
    kinds, need = list(kinds), NEEDS.get(model)
    return all(kind in ACCEPTS[model] for kind in kinds) and (
        need is None or bool(set(need) & set(kinds))
    )


def can_predict_targets(model: str, kinds: Iterable[str]) -> bool:
    """Whether a model of ours can answer targets of these kinds."""
    return all(kind in ANSWERS.get(model, SINGLE_OUTPUT_KINDS) for kind in kinds)


def get_model_error(
    model: str, inputs: dict[str, str], targets: dict[str, str] | None = None
) -> str | None:
    """Why this model cannot read these inputs, or answer these targets (name → kind), and who can; None if it can, or
    is the user's own."""
    targets = targets or {}
    if model not in ACCEPTS:
        return None
    if can_read_inputs(model, inputs.values()):
        return get_output_error(model, inputs, targets)
    wrong = [f"{kind} '{name}'" for name, kind in inputs.items() if kind not in ACCEPTS[model]]
    needs = f"needs {' or '.join(KIND_NAMES[kind] for kind in NEEDS.get(model, ()))}"
    given = ", ".join(f"{kind} '{name}'" for name, kind in inputs.items())
    able = ", ".join(find_compatible_models(inputs, targets))
    hint = (
        SEQUENCE_HINT if not wrong and "tokens" in NEEDS[model] and "bag" in inputs.values() else ""
    )
    wants = f"cannot read {', '.join(wrong)}" if wrong else needs
    return (
        f"model={model} {wants}, but the data give {given}; models that can read it: {able}{hint}"
    )


def find_compatible_models(inputs: dict[str, str], targets: dict[str, str]) -> list[str]:
    """The models that read such inputs and answer such targets; of no known targets, those with one answer a row."""
    kinds = list(targets.values()) or ["number"]
    return [
        name
        for name in sorted(ACCEPTS)
        if can_read_inputs(name, inputs.values()) and can_predict_targets(name, kinds)
    ]


def get_output_error(model: str, inputs: dict[str, str], targets: dict[str, str]) -> str | None:
    """Why this model cannot answer these targets (name → kind), and who can; None if it can."""
    wrong = [name for name, kind in targets.items() if not can_predict_targets(model, [kind])]
    if not wrong:
        return None
    every = targets[wrong[0]] == "tokens"
    does = "answers once for each row" if every else "answers at each place of a text"
    asks = (
        "what comes next at each place of a text"
        if every
        else f"one {targets[wrong[0]]} for each row"
    )
    other = "next" if every else "every"
    hint = f"; or say data.predict={other}" if {"tokens"} == set(inputs.values()) else ""
    return (f"model={model} {does}, but target '{wrong[0]}' is {asks}; models that can answer it: "
            f"{', '.join(find_compatible_models(inputs, targets))}{hint}")  # fmt: skip


@dataclass(frozen=True)
class ProblemType:
    """One line of the table. losses: what makes sense; the first is the default."""

    text: str
    last_layer: str
    losses: tuple[str, ...]


PROBLEM_TYPES = {
    "binary": ProblemType("one of two classes", "sigmoid", ("bce", "focal", "mse", "mae", "huber")),
    "category": ProblemType(
        "one of several classes", "softmax", ("cross_entropy", "focal", "mse", "mae")
    ),
    "tokens": ProblemType(
        "at each place of a text, the token that comes next", "softmax", ("cross_entropy",)
    ),
    "multilabel": ProblemType("any of several labels", "sigmoid", ("bce", "focal", "mse")),
    "number": ProblemType("a number", "none", ("mse", "mae", "huber")),
    "fraction": ProblemType("a number in [0, 1]", "sigmoid", ("mse", "bce", "mae", "huber")),
}

PER_TARGET_GROUPS = {"loss": "losses", "metric": "metrics"}  # where a target has its own
PER_TARGET_OVERRIDES = {"losses": "+loss@losses.{}=NAME", "metrics": "'+metric@metrics.{}=[NAME]'"}
INCOMPATIBLE_LOSSES = {
    (
        "cross_entropy",
        "binary",
    ): "a binary target has one logit, and a softmax over one logit is always 1",
    (
        "cross_entropy",
        "multilabel",
    ): "a softmax makes the labels exclude each other, but a row may have several",
    ("cross_entropy", "number"): "a number is no class",
    ("cross_entropy", "fraction"): "a number is no class",
    (
        "bce",
        "category",
    ): "the classes exclude each other, but a sigmoid for each of them does not know that",
    (
        "bce",
        "tokens",
    ): "one token excludes the others, but a sigmoid for each of them does not know that",
    ("bce", "number"): "the target is not confined to [0, 1]",
    ("focal", "number"): "a number is no class",
    ("focal", "fraction"): "a number is no class",
}


def get_loss_error(loss: str, kind: str) -> str | None:
    """Why this loss makes no sense for this kind of target, with what does; None if it makes sense."""
    problem = PROBLEM_TYPES[kind]
    if loss == "auto" or loss in problem.losses:
        return None
    reason = INCOMPATIBLE_LOSSES.get((loss, kind), "it is not defined for it")
    return f"loss={loss} on a {kind} target: {reason}; there are: {', '.join(problem.losses)}"


@lru_cache(maxsize=1)
def read_metric_kinds() -> dict[str, tuple[str, ...]]:
    """Metric → the kinds of target that it is declared for, in the order of the declarations.

    Read from the source of the parts that `conf/metric` names, so that a config is checked without
    importing them: this room lies below them, and they lie beside torch.
    """
    symbols = filter(None, map(find_symbol, list_builtin_parts("metric")))
    functions = sorted((node for node, _ in symbols), key=lambda node: node.lineno)
    return {node.name: kinds for node in functions if (kinds := _read_declared_kinds(node))}


def _read_declared_kinds(node: ast.FunctionDef | ast.ClassDef) -> tuple[str, ...]:
    """`kinds=(…)` of the decorator `declare_metric`; () without it."""
    for decorator in node.decorator_list:
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if keyword.arg == "kinds":
                return tuple(ast.literal_eval(keyword.value))
    return ()


def get_metric_names(kind: str) -> tuple[str, ...]:
    """The metrics that are defined for a kind of target."""
    return tuple(name for name, kinds in read_metric_kinds().items() if kind in kinds)


def get_metric_error(metric: str, kind: str) -> str | None:
    """Why this metric makes no sense for this kind of target, with what does; None if it does."""
    names = get_metric_names(kind)
    if metric in names:
        return None
    return f"metric={metric} on a {kind} target is not defined; there are: {', '.join(names)}"


def add_target_hint(fault: str, group: str, target: str) -> str:
    """A fault of what all targets have, with how the target that it is about gets its own."""
    return f"{fault}; that is target '{target}', which gets its own by {PER_TARGET_OVERRIDES[PER_TARGET_GROUPS[group]].format(target)}"


def get_target_part(config: dict[str, Any], group: str, target: str) -> Any:
    """The loss (`loss`), or the measures (`metric`), of a target: its own, where it has some, or those of all."""
    return (config.get(PER_TARGET_GROUPS[group]) or {}).get(target) or config.get(group)


def get_target_names_error(config: dict[str, Any], targets: Iterable[str]) -> str | None:
    """Which of the settings by target name one that is not there; None if all are."""
    for group in ("losses", "metrics", "loss_weights"):
        if unknown := sorted(set(config.get(group) or {}) - set(targets)):
            return f"{group} names {', '.join(unknown)}; the targets are {format_names(targets)}"
    return None


PAIRS: dict[
    str, tuple[str, ...]
] = {  # objective → the models that it is made for, which answer no target
    "adversarial": ("dcgan", "dcgan_book"),
    "variational": ("vae",),
    "autoencoder": ("autoencoder",),
    "dream": ("layers",),
    "style": ("layers",),
}


def get_objective_error(objective: str, model: str) -> str | None:
    """Why this model does not go with this objective, and what does; None if it does, or one is the user's own."""
    if objective in PAIRS and model and model not in PAIRS[objective]:
        return f"objective={objective} is not made for model={model}; there are: {', '.join(PAIRS[objective])}"
    owners = [name for name, models in PAIRS.items() if model in models]
    if owners and objective and objective not in owners:
        return f"model={model} answers no target: it goes with objective={' or objective='.join(owners)}"
    return None
