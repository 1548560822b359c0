"""Change a picture instead of a network: what is learnt are the pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from dlrun.core.types import Batch, Step


class Canvas(nn.Module):
    """Pictures (N, C, H, W) that are changed so that their loss falls; one step a tick, no data are read.

    loss: pictures → a mean over them. A network in it is the caller's, who freezes it: only the pictures are here.
    """

    def __init__(self, pictures: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pictures = nn.Parameter(pictures.clone())
        self.loss = loss
        self.groups = {"canvas": [self.pictures]}

    def steps(self, batch: Batch) -> Iterator[Step]:
        yield Step("canvas", self.loss(self.pictures))
