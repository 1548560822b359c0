"""Names of earlier versions → today's: of parts, settings, groups, choices and commands.

The one table by which old run folders, old command lines and the user's own YAML keep working.
Needs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# Setting → today's, both with the key around them: a key called `reader` elsewhere is another one.
CURRENT_KEYS: dict[str, str] = {
    "augment.colour": "augment.color",
    "model.reader": "model.encoder",
    "model.readers": "model.encoders",
    "objective.keep_colours": "objective.keep_colors",
    "text.normalise": "text.normalize",
}
# Choice of a setting, or option of a group → today's.
CURRENT_CHOICES: dict[str, str] = {
    "augment=colour": "augment=color",
    "data.scale=standardise": "data.scale=standardize",
    "model.preprocess=normalise": "model.preprocess=normalize",
    "objective.baseline=normalise": "objective.baseline=normalize",
    "optimizer=normalised": "optimizer=normalized",
}
# What tasks were said to be, which is part of a saved config.
CURRENT_QUESTIONS: dict[str, str] = {
    "Which of ten digits an 8×8 grey picture shows": "Which of ten digits an 8×8 gray image shows",
    "Which kind of garment a 28×28 picture shows": "Which kind of garment a 28×28 image shows",
    "Make pictures of frogs (or of another class of CIFAR-10), 32×32 pixels in colour": (
        "Make images of frogs (or of another class of CIFAR-10), 32×32 pixels in color"
    ),
    "The class, or the labels, of your own pictures: data.path=photos/ with one folder a class": (
        "The class, or the labels, of your own images: data.path=photos/ with one folder a class"
    ),
    "Which digit a handwritten 28×28 picture shows": "Which digit a handwritten 28×28 image shows",
    "Make pictures like your own, which need no classes: data.path=photos/": (
        "Make images like your own, which need no classes: data.path=photos/"
    ),
    "By how much a picture was turned: 0°, 90°, 180° or 270°": (
        "By how much an image was turned: 0°, 90°, 180° or 270°"
    ),
    "A photograph in the manner of another picture: content=photo.jpg style=painting.jpg": (
        "A photograph in the manner of another image: content=photo.jpg style=painting.jpg"
    ),
}
CURRENT_GROUPS: dict[str, str] = {"reader": "encoder"}
CURRENT_COMMANDS: dict[str, str] = {"neighbours": "neighbors"}

CURRENT_NAMES: dict[str, str] = {
    "dlrun.augment.colour": "dlrun.data.augmentation.pipeline.color",
    "dlrun.augment.crop": "dlrun.data.augmentation.pipeline.crop",
    "dlrun.augment.cutmix": "dlrun.data.augmentation.pipeline.cutmix",
    "dlrun.augment.flip": "dlrun.data.augmentation.pipeline.flip",
    "dlrun.augment.mixup": "dlrun.data.augmentation.pipeline.mixup",
    "dlrun.augment.rotate": "dlrun.data.augmentation.pipeline.rotate",
    "dlrun.augment.shear": "dlrun.data.augmentation.pipeline.shear",
    "dlrun.augment.shift": "dlrun.data.augmentation.pipeline.shift",
    "dlrun.augment.zoom": "dlrun.data.augmentation.pipeline.zoom",
    "dlrun.callbacks.activations": "dlrun.training.callbacks.activations",
    "dlrun.callbacks.collapse": "dlrun.training.callbacks.collapse",
    "dlrun.callbacks.early_stopping": "dlrun.training.callbacks.early_stopping",
    "dlrun.callbacks.keep_best": "dlrun.training.callbacks.keep_best",
    "dlrun.callbacks.limit": "dlrun.training.callbacks.limit",
    "dlrun.callbacks.samples": "dlrun.training.callbacks.samples",
    "dlrun.callbacks.tensorboard": "dlrun.training.callbacks.tensorboard",
    "dlrun.data.augmentation.pipeline.colour": "dlrun.data.augmentation.pipeline.color",
    "dlrun.data.cartpole.cartpole": "dlrun.data.datasets.cartpole.cartpole",
    "dlrun.data.cats_dogs.cats_dogs": "dlrun.data.datasets.cats_dogs.cats_dogs",
    "dlrun.data.control.cart_pole": "dlrun.data.environments.make_cartpole",
    "dlrun.data.embedded.breast_cancer": "dlrun.data.datasets.sklearn_datasets.breast_cancer",
    "dlrun.data.embedded.diabetes": "dlrun.data.datasets.sklearn_datasets.diabetes",
    "dlrun.data.embedded.digits": "dlrun.data.datasets.sklearn_datasets.digits",
    "dlrun.data.embedded.wine": "dlrun.data.datasets.sklearn_datasets.wine",
    "dlrun.data.frogs.frogs": "dlrun.data.datasets.cifar_frogs.frogs",
    "dlrun.data.housing.boston_housing": "dlrun.data.datasets.housing.boston_housing",
    "dlrun.data.housing.california_housing": "dlrun.data.datasets.housing.california_housing",
    "dlrun.data.images.images": "dlrun.data.images.image_dataset.images",
    "dlrun.data.imdb_text.imdb_text": "dlrun.data.datasets.imdb_raw.imdb_text",
    "dlrun.data.invented.questions": "dlrun.data.datasets.synthetic_multi_input.questions",
    "dlrun.data.invented.similarity": "dlrun.data.datasets.synthetic_multi_input.similarity",
    "dlrun.data.invented.social": "dlrun.data.datasets.synthetic_multi_input.social",
    "dlrun.data.invented.tickets": "dlrun.data.datasets.synthetic_multi_input.tickets",
    "dlrun.data.jena.jena_climate": "dlrun.data.datasets.jena.jena_climate",
    "dlrun.data.language.book": "dlrun.data.text.corpus.text_corpus",
    "dlrun.data.mnist.fashion_mnist": "dlrun.data.datasets.mnist.fashion_mnist",
    "dlrun.data.mnist.mnist": "dlrun.data.datasets.mnist.mnist",
    "dlrun.data.photograph.content_style": "dlrun.data.images.single_image.content_style",
    "dlrun.data.photograph.photograph": "dlrun.data.images.single_image.photograph",
    "dlrun.data.rotations.rotations": "dlrun.data.images.rotation_pretext.rotations",
    "dlrun.data.series.series": "dlrun.data.series.series_dataset.series",
    "dlrun.data.shards.shards": "dlrun.data.shards.npz_dataset.shards",
    "dlrun.data.table_csv.csv": "dlrun.data.tabular.csv_dataset.csv",
    "dlrun.data.text_file.text_file": "dlrun.data.text.corpus.text_file",
    "dlrun.data.text_steps.bag": "dlrun.data.preprocessing.text.bag",
    "dlrun.data.text_steps.hashing": "dlrun.data.preprocessing.text.hashing",
    "dlrun.data.text_steps.sequence": "dlrun.data.preprocessing.text.sequence",
    "dlrun.data.text_steps.tf_idf": "dlrun.data.preprocessing.text.tf_idf",
    "dlrun.data.texts.texts": "dlrun.data.text.text_dataset.texts",
    "dlrun.data.unlabelled.pictures": "dlrun.data.images.image_dataset.unlabeled",
    "dlrun.data.words.imdb": "dlrun.data.datasets.imdb_reuters.imdb",
    "dlrun.data.words.reuters": "dlrun.data.datasets.imdb_reuters.reuters",
    "dlrun.losses.auto": "dlrun.objectives.losses.auto",
    "dlrun.losses.bce": "dlrun.objectives.losses.bce",
    "dlrun.losses.cross_entropy": "dlrun.objectives.losses.cross_entropy",
    "dlrun.losses.focal": "dlrun.objectives.losses.focal",
    "dlrun.losses.huber": "dlrun.objectives.losses.huber",
    "dlrun.losses.mae": "dlrun.objectives.losses.mae",
    "dlrun.losses.mse": "dlrun.objectives.losses.mse",
    "dlrun.metrics.accuracy": "dlrun.evaluation.metrics.accuracy",
    "dlrun.metrics.bits": "dlrun.evaluation.metrics.bits",
    "dlrun.metrics.exact_match": "dlrun.evaluation.metrics.exact_match",
    "dlrun.metrics.f1": "dlrun.evaluation.metrics.f1",
    "dlrun.metrics.mae": "dlrun.evaluation.metrics.mae",
    "dlrun.metrics.mae_unit": "dlrun.evaluation.metrics.mae_unit",
    "dlrun.metrics.mse": "dlrun.evaluation.metrics.mse",
    "dlrun.metrics.perplexity": "dlrun.evaluation.metrics.perplexity",
    "dlrun.metrics.pr_auc": "dlrun.evaluation.metrics.pr_auc",
    "dlrun.metrics.precision": "dlrun.evaluation.metrics.precision",
    "dlrun.metrics.r2": "dlrun.evaluation.metrics.r2",
    "dlrun.metrics.recall": "dlrun.evaluation.metrics.recall",
    "dlrun.metrics.rmse": "dlrun.evaluation.metrics.rmse",
    "dlrun.metrics.rmse_unit": "dlrun.evaluation.metrics.rmse_unit",
    "dlrun.metrics.roc_auc": "dlrun.evaluation.metrics.roc_auc",
    "dlrun.metrics.top_k": "dlrun.evaluation.metrics.top_k",
    "dlrun.models.autoencoders.autoencoder": "dlrun.models.generative.autoencoder.autoencoder",
    "dlrun.models.autoencoders.vae": "dlrun.models.generative.autoencoder.vae",
    "dlrun.models.combined.combined": "dlrun.models.multi_input.combined",
    "dlrun.models.constant.constant": "dlrun.models.baselines.constant",
    "dlrun.models.convnet.convnet": "dlrun.models.vision.convnet.convnet",
    "dlrun.models.dcgan.dcgan": "dlrun.models.generative.dcgan.dcgan",
    "dlrun.models.dcgan.dcgan_book": "dlrun.models.generative.dcgan.dcgan_book",
    "dlrun.models.ensemble.ensemble": "dlrun.models.ensemble.ensemble.ensemble",
    "dlrun.models.inception.inception": "dlrun.models.vision.inception.inception",
    "dlrun.models.language.language_gru": "dlrun.models.language.language_model.language_gru",
    "dlrun.models.language.language_lstm": "dlrun.models.language.language_model.language_lstm",
    "dlrun.models.language.language_transformer": (
        "dlrun.models.language.language_model.language_transformer"
    ),
    "dlrun.models.layered.layers": "dlrun.models.pretrained.feature_extractor.layers",
    "dlrun.models.naive.last_value": "dlrun.models.baselines.last_value",
    "dlrun.models.naive.same_time_before": "dlrun.models.baselines.same_time_before",
    "dlrun.models.pictures.convnet": "dlrun.models.vision.tower.convnet",
    "dlrun.models.pretrained.pretrained": "dlrun.models.pretrained.transfer.pretrained",
    "dlrun.models.readers.conv1d": "dlrun.models.sequence.encoders.conv1d",
    "dlrun.models.readers.conv_gru": "dlrun.models.sequence.encoders.conv_gru",
    "dlrun.models.readers.embedding": "dlrun.models.sequence.encoders.embedding",
    "dlrun.models.readers.recurrent": "dlrun.models.sequence.encoders.recurrent",
    "dlrun.models.readers.transformer": "dlrun.models.sequence.encoders.transformer",
    "dlrun.models.residual.residual": "dlrun.models.vision.residual.residual",
    "dlrun.models.separable.separable": "dlrun.models.vision.separable.separable",
    "dlrun.models.solved.linear_solved": "dlrun.models.closed_form.linear_solved",
    "dlrun.objectives.adversarial.adversarial": "dlrun.objectives.gan.adversarial",
    "dlrun.objectives.dream.dream": "dlrun.objectives.deep_dream.dream",
    "dlrun.objectives.frechet.frechet": "dlrun.objectives.frechet_distance.frechet",
    "dlrun.objectives.language.language": "dlrun.objectives.language_model.language",
    "dlrun.objectives.policy.policy": "dlrun.objectives.policy_gradient.policy",
    "dlrun.objectives.style.style": "dlrun.objectives.style_transfer.style",
    "dlrun.objectives.variational.variational": "dlrun.objectives.vae.variational",
    "dlrun.optim.MeanNormalised": "dlrun.training.optimizers.MeanNormalizedGradientDescent",
    "dlrun.optim.RMSprop": "dlrun.training.optimizers.RMSprop",
    "dlrun.optim.constant": "dlrun.training.schedules.constant",
    "dlrun.optim.cosine": "dlrun.training.schedules.cosine",
    "dlrun.optim.onecycle": "dlrun.training.schedules.onecycle",
    "dlrun.optim.plateau": "dlrun.training.schedules.plateau",
    "dlrun.optim.step": "dlrun.training.schedules.step",
    "dlrun.protocols.octaves.octaves": "dlrun.evaluation.protocols.octaves.octaves",
    "dlrun.protocols.plans.few": "dlrun.evaluation.protocols.plans.few",
    "dlrun.protocols.plans.holdout": "dlrun.evaluation.protocols.plans.holdout",
    "dlrun.protocols.plans.iterated_kfold": "dlrun.evaluation.protocols.plans.iterated_kfold",
    "dlrun.protocols.plans.kfold": "dlrun.evaluation.protocols.plans.kfold",
    "dlrun.protocols.plans.walk_forward": "dlrun.evaluation.protocols.plans.walk_forward",
    "dlrun.protocols.plans.whole": "dlrun.evaluation.protocols.plans.whole",
    "dlrun.protocols.stages.stages": "dlrun.evaluation.protocols.two_stages.stages",
    "dlrun.settings.Settings": "dlrun.config.settings.Settings",
    "dlrun.settings.Sweep": "dlrun.config.settings.Sweep",
    "dlrun.settings.Workflow": "dlrun.config.settings.Workflow",
}


# In the order of a Renamer's attributes.
TABLES = (CURRENT_NAMES, CURRENT_KEYS, CURRENT_CHOICES, CURRENT_GROUPS, CURRENT_QUESTIONS)

# SIGN KEY @PACKAGE =VALUE; without a value it must be removed (~) to be an override.
OVERRIDE_PATTERN = re.compile(
    r"(?P<sign>\+{0,2}|~)(?P<key>[A-Za-z_][\w./-]*)(?P<at>@[^=]*)?(?P<value>=.*)?", re.DOTALL
)
# A word that may be the name of a choice: no part of a path or of a dotted name.
CHOICE_PATTERN = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?![\w./-])")


@dataclass
class Renamer:
    """Replaces names, and records which it met.

    Attributes:
        targets: Full name of a part → its replacement.
        keys: Setting, with the key around it → its replacement.
        choices: SETTING=VALUE or GROUP=OPTION → its replacement.
        groups: Group → its replacement.
        questions: Of a task → its replacement.
        own: What stays as it is: GROUP=OPTION of the user's own, and settings of their parts.
        replaced: Name → replacement, of those that were met.
    """

    targets: Mapping[str, str]
    keys: Mapping[str, str]
    choices: Mapping[str, str]
    groups: Mapping[str, str]
    questions: Mapping[str, str]
    own: Container[str] = ()
    replaced: dict[str, str] = field(default_factory=dict)

    def rename_path(self, path: str) -> str:
        """A dotted key, or a text with such keys in it, as interpolations have them."""
        return _compile_keys(tuple(self.keys)).sub(
            lambda key: self._replace(key[0], self.keys), path
        )

    def rename_choices(self, key: str, text: str) -> str:
        """The value of a setting or group: one choice, or several as an override has them."""
        if key == "task.question":
            return self.questions.get(text, text)
        # Most values cannot be meant: they are not searched.
        if not any(choice.startswith(f"{key}=") for choice in self.choices):
            return text
        return CHOICE_PATTERN.sub(
            lambda word: self._replace(f"{key}={word[0]}", self.choices).partition("=")[2], text
        )

    def rename_group(self, group: str) -> str:
        """A group of the config."""
        return self._replace(group, self.groups)

    def rename_tree(self, value: Any, around: str = "") -> Any:
        """A config, or any part of one.

        Args:
            value: Mappings, lists and plain values.
            around: The dotted key that it stands under; its last two names suffice.
        """
        if isinstance(value, list):
            return [self.rename_tree(item, around) for item in value]
        if isinstance(value, str):
            text = self.rename_choices(around, value)
            return self.rename_path(text) if "${" in text else text
        if not isinstance(value, Mapping):
            return value
        target = value.get("_target_")
        # Settings of the user's own parts are called what the user calls them.
        if isinstance(target, str) and not target.startswith("dlrun."):
            around = ""
        return dict(self._rename_item(key, item, around) for key, item in value.items())

    def _rename_item(self, key: Any, item: Any, around: str) -> tuple[Any, Any]:
        if key == "_target_" and isinstance(item, str):
            return key, self.targets.get(item, item)
        prefix = f"{around}." if around else ""
        # A flat key may hold the one around it, too: model.reader.units.
        path = self.rename_path(f"{prefix}{key}")
        new_key = path[len(prefix) :] if isinstance(key, str) else key
        return new_key, self.rename_tree(item, ".".join(path.split(".")[-2:]))

    def _replace(self, name: str, table: Mapping[str, str]) -> str:
        if name not in table or name in self.own:
            return name
        self.replaced[name] = table[name]
        return table[name]


@cache
def _compile_keys(keys: tuple[str, ...]) -> re.Pattern[str]:
    # Other keys may stand around it: patch.model.reader; and ${ or : before it.
    return re.compile(rf"(?<![\w/-])({'|'.join(map(re.escape, keys))})(?![\w-])")


_OLD_WORDS = re.compile(
    "|".join(
        sorted({re.split("[.=]", name)[-1] for name in (*CURRENT_KEYS, *CURRENT_CHOICES)})
        + sorted(CURRENT_GROUPS)
    )
)


def has_old_names(text: str) -> bool:
    """Whether a setting, choice or group of earlier versions may be named in a text."""
    return _OLD_WORDS.search(text) is not None


def make_renamer(own: Container[str] = ()) -> Renamer:
    """What replaces names of earlier versions by today's, besides those of the user's own."""
    return Renamer(*TABLES, own)


def to_current_names(value: Any) -> Any:
    """A saved value with today's names for all parts, settings and choices in it.

    Whether a part of that name is allowed is decided in config/parts.py.
    """
    return make_renamer().rename_tree(value)


def to_original_names(value: Any) -> Any:
    """A value with the first name that each part, setting and choice had.

    A hash of it stays what earlier versions wrote down.
    """
    return _make_reverse_renamer().rename_tree(value)


def _make_reverse_renamer() -> Renamer:
    # Reversed, so that of several old names the first one stays.
    return Renamer(*({name: first for first, name in reversed(table.items())} for table in TABLES))


def to_current_override(word: str, renamer: Renamer | None = None) -> str:
    """A word of a command line, or of the stored one of an earlier version, in today's names.

    Args:
        word: KEY=VALUE, GROUP=OPTION or GROUP@KEY=OPTION, with + or ~ before it or not.
        renamer: Records what it replaced.
    """
    renamer = renamer or make_renamer()
    return _rename_override(word, renamer)


def to_original_override(word: str) -> str:
    """A word with the first names of all that is in it: a hash of it stays what it was."""
    return _rename_override(word, _make_reverse_renamer())


def to_original_key(key: str) -> str:
    """A dotted key by its first name."""
    return _make_reverse_renamer().rename_path(key)


def _rename_override(word: str, renamer: Renamer) -> str:
    match = OVERRIDE_PATTERN.fullmatch(word)
    # A word without a value is a file or a command, if it does not remove anything.
    if match is None or (match["value"] is None and match["sign"] != "~"):
        return word
    sign, group, at, value = match["sign"], match["key"], match["at"] or "", match["value"] or ""
    # A choice is of a setting, with the key around it, or of a group.
    choice_of = ".".join(group.split(".")[-2:])
    key = renamer.rename_path(group) if "." in group else renamer.rename_group(group)
    value = renamer.rename_choices(choice_of, value)
    # Interpolations, mappings whose keys are settings, and a list of settings.
    value = renamer.rename_path(value) if "{" in value or group == "sweep.zip" else value
    return f"{sign}{key}{renamer.rename_path(at)}{value}"
