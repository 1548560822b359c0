"""A trained network as the base of a new one: frozen, or trained more slowly."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, Positive, Probability
from dlrun.core.errors import UserError
from dlrun.core.types import CACHED_FEATURES, Batch, Field, FitJob, Spec
from dlrun.models.dense import DenseModel, build_dense
from dlrun.models.ensemble.admission import check_backbone_run
from dlrun.models.layers import Activation, Init, SafeModuleDict, initialize_weights
from dlrun.models.model import Model
from dlrun.models.pretrained.backbones import Backbone, freeze_layers, load_backbone
from dlrun.models.vision.convnet import PoolingMode, get_image_inputs

log = logging.getLogger("dlrun")


class PretrainedModel(Model):
    """A pretrained tower for each image input; features and other inputs join in a dense tail.

    Attributes:
        towers: Image input → preprocessing and base.
        tail: Dense layers.
        dropout: Of the features.
        frozen: Modules of the towers that stay in evaluation mode, so that batch norms keep their
            statistics.
        rate: Factor on the learning rate of the towers' trainable weights.
        cache: Whether features of frozen towers may be computed once.
        runs: Folder and fit of the earlier runs that it starts from.
        note: That random weights stand for published ones, where they do.
    """

    def __init__(
        self,
        towers: nn.ModuleDict,
        tail: DenseModel,
        dropout: float,
        frozen: list[nn.Module],
        rate: float,
        cache: bool,
    ) -> None:
        super().__init__()
        self.towers, self.tail = towers, tail
        self.dropout = nn.Dropout(dropout)
        self.frozen, self.rate, self.cache = frozen, rate, cache
        self.runs: list[tuple[Path, str]] = []
        self.note = ""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = {}
        for name, tower in self.towers.items():
            # features that were computed once may stand in the place of the image
            cached = batch.get(name + CACHED_FEATURES)
            output = tower(batch[name]) if cached is None else cached
            features[name] = self.dropout(output.flatten(1))
        return cast(dict[str, Tensor], self.tail({**batch, **features}))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen:
            # the mode alone: `eval()` would recurse into modules that are trained
            module.training = False
        return self

    def check_validation_rows(self, run: Path, job: FitJob, rows: np.ndarray | None) -> None:
        """Raise UserError where an earlier run was trained on the validation rows."""
        for folder, fit in self.runs:
            check_backbone_run(folder, fit, run, rows)

    def lr_factors(self) -> dict[nn.Parameter, float]:
        """Return the factor on the learning rate of the towers' trainable weights."""
        if self.rate == 1:
            return {}
        return {weight: self.rate for weight in self.towers.parameters() if weight.requires_grad}

    def cacheable_networks(self) -> dict[str, nn.Module]:
        """Return the towers, while nothing in them is trained."""
        is_trained = any(weight.requires_grad for weight in self.towers.parameters())
        return dict(self.towers.items()) if self.cache and not is_trained else {}


class ImagePreprocessor(nn.Module):
    """Images (B, C, H, W) in [0, 1] as a base expects them.

    Gray ones are repeated, all are resized, and each channel is normalized.

    Attributes:
        channels: That the base reads.
        size: Height and width that images are resized to; None to keep theirs.
        wants: Mean and deviation of each channel, as plain numbers; empty for none.
        mean: The same as a buffer (C, 1, 1).
        std: The same as a buffer (C, 1, 1).
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        channels: int,
        size: tuple[int, int] | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.channels, self.size, self.wants = channels, size, (mean, std)
        # not in checkpoints: they follow from the config
        mean_column = torch.tensor(mean).reshape(-1, 1, 1) if mean else None
        std_column = torch.tensor(std).reshape(-1, 1, 1) if mean else None
        self.register_buffer("mean", mean_column, persistent=False)
        self.register_buffer("std", std_column, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = nn.functional.interpolate(x, self.size, mode="bilinear", antialias=True)
        # a view: gray values are not copied
        if x.shape[1] != self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std

    def extra_repr(self) -> str:
        mean, std = self.wants
        return f"channels={self.channels}, size={self.size}, mean={mean}, std={std}"


def pretrained(
    spec: Spec,
    *,
    architecture: str,
    weights: str | None,
    source: Literal["official", "sample"],
    preprocess: Literal["weights", "normalize", "book"],
    ends: PoolingMode,
    dense: list[Count],
    dropout: Probability,
    activation: Activation,
    unfreeze: str,
    rate: Positive,
    cache: bool,
    init: Init,
) -> nn.Module:
    """The convolutional part of a trained network, then dense layers (book §5.3).

    Args:
        spec: Inputs and targets.
        architecture: Name of a network of torchvision.
        weights: Name of torchvision's for it, a .pth file, the folder of an earlier run (whose own
            convolutional part it is then), or null for random ones.
        source: sample replaces published weights by random ones, and says so in a note.
        preprocess: weights (resized and normalized as the weights' authors did), normalize, or book
            (pixels in [0, 1]).
        ends: How the last feature map becomes a vector.
        dense: Units of the hidden layers after it.
        dropout: After each hidden layer, or of the features where there is none.
        activation: Of the hidden layers.
        unfreeze: none, last_block, all, or the layer of the base from which on it is trained.
        rate: Factor on the learning rate of the base.
        cache: Whether a frozen base's features are computed once.
        init: Whose starting weights the new layers have.

    Raises:
        UserError: The network cannot read these images, or its weights cannot be had.
    """
    weights, note = _replace_by_sample(architecture, weights, source)
    towers, frozen, features, runs = {}, [], {}, []
    for name, field in get_image_inputs(spec).items():
        base = load_backbone(architecture, weights, name)
        frozen += freeze_layers(base, unfreeze)
        runs += [base.run] if base.run else []
        towers[name] = build_image_encoder(base, field, preprocess, ends)
        width = get_encoder_width(towers[name], field, base)
        features[name] = replace(field, kind="number", shape=(width,))
    if weights is None and unfreeze == "none" and source == "official":
        log.warning(
            "model.weights=null with unfreeze=none: the base keeps its random weights; "
            "unfreeze=all trains it"
        )
    style = (activation, dropout, False)
    tail = DenseModel(*build_dense(spec, {**spec.inputs, **features}, dense, 0, style))
    initialize_weights(tail, init)
    # without a hidden layer, the features themselves are dropped
    drop = 0.0 if dense else dropout
    model = PretrainedModel(SafeModuleDict(towers), tail, drop, frozen, rate, cache)
    model.runs, model.note, model.synthetic = runs, note, bool(note)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _replace_by_sample(
    architecture: str, weights: str | None, source: str
) -> tuple[str | None, str]:
    """Return the weights, and a note where random ones stand for published ones."""
    if source != "sample" or weights is None or Path(weights).exists():
        return weights, ""
    note = (
        f"SYNTHETIC weights: with source=sample random ones stand for {weights} of {architecture}"
    )
    log.warning("%s", note)
    return None, note


def build_image_encoder(base: Backbone, field: Field, preprocess: str, ends: str) -> nn.Sequential:
    """Return preprocessing, the base, and what makes its feature map smaller.

    Args:
        base: The network.
        field: The image input.
        preprocess: See `pretrained`.
        ends: See `pretrained`.

    Raises:
        UserError: The base cannot read images of so many channels.
    """
    if field.shape[0] not in (1, base.channels):
        raise UserError(
            f"{base.name} reads images of {base.channels} channels, and these have {field.shape[0]}"
        )
    size = base.size if preprocess == "weights" else None
    normalization = ((), ()) if preprocess == "book" else (base.mean, base.std)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        preprocess=ImagePreprocessor(base.channels, size, *normalization), base=base.net
    )
    if ends == "average":
        layers["ends"] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(layers)


def get_encoder_width(tower: nn.Module, field: Field, base: Backbone) -> int:
    """Return how many features a tower has for one image.

    Args:
        tower: The layers.
        field: The image input.
        base: The network inside, for messages.

    Raises:
        UserError: The image is too small.
    """
    try:
        with torch.no_grad():
            return tower.eval()(torch.zeros(1, *field.shape)).numel()
    except (RuntimeError, ValueError) as error:
        shape = "×".join(str(side) for side in field.shape)
        raise UserError(
            f"an image of {shape} is too small for {base.name}: preprocess=weights enlarges it to "
            f"the size that its weights were trained with ({str(error).splitlines()[0]})"
        ) from error
