"""Full names of parts in earlier versions → today's, so that old run folders keep working.

Needs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CURRENT_NAMES: dict[str, str] = {
    "dlrun.augment.colour": "dlrun.data.augmentation.pipeline.colour",
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


def to_current_names(value: Any) -> Any:
    """A saved value with today's name for every `_target_` in it.

    Whether a part of that name is allowed is decided in config/parts.py.
    """
    return _replace_names(value, CURRENT_NAMES)


def to_original_names(value: Any) -> Any:
    """A value with the first name that each part had.

    A hash of it stays what earlier versions wrote down.
    """
    return _replace_names(value, {name: first for first, name in reversed(CURRENT_NAMES.items())})


def _replace_names(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replace_names(item, names) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: names.get(item, item)
        if key == "_target_" and isinstance(item, str)
        else _replace_names(item, names)
        for key, item in value.items()
    }
