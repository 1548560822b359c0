"""Environments of reinforcement learning: what comes of an action, and what that looks like."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dlrun.config.annotations import Count
from dlrun.core.errors import UserError

WIDTH, HEIGHT = 240, 100  # pixels of an image
TRACK_HALF_WIDTH = 2.4  # meters from the middle at which an episode ends
POLE_LENGTH = 1.0  # meters
# Images are drawn so many times larger and then scaled down: slanted edges become smooth.
SUPERSAMPLING = 4


class Environment(Protocol):
    """Several episodes at once, on the CPU; all follows from starts and actions."""

    def begin(self, starts: Tensor) -> None:
        """Begin episodes.

        Args:
            starts: The first observation of each (B, …).
        """
        ...

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take one action in each episode.

        Args:
            actions: One for each episode (B,).

        Returns:
            Observations (B, …), rewards (B,), and which episodes are over (B,). Of an episode that
            was over before, none of them means anything.
        """
        ...

    def render(self, observations: Tensor) -> Tensor:
        """Images (N, 3, H, W), from 0 to 1, of observations (N, …)."""
        ...


class CartPole:
    """Gymnasium's CartPole-v1: a reward of 1 a step, until the pole falls or the cart leaves.

    Attributes:
        limit: The number of steps after which an episode ends.
        vector_env: Gymnasium's episodes, from `begin` on.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.vector_env: Any = None

    def begin(self, starts: Tensor) -> None:
        gymnasium = import_gymnasium()
        env = gymnasium.make_vec(
            "CartPole-v1",
            num_envs=len(starts),
            vectorization_mode="vector_entry_point",
            max_episode_steps=self.limit,
        )
        self.vector_env = env.unwrapped
        self.vector_env.reset(seed=0)  # it must be reset once; its own start is overwritten
        self.vector_env.state = starts.double().numpy().T.copy()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        observations, rewards, terminated, truncated, _ = self.vector_env.step(actions.numpy())
        is_over = torch.from_numpy(terminated | truncated)
        return torch.from_numpy(observations), torch.from_numpy(rewards), is_over

    def render(self, observations: Tensor) -> Tensor:
        images = [draw_cartpole(position, angle) for position, _, angle, _ in observations.tolist()]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def import_gymnasium() -> Any:
    """The gymnasium module, or a UserError where it is not installed."""
    try:
        import gymnasium
    except ImportError as error:
        raise UserError(
            f"this world needs the library gymnasium ({error}): pip install 'dlrun[control]'"
        ) from error
    return gymnasium


def draw_cartpole(position: float, angle: float) -> np.ndarray:
    """Draw a cart and its pole.

    Args:
        position: Of the cart on its track, in meters from the middle.
        angle: Of the pole to the right, in radians.

    Returns:
        An image, uint8 (HEIGHT, WIDTH, 3).
    """
    from PIL import Image, ImageDraw

    unit = SUPERSAMPLING  # one pixel of the final image
    meter, ground = unit * WIDTH / (2 * TRACK_HALF_WIDTH), unit * (HEIGHT - 20)
    image = Image.new("RGB", (unit * WIDTH, unit * HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    middle, axle = unit * WIDTH / 2 + position * meter, ground - 8 * unit
    length = POLE_LENGTH * meter
    tip = (middle + length * math.sin(angle), axle - length * math.cos(angle))
    cart = [middle - 14 * unit, ground - 14 * unit, middle + 14 * unit, ground]
    joint = [middle - 3 * unit, axle - 3 * unit, middle + 3 * unit, axle + 3 * unit]
    pen.line([0, ground, unit * WIDTH, ground], (120, 120, 120), unit)
    pen.rectangle(cart, (40, 40, 40))
    pen.line([middle, axle, *tip], (200, 120, 60), 5 * unit)
    pen.ellipse(joint, (120, 130, 200))
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def make_cartpole(*, limit: Count) -> Environment:
    """CartPole-v1.

    Args:
        limit: The number of steps after which an episode ends.

    Raises:
        UserError: Gymnasium is not installed.
    """
    import_gymnasium()
    return CartPole(limit)
