"""Two pictures in one, and their labels in the same shares: mixup and cutmix, done by torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Positive
from dlrun.core.types import Batch, Field, Spec

MIX_TARGETS = ("binary", "category", "multilabel")


def mixup(*, alpha: Positive) -> nn.Module:
    """Each picture λ of itself and 1 − λ of another, λ from Beta(alpha, alpha), one a batch (Zhang et al. 2018)."""
    from torchvision.transforms import v2

    return v2.MixUp(alpha=alpha)


def cutmix(*, alpha: Positive) -> nn.Module:
    """A box of each picture, about 1 − λ of its area, shows another; λ from Beta(alpha, alpha) (Yun et al. 2019)."""
    from torchvision.transforms import v2

    return v2.CutMix(alpha=alpha)


def is_batch_mix(step: Any) -> bool:
    """Whether a step makes one picture of two: it needs the whole batch, and its labels."""
    return isinstance(step, nn.Module) and type(step).__name__ in ("MixUp", "CutMix")


def find_mix_error(spec: Spec) -> str | None:
    """Why these rows cannot be mixed; None if they can."""
    for what, fields, kinds in (
        ("input", spec.inputs, ("image",)),
        ("target", spec.targets, MIX_TARGETS),
    ):
        for name, field in fields.items():
            if field.kind not in kinds:
                return (
                    f"the {what} {name} is a {field.kind}; what can be mixed is {', '.join(kinds)}"
                )
    shapes = {name: field.shape[1:] for name, field in spec.inputs.items()}
    return None if len(set(shapes.values())) == 1 else f"the pictures differ in size: {shapes}"


def mix_batch(
    mixing: Sequence[nn.Module], images: Sequence[str], targets: dict[str, Field], batch: Batch
) -> Batch:
    """A batch whose rows are mixed by one of these, drawn anew; all its targets become shares, the same for each.

    A category becomes probabilities (B, size); binary and multilabel targets keep their shape.
    """
    from torchvision import tv_tensors

    draw = mixing[int(torch.randint(len(mixing), ()))] if len(mixing) > 1 else mixing[0]
    labels = {name: field.to_probabilities(batch[name]) for name, field in targets.items()}
    pictures = {name: tv_tensors.Image(batch[name]) for name in images}
    mixed, together = draw(pictures, torch.cat(list(labels.values()), 1))
    parts = together.split([label.shape[1] for label in labels.values()], 1)
    new = {name: picture.as_subclass(Tensor) for name, picture in mixed.items()}
    return {**batch, **new, **dict(zip(labels, parts, strict=True))}
