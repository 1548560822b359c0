"""What goes with what: problems, losses, objectives, models and inputs. Needs no torch."""

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
# Targets with one prediction a row.
SINGLE_OUTPUT_KINDS = ("number", "fraction", "binary", "category", "multilabel")
# Encoder → kinds of input; any other encoder takes sequences.
ENCODERS: dict[str, tuple[str, ...]] = {"embedding": ("tokens",), "convnet": ("image",)}

# Model, by its name in conf/model → kinds of input that it can take at all.
ACCEPTS: dict[str, tuple[str, ...]] = {
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
# Model → kinds of target; any other model: SINGLE_OUTPUT_KINDS.
ANSWERS: dict[str, tuple[str, ...]] = {
    "constant": (*SINGLE_OUTPUT_KINDS, "tokens"),
    "bigram": ("tokens", "category"),
    **dict.fromkeys(("language_lstm", "language_gru", "language_transformer"), ("tokens",)),
}
# Model → kinds of which it needs at least one input.
NEEDS: dict[str, tuple[str, ...]] = {
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
    """The name of the model of a config node.

    Args:
        node: A `model` node. A model with one encoder for all inputs is called after the encoder,
            a recurrent encoder after its cell.
    """
    name = str(node.get("cell") or str(node.get("_target_", "")).rpartition(".")[2])
    encoder = node.get("encoder")
    if name != "combined" or not isinstance(encoder, dict) or node.get("encoders"):
        return name
    return get_encoder_name(encoder)


def get_encoder_name(node: dict[str, Any]) -> str:
    """The name of an encoder; of a recurrent one its kind of cell."""
    return str(node.get("cell") or str(node.get("_target_", "")).rpartition(".")[2])


def get_input_error(
    node: dict[str, Any], inputs: dict[str, str], targets: dict[str, str] | None = None
) -> str | None:
    """Why a model cannot take these inputs, or predict these targets.

    Args:
        node: A `model` node.
        inputs: Input → kind.
        targets: Target → kind, where they are known.

    Returns:
        None if it can, or is the user's own.
    """
    # Nothing is known of the user's own models.
    if not str(node.get("_target_", "")).startswith("dlrun."):
        return None
    encoders, shared = node.get("encoders") or {}, node.get("share") or []
    if (
        not isinstance(encoders, dict)
        or not isinstance(shared, list)
        or not all(isinstance(group, list) for group in shared)
    ):
        return None  # whoever checks types says so
    for name, encoder in encoders.items():
        if not isinstance(encoder, dict):
            return (
                f"model.encoders.{name}={encoder!r}: "
                f"choose an encoder by name: +encoder@model.encoders.{name}=NAME"
            )
    encoder_error = next(
        find_encoder_errors(
            {name: get_encoder_name(encoder) for name, encoder in encoders.items()}, shared, inputs
        ),
        None,
    )
    return encoder_error or (
        None if encoders else get_model_error(get_model_part_name(node), inputs, targets or {})
    )


def find_encoder_errors(
    encoders: dict[str, str], shared: list[list[str]], inputs: dict[str, str]
) -> Iterator[str]:
    """What is wrong with the encoders of single inputs.

    Args:
        encoders: Input → encoder's name, "" where unknown.
        shared: Groups of inputs that share one encoder.
        inputs: Input → kind.
    """
    available = (
        f"the inputs are {format_names(f'{name} ({kind})' for name, kind in inputs.items())}"
    )
    for group in shared:
        if len(group) < 2:
            yield f"model.share: {group} shares with nobody; name two inputs or more; {available}"
        if unknown := [name for name in group if name not in inputs]:
            yield f"model.share names {', '.join(unknown)}; {available}"
        elif not_encoded := [
            name
            for name in group
            if inputs[name] not in SEQUENCE_KINDS and not set(group) & set(encoders)
        ]:
            yield f"model.share names {', '.join(not_encoded)}, which no encoder reads; {available}"
    for name, encoder in encoders.items():
        if name not in inputs:
            yield f"model.encoders names {name}; {available}"
            continue
        kinds = ENCODERS.get(encoder, SEQUENCE_KINDS) if encoder else (*SEQUENCE_KINDS, "image")
        if inputs[name] not in kinds:
            accepted = " or ".join(kinds)
            yield f"model.encoders.{name}: {encoder or 'an encoder'} reads {accepted}; {available}"


def can_read_inputs(model: str, kinds: Iterable[str]) -> bool:
    """Whether a model of ours can take inputs of these kinds."""
    kinds, need = list(kinds), NEEDS.get(model)
    return all(kind in ACCEPTS[model] for kind in kinds) and (
        need is None or bool(set(need) & set(kinds))
    )


def can_predict_targets(model: str, kinds: Iterable[str]) -> bool:
    """Whether a model of ours can predict targets of these kinds."""
    return all(kind in ANSWERS.get(model, SINGLE_OUTPUT_KINDS) for kind in kinds)


def get_model_error(
    model: str, inputs: dict[str, str], targets: dict[str, str] | None = None
) -> str | None:
    """Why a model cannot take these inputs, or predict these targets, and which can.

    Args:
        model: Its name in conf/model.
        inputs: Input → kind.
        targets: Target → kind, where they are known.

    Returns:
        None if it can, or is the user's own.
    """
    targets = targets or {}
    if model not in ACCEPTS:
        return None
    # The inputs come first: a model that cannot read them cannot predict anything.
    if can_read_inputs(model, inputs.values()):
        return get_output_error(model, inputs, targets)
    wrong = [f"{kind} '{name}'" for name, kind in inputs.items() if kind not in ACCEPTS[model]]
    needs = f"needs {' or '.join(KIND_NAMES[kind] for kind in NEEDS.get(model, ()))}"
    listed = ", ".join(f"{kind} '{name}'" for name, kind in inputs.items())
    able = ", ".join(find_compatible_models(inputs, targets))
    hint = (
        SEQUENCE_HINT if not wrong and "tokens" in NEEDS[model] and "bag" in inputs.values() else ""
    )
    wants = f"cannot read {', '.join(wrong)}" if wrong else needs
    return (
        f"model={model} {wants}, but the data give {listed}; models that can read it: {able}{hint}"
    )


def find_compatible_models(inputs: dict[str, str], targets: dict[str, str]) -> list[str]:
    """The models of ours for such inputs and targets; unknown targets are single numbers."""
    kinds = list(targets.values()) or ["number"]
    return [
        name
        for name in sorted(ACCEPTS)
        if can_read_inputs(name, inputs.values()) and can_predict_targets(name, kinds)
    ]


def get_output_error(model: str, inputs: dict[str, str], targets: dict[str, str]) -> str | None:
    """Why a model cannot predict these targets (name → kind), and which can; None if it can."""
    wrong = [name for name, kind in targets.items() if not can_predict_targets(model, [kind])]
    if not wrong:
        return None
    if targets[wrong[0]] == "tokens":
        ability, question = (
            "predicts once for each row",
            "the next token at each position of a text",
        )
        setting = "next"
    else:
        ability, question = (
            "predicts at each position of a text",
            f"one {targets[wrong[0]]} for each row",
        )
        setting = "every"
    hint = f"; or say data.predict={setting}" if {"tokens"} == set(inputs.values()) else ""
    return (
        f"model={model} {ability}, but target '{wrong[0]}' is {question}; "
        f"models that can predict it: {', '.join(find_compatible_models(inputs, targets))}{hint}"
    )


@dataclass(frozen=True)
class ProblemType:
    """One line of the book's table of problems (§4.5).

    Attributes:
        text: What a target of this kind asks, in words.
        last_layer: Activation that makes predictions of logits.
        losses: Losses that make sense; the first is the default.
    """

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
# Loss → kind of target → why they do not go together.
INCOMPATIBLE_LOSSES = {
    "cross_entropy": {
        "binary": "a binary target has one logit, and a softmax over one logit is always 1",
        "multilabel": "a softmax makes the labels exclude each other, but a row may have several",
        "number": "a number is no class",
        "fraction": "a number is no class",
    },
    "bce": {
        "category": (
            "the classes exclude each other, but a sigmoid for each of them does not know that"
        ),
        "tokens": (
            "one token excludes the others, but a sigmoid for each of them does not know that"
        ),
        "number": "the target is not confined to [0, 1]",
    },
    "focal": {"number": "a number is no class", "fraction": "a number is no class"},
}


def get_loss_error(loss: str, kind: str) -> str | None:
    """Why a loss makes no sense for a kind of target, and which do; None if it does."""
    problem = PROBLEM_TYPES[kind]
    if loss == "auto" or loss in problem.losses:
        return None
    reason = INCOMPATIBLE_LOSSES.get(loss, {}).get(kind, "it is not defined for it")
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
    """Why a metric makes no sense for a kind of target, and which do; None if it does."""
    names = get_metric_names(kind)
    if metric in names:
        return None
    return f"metric={metric} on a {kind} target is not defined; there are: {', '.join(names)}"


def add_target_hint(fault: str, group: str, target: str) -> str:
    """A fault of a loss or metric for all targets, with how one target gets its own."""
    override = PER_TARGET_OVERRIDES[PER_TARGET_GROUPS[group]].format(target)
    return f"{fault}; that is target '{target}', which gets its own by {override}"


def get_target_part(config: dict[str, Any], group: str, target: str) -> Any:
    """The loss (`loss`) or the metrics (`metric`) of a target: its own, or those of all."""
    return (config.get(PER_TARGET_GROUPS[group]) or {}).get(target) or config.get(group)


def get_target_names_error(config: dict[str, Any], targets: Iterable[str]) -> str | None:
    """Which setting names a target that does not exist; None if none does."""
    for group in ("losses", "metrics", "loss_weights"):
        if unknown := sorted(set(config.get(group) or {}) - set(targets)):
            return f"{group} names {', '.join(unknown)}; the targets are {format_names(targets)}"
    return None


# Objective → the models that it is made for. They predict no target.
PAIRS: dict[str, tuple[str, ...]] = {
    "adversarial": ("dcgan", "dcgan_book"),
    "variational": ("vae",),
    "autoencoder": ("autoencoder",),
    "dream": ("layers",),
    "style": ("layers",),
}


def get_objective_error(objective: str, model: str) -> str | None:
    """Why a model does not go with an objective, and what does.

    Returns:
        None if it does, or one of them is the user's own.
    """
    if objective in PAIRS and model and model not in PAIRS[objective]:
        available = ", ".join(PAIRS[objective])
        return f"objective={objective} is not made for model={model}; there are: {available}"
    # The other direction: such a model predicts no target, so no other objective can train it.
    owners = [name for name, models in PAIRS.items() if model in models]
    if owners and objective and objective not in owners:
        choices = " or objective=".join(owners)
        return f"model={model} predicts no target: it goes with objective={choices}"
    return None
