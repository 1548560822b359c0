"""Worlds in which something acts: what comes of an action, and what that looks like."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dlrun.config.constraints import Count
from dlrun.core.errors import UserError

WIDE, HIGH = 240, 100  # pixels of a picture
TRACK_HALF_WIDTH = 2.4  # metres from the middle at which an episode ends
POLE_LENGTH = 1.0  # metres
SUPERSAMPLING = (
    4  # times larger a picture is drawn, and then made smaller, so that slanted edges are smooth
)


class Environment(Protocol):
    """Some episodes at once, side by side. It lives on the CPU, and what it does follows from starts and actions."""

    def begin(self, starts: Tensor) -> None:
        """Begin as many episodes as there are starts (B, …), the first observations."""
        ...

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (B, …) after these actions (B,), rewards (B,), and which episodes are over (B,).

        Of an episode that is over already, none of them means anything.
        """
        ...

    def render(self, observations: Tensor) -> Tensor:
        """What these observations (N, …) look like (N, 3, H, W), from 0 to 1."""
        ...


class CartPole:
    """Gymnasium's CartPole-v1: a reward of 1 a step, until the pole falls, the cart leaves, or after `limit` steps."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.vector_env: Any = None

    def begin(self, starts: Tensor) -> None:
        kind = {"vectorization_mode": "vector_entry_point", "max_episode_steps": self.limit}
        self.vector_env = (
            import_gymnasium().make_vec("CartPole-v1", num_envs=len(starts), **kind).unwrapped
        )
        self.vector_env.reset(seed=0)
        self.vector_env.state = starts.double().numpy().T.copy()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, rewards, fallen, late, _ = self.vector_env.step(actions.numpy())
        return torch.from_numpy(seen), torch.from_numpy(rewards), torch.from_numpy(fallen | late)

    def render(self, observations: Tensor) -> Tensor:
        drawn = [draw_cartpole(position, angle) for position, _, angle, _ in observations.tolist()]
        return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255


def import_gymnasium() -> Any:
    """Gymnasium. Raises UserError where it is not installed."""
    try:
        import gymnasium
    except ImportError as error:
        raise UserError(
            f"this world needs the library gymnasium ({error}): pip install 'dlrun[control]'"
        ) from error
    return gymnasium


def draw_cartpole(position: float, angle: float) -> np.ndarray:
    """A cart at `position` metres on its rail, and its pole `angle` radians to the right: uint8 (HIGH, WIDE, 3)."""
    from PIL import Image, ImageDraw

    metre, ground = SUPERSAMPLING * WIDE / (2 * TRACK_HALF_WIDTH), SUPERSAMPLING * (HIGH - 20)
    found = Image.new("RGB", (SUPERSAMPLING * WIDE, SUPERSAMPLING * HIGH), "white")
    pen = ImageDraw.Draw(found)
    middle, axle = SUPERSAMPLING * WIDE / 2 + position * metre, ground - 8 * SUPERSAMPLING
    tip = (
        middle + POLE_LENGTH * metre * math.sin(angle),
        axle - POLE_LENGTH * metre * math.cos(angle),
    )
    pen.line([0, ground, SUPERSAMPLING * WIDE, ground], (120, 120, 120), SUPERSAMPLING)
    pen.rectangle(
        [
            middle - 14 * SUPERSAMPLING,
            ground - 14 * SUPERSAMPLING,
            middle + 14 * SUPERSAMPLING,
            ground,
        ],
        (40, 40, 40),
    )
    pen.line([middle, axle, *tip], (200, 120, 60), 5 * SUPERSAMPLING)
    pen.ellipse(
        [
            middle - 3 * SUPERSAMPLING,
            axle - 3 * SUPERSAMPLING,
            middle + 3 * SUPERSAMPLING,
            axle + 3 * SUPERSAMPLING,
        ],
        (120, 130, 200),
    )
    return np.asarray(found.resize((WIDE, HIGH), Image.Resampling.BOX))


def make_cartpole(*, limit: Count) -> Environment:
    """CartPole-v1, whose episodes last `limit` steps at most. Raises UserError where Gymnasium is not installed."""
    import_gymnasium()
    return CartPole(limit)
