"""Initial states of CartPole: a pole on a cart, kept upright by pushing the cart left or right."""

from __future__ import annotations

import numpy as np

from dlrun.config.annotations import Count, Probability
from dlrun.core.dataset import Dataset, RawColumns
from dlrun.data.tabular import holdout

STATE_NAMES = ("position (m)", "speed (m/s)", "angle (rad)", "turning (rad/s)")
ACTION_NAMES = ("left", "right")
# Largest start value of each coordinate in CartPole-v1, whose zeros are at rest and upright.
START_RANGE = 0.05


def cartpole(*, episodes: Count, test: Probability) -> Dataset:
    """Initial states of Gymnasium's CartPole-v1 (Barto, Sutton & Anderson 1983).

    Input `observation` (N, 4): the state at the start; target `action`: left or right at random,
    as by a player who knows nothing. The rows are the same in every run.

    Args:
        episodes: Number of rows.
        test: Share of the rows that becomes test rows.
    """
    # A seed of the dataset, not of the run: the rows are always the same.
    random = np.random.RandomState(holdout.SPLIT_SEED)
    states = random.uniform(-START_RANGE, START_RANGE, (episodes, len(STATE_NAMES)))
    columns: RawColumns = {
        "observation": states.astype(np.float32),
        # Both actions equally often, in random order.
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
