"""Random changes to training images, drawn anew for each batch and made on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec
from dlrun.data.augmentation.color import ColorJitter, color
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
    "color",
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
ImageTransform = Callable[[Tensor], Tensor]  # images (B, C, H, W) → images of the same shape


def build_augmentation(steps: Mapping[str, Any], spec: Spec) -> BatchTransform | None:
    """Combine augmentation steps into one function of a batch.

    All affine transforms come first, as one resampling; then the other changes in their order
    (color, erasing, any torchvision transform); last of all the images are mixed.

    Args:
        steps: The steps by name.
        spec: The columns of the batches.

    Returns:
        The function, None where there are no steps.

    Raises:
        UserError: The data have no images, transforms differ in what fills the gaps, the targets
            cannot be mixed, or a step is no augmentation.

    Example:
        >>> augment = build_augmentation({"flip": flip(probability=0.5, axis="horizontal")}, spec)
        >>> batch = augment(batch)
    """
    if not steps:
        return None
    setting = f"augment=[{','.join(steps)}]"
    image_names = tuple(name for name, field in spec.inputs.items() if field.kind == "image")
    if not image_names:
        listed = ", ".join(f"{name} ({field.kind})" for name, field in spec.inputs.items())
        raise UserError(f"{setting}: these data have no image input; the inputs are {listed}")
    transforms = {name: step for name, step in steps.items() if isinstance(step, RandomAffine)}
    mixing = {name: step for name, step in steps.items() if is_batch_mix(step)}
    if mixing and (error := find_mix_error(spec)):
        raise UserError(f"augment={next(iter(mixing))}: {error}")
    image_steps = {name: step for name, step in steps.items() if name not in {*transforms, *mixing}}
    changes = (
        [partial(apply_affine, tuple(transforms.values()), get_fill_mode(transforms))]
        if transforms
        else []
    )
    return Augmentation(
        setting,
        image_names,
        (*changes, *map(to_image_transform, image_steps, image_steps.values())),
        tuple(mixing.values()),
        spec.targets,
    )


def to_image_transform(name: str, step: Any) -> ImageTransform:
    """Return a step as a function of a batch of images.

    Raises:
        UserError: The step is no augmentation.
    """
    if isinstance(step, ColorJitter):
        return step
    if isinstance(step, nn.Module):
        return partial(transform_each_image, name, step)
    raise UserError(
        f"augment.{name} is a {type(step).__name__}: "
        "neither one of dlrun's augmentations nor a transform"
    )


def transform_each_image(name: str, transform: nn.Module, images: Tensor) -> Tensor:
    """Apply a torchvision transform to each image by itself, so that each has its own draw.

    Given a batch, torchvision draws once for all of it.

    Args:
        name: The step's name, for messages.
        transform: The torchvision transform.
        images: Images (B, C, H, W).

    Raises:
        UserError: The transform changes shape or dtype.
    """
    new_images = [transform(image) for image in images]
    for image, new_image in zip(images, new_images, strict=True):
        if (
            not isinstance(new_image, Tensor)
            or new_image.shape != image.shape
            or new_image.dtype != image.dtype
        ):
            result = type(new_image).__name__
            if isinstance(new_image, Tensor):
                result = f"{tuple(new_image.shape)} {new_image.dtype}"
            raise UserError(
                f"augment.{name}: {type(transform).__name__} makes {result} of an image, "
                f"and the model wants what it had: {tuple(image.shape)} {image.dtype}"
            )
    return torch.stack(new_images)


@dataclass(frozen=True)
class Augmentation:
    """A function of a batch: changes its images, each with its own draw, then mixes the rows.

    The batch that is passed in stays as it is. Random numbers come from torch's global generators.

    Attributes:
        name: The setting, for messages.
        images: Names of the image columns.
        changes: Functions of images (B, C, H, W), in their order.
        mixing: Steps that mix rows; one of them is drawn for each batch.
        targets: The target columns, which are mixed along.
    """

    name: str
    images: tuple[str, ...]
    changes: tuple[ImageTransform, ...]
    mixing: tuple[nn.Module, ...]
    targets: dict[str, Field]

    def __call__(self, batch: Batch) -> Batch:
        if missing := [name for name in self.images if name not in batch]:
            raise UserError(
                f"{self.name}: a batch holds no {', '.join(missing)}, "
                f"but {', '.join(batch)}: no images"
            )
        new, device = dict(batch), batch[self.images[0]].device
        # Without autocast: the coordinates in bfloat16 would be off by whole pixels.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for name in self.images:
                for change in self.changes:
                    new[name] = change(new[name])
            return mix_batch(self.mixing, self.images, self.targets, new) if self.mixing else new
