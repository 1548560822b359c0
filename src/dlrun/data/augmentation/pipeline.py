"""What is done to training pictures, anew each time: on the device, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec
from dlrun.data.augmentation.color import ColorJitter, colour
from dlrun.data.augmentation.geometric import (
    RandomAffine,
    apply_affine,
    crop,
    flip,
    get_fill_mode,
    rotate,
    shear,
    shift,
    zoom,
)
from dlrun.data.augmentation.mixup import cutmix, find_mix_error, is_batch_mix, mix_batch, mixup

__all__ = [
    "build_augmentation",
    "colour",
    "crop",
    "cutmix",
    "flip",
    "mixup",
    "rotate",
    "shear",
    "shift",
    "zoom",
]

BatchTransform = Callable[[Batch], Batch]
ImageTransform = Callable[[Tensor], Tensor]  # pictures (B, C, H, W) → as many of the same shape


def build_augmentation(steps: Mapping[str, Any], spec: Spec) -> BatchTransform | None:
    """The steps, by name, as one function of a batch; None where there are none.

    Pictures are first moved: all moves in their order, as one. Then they are changed in the order of the steps (colour,
    erasing, any torchvision transform), and last of all mixed. Raises UserError where the data have no pictures, where
    moves differ in what fills the gaps, where mixing makes no sense, and for a step that is no augmentation.
    """
    if not steps:
        return None
    named = f"augment=[{','.join(steps)}]"
    images = tuple(name for name, field in spec.inputs.items() if field.kind == "image")
    if not images:
        there = ", ".join(f"{name} ({field.kind})" for name, field in spec.inputs.items())
        raise UserError(f"{named}: these data have no image input; the inputs are {there}")
    moves = {name: step for name, step in steps.items() if isinstance(step, RandomAffine)}
    mixing = {name: step for name, step in steps.items() if is_batch_mix(step)}
    if mixing and (fault := find_mix_error(spec)):
        raise UserError(f"augment={next(iter(mixing))}: {fault}")
    rest = {name: step for name, step in steps.items() if name not in {*moves, *mixing}}
    changes = [partial(apply_affine, tuple(moves.values()), get_fill_mode(moves))] if moves else []
    return Augmentation(
        named,
        images,
        (*changes, *map(to_image_transform, rest, rest.values())),
        tuple(mixing.values()),
        spec.targets,
    )


def to_image_transform(name: str, step: Any) -> ImageTransform:
    """A step as a function of a batch of pictures. Raises UserError where it is none."""
    if isinstance(step, ColorJitter):
        return step
    if isinstance(step, nn.Module):
        return partial(transform_each_image, name, step)
    raise UserError(
        f"augment.{name} is a {type(step).__name__}: neither one of dlrun's augmentations nor a transform"
    )


def transform_each_image(name: str, transform: nn.Module, pictures: Tensor) -> Tensor:
    """A torchvision transform of each picture by itself: given a batch, torchvision draws once for all of it."""
    found = [transform(picture) for picture in pictures]
    for picture, new in zip(pictures, found, strict=True):
        if not isinstance(new, Tensor) or new.shape != picture.shape or new.dtype != picture.dtype:
            what = (
                f"{tuple(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
            )
            raise UserError(
                f"augment.{name}: {type(transform).__name__} makes {what} of a picture, "
                f"and the model wants what it had: {tuple(picture.shape)} {picture.dtype}"
            )
    return torch.stack(found)


@dataclass(frozen=True)
class Augmentation:
    """A function of a batch: its image columns changed, each with its own draw, then mixed along with the targets.

    The batch that was handed in stays as it was. All that is random comes from torch's global generators.
    """

    name: str
    images: tuple[str, ...]
    changes: tuple[ImageTransform, ...]
    mixing: tuple[nn.Module, ...]
    targets: dict[str, Field]

    def __call__(self, batch: Batch) -> Batch:
        if missing := [name for name in self.images if name not in batch]:
            raise UserError(
                f"{self.name}: a batch holds no {', '.join(missing)}, but {', '.join(batch)}: no pictures"
            )
        new, device = dict(batch), batch[self.images[0]].device
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):  # bfloat16 would place pixels a pixel off
            for name in self.images:
                for alter in self.changes:
                    new[name] = alter(new[name])
            return mix_batch(self.mixing, self.images, self.targets, new) if self.mixing else new
