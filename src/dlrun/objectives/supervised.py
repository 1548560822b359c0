"""Supervised learning: the weighted sum of the targets' losses, plus the model's penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce

from torch import Tensor, nn

from dlrun.core.objective import Loss, Objective, ObjectiveContext
from dlrun.core.types import Batch, Score, Spec, Step
from dlrun.data.loading.table import DenseColumn
from dlrun.models.constant_model import build_best_constant
from dlrun.models.model import Model, as_model


class Supervised(Objective):
    """One step a batch, down the weighted sum of the targets' losses plus the model's penalty.

    Args:
        model: Input columns by name → target → raw outputs.
        losses: Target → its loss.
        weights: Target → its weight in the sum; 1 for those that are missing.
        augment: What is done to a training batch before it is learned from.
        make_baseline: Builds the objective that this one has to beat.
    """

    model: Model
    losses: dict[str, Loss]

    def __init__(
        self,
        model: nn.Module,
        losses: dict[str, Loss],
        weights: dict[str, float] | None = None,
        augment: Callable[[Batch], Batch] | None = None,
        make_baseline: Callable[[], Objective | None] = lambda: None,
    ) -> None:
        super().__init__()
        self.model = as_model(model)
        self.losses = losses
        self.weights = weights or {}
        self.augment = augment
        # An augmentation draws other calls for each batch; a loss is steady unless it denies it.
        self.steady = augment is None and all(
            getattr(loss, "steady", True) for loss in losses.values()
        )
        self.make_baseline = make_baseline
        self.split_scorer: Callable[[Iterable[Batch]], dict[str, Score]] | None = None
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.groups = {"model": trainable} if trainable else {}

    def steps(self, batch: Batch) -> Iterator[Step]:
        if self.augment is not None and self.training:
            batch = self.augment(batch)
        outputs = self.model(
            {name: column for name, column in batch.items() if name not in self.losses}
        )
        losses, penalty = self.target_losses(outputs, batch), self.penalty()
        total = sum_losses(losses.values())
        yield Step(
            "model",
            total if penalty is None else total + penalty,
            outputs,
            losses if len(losses) > 1 else {},
        )

    def baseline_objective(self) -> Objective | None:
        """The common-sense baseline, where the caller has named one."""
        return self.make_baseline()

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """What `split_scorer` measures, where the caller has set it."""
        return {} if self.split_scorer is None else self.split_scorer(batches)

    def penalty(self) -> Tensor | None:
        """The model's own penalty on its weights."""
        return self.model.penalty()

    def rates(self) -> dict[nn.Parameter, float]:
        """The parameters that the model wants changed more slowly."""
        return self.model.lr_factors()

    def target_losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Target → its loss times its weight.

        Args:
            outputs: Target → raw output (B, outputs).
            batch: Has the targets, too.
        """
        losses = {name: loss(outputs[name], batch[name]) for name, loss in self.losses.items()}
        return {
            name: weighted * self.weights[name] if name in self.weights else weighted
            for name, weighted in losses.items()
        }

    def total_loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """The weighted sum of the targets' losses; arguments as in `target_losses`."""
        return sum_losses(self.target_losses(outputs, batch).values())


def sum_losses(losses: Iterable[Tensor]) -> Tensor:
    """The sum of these, in their order."""
    return reduce(Tensor.__add__, losses)


def _build_baseline(spec: Spec, losses: dict[str, Loss], values: dict[str, Tensor]) -> nn.Module:
    """The best constant; of a forecast, the last value where the inputs hold it."""
    if any(field.outlook for field in spec.targets.values()):
        from dlrun.models.baselines import build_baseline

        return build_baseline(spec, losses, values)
    return build_best_constant(spec, losses, values)


def supervised(context: ObjectiveContext) -> Supervised:
    """The model's outputs against the targets of the data; the baseline predicts a constant."""
    spec, losses, weights = context.data.spec, context.losses, context.weights
    columns = context.data.train.columns
    values = {
        name: column.values
        for name in spec.targets
        if isinstance(column := columns.get(name), DenseColumn)
    }
    make_baseline = lambda: Supervised(_build_baseline(spec, losses, values), losses, weights)  # noqa: E731
    return Supervised(context.model, losses, weights, context.augment, make_baseline)
