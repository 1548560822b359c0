"""A network that has learnt elsewhere, as the base of a new one: frozen, or changed slowly."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, Positive, Probability
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
    """A pretrained tower for each image input; what comes out joins the other inputs in a dense tail.

    frozen: modules of the towers that stay in evaluation mode, so that batch norms keep their statistics. rate: factor
    on the learning rate of the towers' other weights. cache: what wholly frozen towers answer may be computed once.
    runs: the earlier runs, folder and fit, that it stands on.
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
        self.note = ""  # stands beside every result

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        seen = {}
        for name, tower in self.towers.items():
            ready = batch.get(name + CACHED_FEATURES)
            seen[name] = self.dropout((tower(batch[name]) if ready is None else ready).flatten(1))
        return cast(dict[str, Tensor], self.tail({**batch, **seen}))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen:
            module.training = False
        return self

    def check_validation_rows(self, run: Path, job: FitJob, rows: np.ndarray | None) -> None:
        """Raise UserError where a run that this stands on was trained on this job's validation rows."""
        for folder, fit in self.runs:
            check_backbone_run(folder, fit, run, rows)

    def lr_factors(self) -> dict[nn.Parameter, float]:
        """Factors on the learning rate of weights that are to be changed more slowly (or faster)."""
        if self.rate == 1:
            return {}
        return {weight: self.rate for weight in self.towers.parameters() if weight.requires_grad}

    def cacheable_networks(self) -> dict[str, nn.Module]:
        """Input name → the frozen network whose answers may be computed once; none while anything in it learns."""
        learns = any(weight.requires_grad for weight in self.towers.parameters())
        return dict(self.towers.items()) if self.cache and not learns else {}


class ImagePreprocessor(nn.Module):
    """Pictures (B, C, H, W) in [0, 1] as a base wants them: grey ones repeated, resized, each channel normalised."""

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
        column = lambda numbers: torch.tensor(numbers).reshape(-1, 1, 1)  # noqa: E731
        self.register_buffer("mean", column(mean) if mean else None, persistent=False)
        self.register_buffer("std", column(std) if mean else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = nn.functional.interpolate(x, self.size, mode="bilinear", antialias=True)
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
    preprocess: Literal["weights", "normalise", "book"],
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

    weights: a name of torchvision's for this architecture, a .pth file, the folder of an earlier run (whose own
    convolutional part is the base then), or null: random. preprocess: as the weights' authors did (resized and
    normalised), normalised only, or in [0, 1] (the book). source: with sample, random weights stand for published ones,
    and are said to be made up. dropout: after each dense layer, or of the features where there is none. unfreeze: none,
    last_block, all, or the layer of the base from which on it learns, with `rate` times the learning rate. cache: a
    frozen base's answers are computed once. Raises UserError.
    """
    note = ""
    if source == "sample" and weights is not None and not Path(weights).exists():
        note = f"SYNTHETIC weights: with source=sample random ones stand for {weights} of {architecture}"
        log.warning("%s", note)
        weights = None
    towers, frozen, seen, runs = {}, [], {}, []
    for name, field in get_image_inputs(spec).items():
        base = load_backbone(architecture, weights, name)
        frozen += freeze_layers(base, unfreeze)
        runs += [base.run] if base.run else []
        towers[name] = build_image_encoder(base, field, preprocess, ends)
        seen[name] = replace(
            field, kind="number", shape=(get_encoder_width(towers[name], field, base),)
        )
    if weights is None and unfreeze == "none" and source == "official":
        log.warning(
            "model.weights=null with unfreeze=none: the base keeps its random weights; unfreeze=all trains it"
        )
    hidden, heads = build_dense(
        spec, {**spec.inputs, **seen}, dense, 0, (activation, dropout, False)
    )
    tail = DenseModel(hidden, heads)
    initialize_weights(tail, init)
    model = PretrainedModel(
        SafeModuleDict(towers), tail, 0.0 if dense else dropout, frozen, rate, cache
    )
    model.runs, model.note = runs, note
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def build_image_encoder(base: Backbone, field: Field, preprocess: str, ends: str) -> nn.Sequential:
    """Preprocessing, the base, and what makes its feature map smaller. Raises UserError for channels it cannot read."""
    if field.shape[0] not in (1, base.channels):
        raise UserError(
            f"{base.name} reads pictures of {base.channels} channels, and these have {field.shape[0]}"
        )
    size = base.size if preprocess == "weights" else None
    wants = ((), ()) if preprocess == "book" else (base.mean, base.std)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        preprocess=ImagePreprocessor(base.channels, size, *wants), base=base.net
    )
    if ends == "average":
        parts["ends"] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(parts)


def get_encoder_width(tower: nn.Module, field: Field, base: Backbone) -> int:
    """How many numbers a tower answers for one picture. Raises UserError where nothing is left of it."""
    try:
        with torch.no_grad():
            return tower.eval()(torch.zeros(1, *field.shape)).numel()
    except (RuntimeError, ValueError) as error:
        shape = "×".join(str(side) for side in field.shape)
        raise UserError(
            f"a picture of {shape} is too small for {base.name}: preprocess=weights enlarges it to the size that "
            f"its weights were trained with ({str(error).splitlines()[0]})"
        ) from error
