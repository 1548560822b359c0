"""Mixup and cutmix: two images in one, and their labels in the same proportion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Positive
from dlrun.core.types import Batch, Field, Spec

MIX_TARGETS = ("binary", "category", "multilabel")


def mixup(*, alpha: Positive) -> nn.Module:
    """Blend each image with another, λ from Beta(alpha, alpha), one per batch (Zhang et al. 2018).

    Args:
        alpha: Both parameters of the Beta distribution.
    """
    from torchvision.transforms import v2

    return v2.MixUp(alpha=alpha)


def cutmix(*, alpha: Positive) -> nn.Module:
    """Paste a box of another image, about 1 − λ of the area, into each image (Yun et al. 2019).

    Args:
        alpha: Both parameters of the Beta distribution from which λ is drawn, one per batch.
    """
    from torchvision.transforms import v2

    return v2.CutMix(alpha=alpha)


def is_batch_mix(step: Any) -> bool:
    """Return whether a step mixes images, so that it needs a whole batch with its labels."""
    # By name: importing torchvision takes long, and most runs mix nothing.
    return isinstance(step, nn.Module) and type(step).__name__ in ("MixUp", "CutMix")


def find_mix_error(spec: Spec) -> str | None:
    """Return why these data cannot be mixed, None where they can."""
    for role, fields, kinds in (
        ("input", spec.inputs, ("image",)),
        ("target", spec.targets, MIX_TARGETS),
    ):
        for name, field in fields.items():
            if field.kind not in kinds:
                return (
                    f"the {role} {name} is a {field.kind}; what can be mixed is {', '.join(kinds)}"
                )
    shapes = {name: field.shape[1:] for name, field in spec.inputs.items()}
    return None if len(set(shapes.values())) == 1 else f"the images differ in size: {shapes}"


def mix_batch(
    mixing: Sequence[nn.Module], image_names: Sequence[str], targets: dict[str, Field], batch: Batch
) -> Batch:
    """Mix the rows of a batch by one of these steps, drawn anew for each batch.

    Args:
        mixing: The steps to choose from.
        image_names: The image columns.
        targets: The target columns.
        batch: The batch; it is left unchanged.

    Returns:
        The batch, with the same proportions in all images and targets. A category becomes
        probabilities (B, size); binary and multilabel targets keep their shape.
    """
    from torchvision import tv_tensors

    # No random number is used where there is nothing to choose.
    mix = mixing[int(torch.randint(len(mixing), ()))] if len(mixing) > 1 else mixing[0]
    labels = {name: field.to_probabilities(batch[name]) for name, field in targets.items()}
    images = {name: tv_tensors.Image(batch[name]) for name in image_names}
    # All labels are joined: torchvision mixes one tensor of labels, and all need the same λ.
    mixed_images, mixed_labels = mix(images, torch.cat(list(labels.values()), 1))
    split_labels = mixed_labels.split([label.shape[1] for label in labels.values()], 1)
    new_images = {name: image.as_subclass(Tensor) for name, image in mixed_images.items()}
    return {**batch, **new_images, **dict(zip(labels, split_labels, strict=True))}
