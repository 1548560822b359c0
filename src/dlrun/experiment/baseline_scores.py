"""The scores of the baseline that a model has to beat."""

from __future__ import annotations

from dlrun.core.dataset import Source
from dlrun.core.types import Score
from dlrun.models.constant_model import ConstantKind, ConstantModel
from dlrun.training.trainer import Trainer


def compute_baseline_scores(baseline: Trainer, split: str, source: Source) -> dict[str, Score]:
    """Score the baseline: of a constant prediction, each metric takes the constant that is best by
    it.

    Args:
        baseline: A trainer that holds the baseline.
        split: 'train', 'val' or 'test'.
        source: Its rows.
    """
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
    """A key that is the same for two constants that are the same for every target."""
    return tuple(id(model.get_output(name, kind)) for name in model.targets)
