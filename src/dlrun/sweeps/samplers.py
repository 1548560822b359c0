"""How a search chooses its next point, and what cuts a trial short: Optuna's samplers and pruners, by our settings."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

from dlrun.config.settings import Sweep
from dlrun.core.errors import Refused


@cache
def optuna() -> Any:
    """The package that searches. Raises Refused where it is not installed."""
    try:
        import optuna as package
    except ImportError as error:
        raise Refused("sweep=random, tpe and halving search with Optuna: pip install 'dlrun[sweep]'") from error
    package.logging.set_verbosity(package.logging.ERROR)
    warnings.filterwarnings("ignore", category=package.exceptions.ExperimentalWarning)
    return package


def sampler(settings: Sweep, number: int) -> Any:
    """What chooses the values of trial `number`: a function of the seed, this number, and what came of the others.

    random: every point anew, whatever came of the others (Bergstra and Bengio 2012). tpe: after `startup` random ones
    points like those that did well (Bergstra et al. 2011), all settings modelled as one (Falkner et al. 2018); trials
    that still run count as bad ones meanwhile, so that several at once do not all try the same.
    """
    from numpy.random import SeedSequence

    samplers, seed = optuna().samplers, int(SeedSequence([settings.seed % 2**64, number]).generate_state(1)[0])
    if settings.method == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(seed=seed, n_startup_trials=settings.startup, multivariate=True, constant_liar=True)


def pruner(settings: Sweep) -> Any:
    """What says after an epoch whether a trial is cut short.

    halving: of the trials that got to epochs least, least * factor, … the best of every `factor` go on (asynchronous
    successive halving, Li et al. 2020). hyperband: several of these ladders, which begin later and later (Li et al.
    2018). median: what is worse than the median of the earlier trials at the same epoch goes no further, once `startup`
    of them have ended. Raises Refused for a factor that halves nothing.
    """
    pruners, least, factor = optuna().pruners, settings.least, settings.factor
    if settings.prune is None:
        return pruners.NopPruner()
    if settings.prune == "median":
        return pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=least)
    if factor < 2:
        raise Refused(f"sweep.factor={factor}: it must be 2 at least, for one trial in so many goes on")
    if settings.prune == "hyperband":
        return pruners.HyperbandPruner(min_resource=least, reduction_factor=factor)
    return pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)
