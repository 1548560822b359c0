"""The scores of what has to be beaten."""

from __future__ import annotations

from dlrun.core.dataset import Source
from dlrun.core.types import Score
from dlrun.models.baselines import ConstantKind, ConstantModel
from dlrun.training.trainer import Trainer


def compute_baseline_scores(baseline: Trainer, split: str, source: Source) -> dict[str, Score]:
    """The scores of the answer to beat: by each measure those of the constant answer that is best by it."""
    model = baseline.objective.model
    scores = baseline.run_epoch(split, source).scores()
    if not isinstance(model, ConstantModel):
        return scores
    scores_by_output = {get_prediction_key(model, model.which): scores}
    for name, (_, metric) in baseline.metrics.items():
        key = get_prediction_key(model, metric.constant)
        if key not in scores_by_output:
            model.select_output(metric.constant)
            scores_by_output[key] = baseline.run_epoch(split, source).scores()
        scores = scores | {name: scores_by_output[key][name]}
    model.select_output("loss")
    return scores


def get_prediction_key(model: ConstantModel, kind: ConstantKind) -> tuple[int, ...]:
    """The same for two answers that are the same for every target."""
    return tuple(id(model.get_output(name, kind)) for name in model.targets)
