"""How Optuna draws values and prunes trials, for the settings of a sweep."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from dlrun.config.settings import Sweep
from dlrun.core.errors import UserError
from dlrun.sweeps.study import Axis


@cache
def import_optuna() -> Any:
    """Import Optuna and silence it.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna as package
    except ImportError as error:
        raise UserError(
            "sweep=random, tpe and halving search with Optuna: pip install 'dlrun[sweep]'"
        ) from error
    # Optuna logs every trial, which the table shows already.
    package.logging.set_verbosity(package.logging.ERROR)
    warnings.filterwarnings("ignore", category=package.exceptions.ExperimentalWarning)
    return package


def make_sampler(settings: Sweep, number: int) -> Any:
    """The sampler for one trial: a function of the seed, its number and earlier outcomes.

    Args:
        settings: `method` random draws every point independently (Bergstra and Bengio 2012);
            tpe draws points like good ones after `startup` random ones (Bergstra et al. 2011), all
            settings modeled jointly (Falkner et al. 2018). Running trials count as bad ones
            meanwhile, so that workers do not all try the same.
        number: The trial.
    """
    from numpy.random import SeedSequence

    # A sampler per trial: a sweep that was cut draws the points that it would have drawn.
    samplers = import_optuna().samplers
    seed = int(SeedSequence([settings.seed % 2**64, number]).generate_state(1)[0])
    if settings.method == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(
        seed=seed, n_startup_trials=settings.startup, multivariate=True, constant_liar=True
    )


def make_pruning_rule(settings: Sweep) -> Any:
    """The rule that stops a bad trial after an epoch.

    Args:
        settings: `prune` halving keeps the best 1 / factor of the trials that reached epochs least,
            least × factor, … (asynchronous successive halving, Li et al. 2020); hyperband runs
            several such brackets with later and later first decisions (Li et al. 2018); median
            stops what is worse than the median of earlier trials at the same epoch, once `startup`
            of them have ended.

    Raises:
        UserError: The factor keeps everything.
    """
    pruners, least, factor = import_optuna().pruners, settings.least, settings.factor
    if settings.prune is None:
        return pruners.NopPruner()
    if settings.prune == "median":
        return pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=least)
    if factor < 2:
        raise UserError(
            f"sweep.factor={factor}: expected 2 or more, for one trial in so many goes on"
        )
    if settings.prune == "hyperband":
        return pruners.HyperbandPruner(min_resource=least, reduction_factor=factor)
    return pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)


def suggest_value(trial: Any, axis: Axis) -> str:
    """Draw the value of an axis.

    Args:
        trial: Optuna's trial.
        axis: An interval, or a list. A list of evenly spaced numbers is drawn as numbers, so that
            the sampler knows their order; any other as categories.

    Returns:
        The value as an override's text.
    """
    if axis.is_interval and axis.whole:
        return str(trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log))
    if axis.is_interval:
        return repr(float(trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)))
    if step := find_even_step(axis.values):
        number = trial.suggest_float(
            axis.key, float(axis.values[0]), float(axis.values[-1]), step=step
        )
        return min(axis.values, key=lambda text: abs(float(text) - number))
    return str(trial.suggest_categorical(axis.key, axis.values))


def find_even_step(values: Sequence[str]) -> float | None:
    """The distance between numbers.

    Returns:
        None where they are fewer than three numbers, or not evenly spaced and rising.
    """
    try:
        numbers = [float(text) for text in values]
    except ValueError:
        return None
    # 12 digits: the difference of 0.3 and 0.2 is 0.1.
    steps = [float(f"{high - low:.12g}") for low, high in pairwise(numbers)]
    is_even = all(step > 0 and math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)
    return steps[0] if len(steps) >= 2 and is_even else None
