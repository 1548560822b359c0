"""Worlds in which something acts: what comes of an action, and what that looks like."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dlrun.config.constraints import Count
from dlrun.core.errors import Refused

WIDE, HIGH = 240, 100  # pixels of a picture
REACH = 2.4  # metres from the middle at which an episode ends
POLE = 1.0  # metres
SHARP = 4  # times larger a picture is drawn, and then made smaller, so that slanted edges are smooth


class World(Protocol):
    """Some episodes at once, side by side. It lives on the CPU, and what it does follows from starts and actions."""

    def begin(self, starts: Tensor) -> None:
        """Begin as many episodes as there are starts (B, …), the first observations."""
        ...

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (B, …) after these actions (B,), rewards (B,), and which episodes are over (B,).

        Of an episode that is over already, none of them means anything.
        """
        ...

    def pictures(self, observations: Tensor) -> Tensor:
        """What these observations (N, …) look like (N, 3, H, W), from 0 to 1."""
        ...


class CartPole:
    """Gymnasium's CartPole-v1: a reward of 1 a step, until the pole falls, the cart leaves, or after `limit` steps."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.carts: Any = None

    def begin(self, starts: Tensor) -> None:
        kind = {"vectorization_mode": "vector_entry_point", "max_episode_steps": self.limit}
        self.carts = library().make_vec("CartPole-v1", num_envs=len(starts), **kind).unwrapped
        self.carts.reset(seed=0)
        self.carts.state = starts.double().numpy().T.copy()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, rewards, fallen, late, _ = self.carts.step(actions.numpy())
        return torch.from_numpy(seen), torch.from_numpy(rewards), torch.from_numpy(fallen | late)

    def pictures(self, observations: Tensor) -> Tensor:
        drawn = [drawing(position, angle) for position, _, angle, _ in observations.tolist()]
        return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255


def library() -> Any:
    """Gymnasium. Raises Refused where it is not installed."""
    try:
        import gymnasium
    except ImportError as error:
        raise Refused(f"this world needs the library gymnasium ({error}): pip install 'dlrun[control]'") from error
    return gymnasium


def drawing(position: float, angle: float) -> np.ndarray:
    """A cart at `position` metres on its rail, and its pole `angle` radians to the right: uint8 (HIGH, WIDE, 3)."""
    from PIL import Image, ImageDraw

    metre, ground = SHARP * WIDE / (2 * REACH), SHARP * (HIGH - 20)
    found = Image.new("RGB", (SHARP * WIDE, SHARP * HIGH), "white")
    pen = ImageDraw.Draw(found)
    middle, axle = SHARP * WIDE / 2 + position * metre, ground - 8 * SHARP
    tip = middle + POLE * metre * math.sin(angle), axle - POLE * metre * math.cos(angle)
    pen.line([0, ground, SHARP * WIDE, ground], (120, 120, 120), SHARP)
    pen.rectangle([middle - 14 * SHARP, ground - 14 * SHARP, middle + 14 * SHARP, ground], (40, 40, 40))
    pen.line([middle, axle, *tip], (200, 120, 60), 5 * SHARP)
    pen.ellipse([middle - 3 * SHARP, axle - 3 * SHARP, middle + 3 * SHARP, axle + 3 * SHARP], (120, 130, 200))
    return np.asarray(found.resize((WIDE, HIGH), Image.Resampling.BOX))


def cart_pole(*, limit: Count) -> World:
    """CartPole-v1, whose episodes last `limit` steps at most. Raises Refused where Gymnasium is not installed."""
    library()
    return CartPole(limit)
