"""Where the episodes of CartPole begin: a pole on a cart, to be kept upright by pushing the cart left or right."""

from __future__ import annotations

import numpy as np

from dlrun.config.constraints import Count, Probability
from dlrun.core.dataset import Raw, Rows
from dlrun.data.tabular import holdout

SIGNS = ("position (m)", "speed (m/s)", "angle (rad)", "turning (rad/s)")
PUSHES = ("left", "right")
NEAR = 0.05  # so far from rest, upright and in the middle, an episode of CartPole-v1 begins at most


def cartpole(*, episodes: Count, test: Probability) -> Raw:
    """So many beginnings of episodes of Gymnasium's CartPole-v1 (Barto, Sutton & Anderson 1983), always the same ones.

    Input `observation` (N, 4): what is seen first; target `action`: the push of a player who knows nothing, left or
    right at random. A share `test` of the rows is set aside as test rows.
    """
    random = np.random.RandomState(holdout.SEED)
    columns: Rows = {
        "observation": random.uniform(-NEAR, NEAR, (episodes, len(SIGNS))).astype(np.float32),
        "action": random.permutation(np.arange(episodes) % len(PUSHES)),
    }
    dev, sealed = holdout.random(episodes, test)
    return Raw(
        dev={name: column[dev] for name, column in columns.items()},
        test=(lambda: {name: column[sealed] for name, column in columns.items()}) if test else None,
        inputs={"observation": "number"},
        targets={"action": "category"},
        learn={},
        labels={"observation": SIGNS, "action": PUSHES},
    )
