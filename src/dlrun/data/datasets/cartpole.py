"""Where the episodes of CartPole begin: a pole on a cart, to be kept upright by pushing the cart left or right."""

from __future__ import annotations

import numpy as np

from dlrun.config.constraints import Count, Probability
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.data.tabular import holdout

STATE_NAMES = ("position (m)", "speed (m/s)", "angle (rad)", "turning (rad/s)")
ACTION_NAMES = ("left", "right")
START_RANGE = (
    0.05  # so far from rest, upright and in the middle, an episode of CartPole-v1 begins at most
)


def cartpole(*, episodes: Count, test: Probability) -> Dataset:
    """So many beginnings of episodes of Gymnasium's CartPole-v1 (Barto, Sutton & Anderson 1983), always the same ones.

    Input `observation` (N, 4): what is seen first; target `action`: the push of a player who knows nothing, left or
    right at random. A share `test` of the rows is set aside as test rows.
    """
    random = np.random.RandomState(holdout.SPLIT_SEED)
    columns: RawColumns = {
        "observation": random.uniform(
            -START_RANGE, START_RANGE, (episodes, len(STATE_NAMES))
        ).astype(np.float32),
        "action": random.permutation(np.arange(episodes) % len(ACTION_NAMES)),
    }
    dev, sealed = holdout.random_holdout(episodes, test)
    return Dataset(
        dev={name: column[dev] for name, column in columns.items()},
        test=(lambda: {name: column[sealed] for name, column in columns.items()}) if test else None,
        inputs={"observation": "number"},
        targets={"action": "category"},
        preprocessors={},
        labels={"observation": STATE_NAMES, "action": ACTION_NAMES},
    )
