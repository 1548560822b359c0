"""The scores of what has to be beaten."""

from __future__ import annotations

from typing import Any

from dlrun.core.dataset import Source
from dlrun.core.types import Score
from dlrun.models.baselines import Answer, Constant
from dlrun.training.trainer import Trainer


def bar_scores(baseline: Trainer, split: str, source: Source) -> dict[str, Score]:
    """The scores of the answer to beat: by each measure those of the constant answer that is best by it."""
    model: Any = getattr(baseline.objective, "model", None)
    scores = baseline.sweep(split, source).scores()
    if not isinstance(model, Constant):
        return scores
    told = {answers_key(model, model.which): scores}
    for name, (_, metric) in baseline.measures.items():
        key = answers_key(model, metric.constant)
        if key not in told:
            model.give(metric.constant)
            told[key] = baseline.sweep(split, source).scores()
        scores = scores | {name: told[key][name]}
    model.give("loss")
    return scores


def answers_key(model: Constant, which: Answer) -> tuple[int, ...]:
    """The same for two answers that are the same for every target."""
    return tuple(id(model.answer(name, which)) for name in model.targets)
