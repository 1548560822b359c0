"""What objectives share that learn the pixels of an image instead of the weights of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dlrun.core.errors import UserError
from dlrun.core.objective import ImageGrid, Objective, ObjectiveContext
from dlrun.core.types import Batch, Step

NUM_FINAL_FRAMES = 8  # frames that the last moment stays


def load_input_images(context: ObjectiveContext) -> list[Tensor]:
    """The first row of every image input, (1, 3, H, W) each."""
    batch = next(iter(context.data.train.batches(1)))
    return [batch[name] for name in context.data.spec.inputs]


def resize_images(photos: Tensor, size: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) resized without aliasing.

    The same tensor where the size is right already.
    """
    if list(photos.shape[2:]) == list(size):
        return photos
    return nn.functional.interpolate(photos, list(size), mode="bilinear", antialias=True)


def to_image_artifact(image: Tensor, description: str) -> ImageGrid:
    """The image (1, 3, H, W) itself, pixel for pixel."""
    return ImageGrid(image, 1, description, original_size=True)


def morph_frames(first: Tensor, last: Tensor, count: int, width: int, zoom: float) -> ImageGrid:
    """An animation from one image to another; the last frame is held.

    Args:
        first: (1, 3, H, W).
        last: (1, 3, H, W); the frames have its aspect.
        count: Frames on the way.
        width: Pixels, at most.
        zoom: How much nearer the last frame is than the first.

    Raises:
        UserError: if the last frame were farther: nothing is known beyond the edge.
    """
    if zoom < 1:
        raise UserError(
            f"zoom={zoom:g}: it must be 1 or more, since nothing is known beyond the image's edge"
        )
    # Frames are never enlarged.
    shrink = min(1.0, width / last.shape[3])
    size = [max(1, round(side * shrink)) for side in last.shape[2:]]
    first = resize_images(first, last.shape[2:])
    shares = [index / max(1, count - 1) for index in range(count)]
    frames = [
        # zoom**share: a constant speed is a constant factor from frame to frame.
        resize_images(enlarge(torch.lerp(first, last, share), zoom**share), size)
        for share in shares
    ]
    return ImageGrid(
        torch.cat([*frames, *frames[-1:] * NUM_FINAL_FRAMES]),
        1,
        "from the photograph on",
        animated=True,
        original_size=True,
    )


def enlarge(image: Tensor, times: float) -> Tensor:
    """The middle of an image, magnified so many times once it is shown at the old size."""
    height, width = (max(1, round(side / times)) for side in image.shape[2:])
    down, right = (
        (side - inner) // 2 for side, inner in zip(image.shape[2:], (height, width), strict=True)
    )
    return image[:, :, down : down + height, right : right + width]


class ImageOptimization(Objective):
    """Images that are changed so that their loss falls; one step a tick, no data are read.

    Args:
        images: (N, C, H, W), where it starts.
        loss: Images → a mean over them. A network in it is the caller's, who freezes it.
    """

    def __init__(self, pictures: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pictures = nn.Parameter(pictures.clone())
        self.loss = loss
        self.groups = {"canvas": [self.pictures]}

    def steps(self, batch: Batch) -> Iterator[Step]:
        yield Step("canvas", self.loss(self.pictures))
