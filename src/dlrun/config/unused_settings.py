"""Settings on the command line that have no effect, and options that one of them replaces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrun.config.compatibility import get_model_part_name
from dlrun.config.compose import ConfigComposer
from dlrun.config.validation import get_input_types

Config = dict[str, Any]
# Not trained by steps: constant, solved in closed form, or made of finished runs.
UNTRAINED_MODELS = ("constant", "linear_solved", "last_value", "same_time_before", "ensemble")
OWN_LOSS_OBJECTIVES = ("adversarial", "autoencoder", "dream", "policy", "style", "variational")
UNAUGMENTED_OBJECTIVES = ("dream", "policy", "style")
TRAINING_GROUPS = ("optimizer", "scheduler", "augment")
TRAINING_ENGINE_KEYS = (
    "epochs",
    "max_steps",
    "epoch_batches",
    "accumulate",
    "clip_norm",
    "clip_value",
    "ema",
    "compile",
)
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
ADDITIVE_GROUPS = ("callback", "augment")  # any number may be chosen


@dataclass(frozen=True)
class UnusedRule:
    """Settings that have no effect while a condition holds.

    Attributes:
        keys: Dotted keys of settings or whole groups.
        when: The condition on the config.
        why: The reason, for the user.
    """

    keys: tuple[str, ...]
    when: Callable[[Config], bool]
    why: str


def _get_model_name(config: Config) -> str:
    return get_model_part_name(config["model"])


def _get_objective_name(config: Config) -> str:
    return str((config.get("objective") or {}).get("_target_", "")).rpartition(".")[2]


def _get_part_name(config: Config, group: str) -> str:
    return str(config[group].get("_target_", ""))


def _has_no_sample(config: Config) -> bool:
    """Whether no part of this config has synthetic data to be used instead of its own."""
    data, model = config["data"], config["model"]
    inner_nodes = [node for node in data.values() if isinstance(node, dict)]
    has_source = any("source" in node for node in (data, model, *inner_nodes))
    return not has_source or (
        _get_part_name(config, "data") == "dlrun.data.shards.npz_dataset.shards"
        and data["path"] is not None
    )


def _reads_folder(config: Config) -> bool:
    path = config["data"].get("path")
    return isinstance(path, str) and (
        Path(path).expanduser().is_dir() or path.endswith(ARCHIVE_SUFFIXES)
    )


def _when_data(name: str, holds: Callable[[Config], bool]) -> Callable[[Config], bool]:
    return lambda config: _get_part_name(config, "data") == name and holds(config["data"])


CSV, IMAGES, TEXTS = (
    "dlrun.data.tabular.csv_dataset.csv",
    "dlrun.data.images.image_dataset.images",
    "dlrun.data.text.text_dataset.texts",
)
UNUSED_RULES = (
    UnusedRule(
        (*TRAINING_GROUPS, *(f"engine.{key}" for key in TRAINING_ENGINE_KEYS)),
        lambda c: _get_model_name(c) in UNTRAINED_MODELS,
        "this model is not trained by steps",
    ),
    UnusedRule(
        ("loss", "losses", "loss_weights", "metric", "metrics"),
        lambda c: _get_objective_name(c) in OWN_LOSS_OBJECTIVES,
        "this objective has a loss and metrics of its own (objective.loss, where it can be chosen)",
    ),
    UnusedRule(
        ("augment",),
        lambda c: _get_objective_name(c) in UNAUGMENTED_OBJECTIVES,
        "this objective augments nothing",
    ),
    UnusedRule(
        ("engine.shard",),
        lambda c: (
            c["engine"]["shard"] and not (c["engine"]["devices"] or "WORLD_SIZE" in os.environ)
        ),
        "one process keeps all weights; engine.devices=2 starts two",
    ),
    UnusedRule(
        ("engine.device",),
        lambda c: isinstance(c["engine"]["devices"], list),
        "engine.devices names the devices",
    ),
    UnusedRule(
        ("protocol.validation", "protocol.by", "protocol.folds", "protocol.shuffle"),
        lambda c: c["engine"]["overfit"] is not None,
        "engine.overfit trains and validates on the same first rows",
    ),
    UnusedRule(
        ("callback.keep_best",),
        lambda c: _get_part_name(c, "protocol").endswith(".whole"),
        "no rows are held out, so the last epoch is kept",
    ),
    UnusedRule(
        ("callback.samples",),
        lambda c: _get_objective_name(c) == "supervised",
        "this objective makes nothing that could be shown",
    ),
    UnusedRule(("reason",), lambda c: not c["test"], "it is for test=true"),
    UnusedRule(
        ("source",), _has_no_sample, "these data have no made-up sample in place of their own"
    ),
    UnusedRule(
        ("model.embedding",),
        lambda c: c["model"].get("category") == "onehot",
        "it is the width of learned vectors: model.category=embedding",
    ),
    UnusedRule(
        ("model.activation", "model.dropout", "model.batch_norm", "model.l1", "model.l2"),
        lambda c: c["model"].get("units") == [],
        "there is no hidden layer (model.units)",
    ),
    UnusedRule(
        ("model.rate",),
        lambda c: c["model"].get("unfreeze") == "none",
        "the base is frozen (model.unfreeze)",
    ),
    UnusedRule(
        ("model.encoder.embedding",),
        lambda c: (c["model"].get("encoder") or {}).get("vectors") is not None,
        "model.encoder.vectors brings its own width",
    ),
    UnusedRule(
        ("data.test", "data.seed"),
        lambda c: bool(c["data"].get("test_path")),
        "data.test_path has the test rows",
    ),
    UnusedRule(
        ("data.seed",),
        _when_data(CSV, lambda d: bool(d["order"])),
        "data.order sets the latest rows aside",
    ),
    UnusedRule(
        ("data.share_words",),
        _when_data(CSV, lambda d: len(d["texts"]) < 2),
        "data.texts names fewer than two columns",
    ),
    UnusedRule(
        ("text",),
        _when_data(CSV, lambda d: not d["texts"]),
        "no column is read as a text (data.texts=[COLUMN])",
    ),
    UnusedRule(
        ("data.separator", "data.columns"),
        _when_data(IMAGES, lambda d: d["labels"] is None),
        "it is for data.labels=FILE.csv",
    ),
    UnusedRule(
        ("data.separator", "data.header"),
        lambda c: _get_part_name(c, "data") == TEXTS and _reads_folder(c),
        "it is for a CSV file, and these texts are in a folder",
    ),
    UnusedRule(
        ("data.time_format",),
        _when_data("dlrun.data.series.series_dataset.series", lambda d: d["time"] is None),
        "it is for data.time=COLUMN",
    ),
    UnusedRule(
        ("data.encoding",),
        _when_data("dlrun.data.text.corpus.text_file", lambda d: d["path"] is None),
        "it is for data.path",
    ),
)


# (keys, kinds, why): no effect while no input is of one of the kinds.
INPUT_KIND_RULES = (
    (("model.category", "model.embedding"), ("category",), "no input is a category"),
    (("data.scale", "data.impute", "data.indicator"), ("number", "series"), "no input is a number"),
    (
        ("model.encoder.vectors", "model.encoder.freeze", "model.encoder.mask"),
        ("tokens",),
        "no input is a text; only its words have vectors and padding",
    ),
)


def find_unused_settings(
    config: Config, words: list[str], folders: list[Path], inputs: Mapping[str, str] | None = None
) -> list[str]:
    """Overrides that have no effect, and those that silently remove something; a line each.

    Args:
        config: The composed config.
        words: Its overrides.
        folders: The user's conf folders.
        inputs: Input → kind, once the data are read; None: as the task names them, if it does.
    """
    # Tables and folders name their columns only once they are read.
    task = config["task"].get("inputs") and get_input_types(config)
    kinds = set((inputs or task or {}).values())
    return list(
        dict.fromkeys(
            [*_find_unused(config, words, kinds), *_find_replaced(config, words, folders)]
        )
    )


def _is_in_keys(key: str, keys: tuple[str, ...]) -> bool:
    """Whether a key is one of these, or inside one of these groups."""
    return any(key == group or key.startswith(f"{group}.") for group in keys)


def _find_unused(config: Config, words: list[str], kinds: set[str]) -> Iterator[str]:
    for word in words:
        key = word.partition("=")[0].lstrip("+~").partition("@")[0]
        reasons = [
            rule.why for rule in UNUSED_RULES if _is_in_keys(key, rule.keys) and rule.when(config)
        ]
        reasons += [
            why
            for keys, needs, why in INPUT_KIND_RULES
            if _is_in_keys(key, keys) and kinds and not kinds & set(needs)
        ]
        # One reason is enough: the first is the most general.
        if reasons:
            yield f"{word} has no effect: {reasons[0]}"


def _find_replaced(config: Config, words: list[str], folders: list[Path]) -> Iterator[str]:
    for word in words:
        group, _, names = word.partition("=")
        if group in ADDITIVE_GROUPS and names.strip("[]") not in ("none", ""):
            other_words = [remaining for remaining in words if remaining != word]
            # Some of them may be settings of what this word chose: they are left out.
            without, _ = ConfigComposer(folders).compose(other_words)
            default_names = list(without.get(group) or ())
            lost = [name for name in default_names if name not in config[group]]
            new = [name for name in config[group] if name not in default_names]
            # Only where something was lost that the user may not have meant to lose.
            if lost and new:
                together = f"[{','.join(new)}]" if len(new) > 1 else new[0]
                added = quote_for_shell(f"+{group}={together}")
                replaced = ", ".join(lost)
                yield f"{word} takes the place of {replaced}; to add to what there is: {added}"
        beside_auto = group == "+metric" or (
            group == "metric" and "auto" in names.strip("[]").split(",")
        )
        if beside_auto and config["metric"]:
            yield (
                f"{word}: the usual metrics are measured only where no other is named; "
                "name all that are wanted: 'metric=[accuracy,…]'"
            )


def quote_for_shell(word: str) -> str:
    """An override quoted for a shell where that is needed."""
    return f"'{word}'" if set("[]{}* ") & set(word) else word
