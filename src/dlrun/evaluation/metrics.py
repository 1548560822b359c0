"""The metrics of success: each is declared once, with its kinds, its direction and its finish.

A new metric is one function here and one file in `conf/metric`. Torch is needed when values are
computed, not to read a declaration: `dlrun compare` and config errors stay without it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dlrun.config.annotations import Count, Fraction
from dlrun.config.compatibility import get_metric_error
from dlrun.config.instantiate import build_part
from dlrun.config.parts import Plugins
from dlrun.config.signatures import is_custom
from dlrun.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dlrun.core.types import Field, Score
    from dlrun.evaluation.split_metrics import SplitMetric


RowFunction = Callable[["Tensor", "Tensor"], "Tensor"]
Average = Literal["macro", "micro", "weighted"]
Goal = Literal["max", "min"]
Constant = Literal["prior", "median", "yes"]
MAX_NATS = 700.0  # whose exponential a float can still hold


@dataclass(frozen=True)
class Metric:
    """One metric of one target; it has either `per_row` or `over_split`.

    Attributes:
        goal: The better direction, 'max' or 'min'. It is written into `results.jsonl` with each
            score, and whoever ranks runs reads it from there.
        per_row: (raw outputs (B, outputs), targets (B, …)) → values (B,), of which the mean counts.
        over_split: (predictions, targets) of a whole split, as numpy arrays → one number.
        finish: Applied to the mean, such as the root of RMSE.
        constant: The dummy prediction that is best by this metric; see `models.constant`.

    Example:
        def brier(field):
            return Metric("min", lambda raw, target: (raw.sigmoid() - target).square().mean(1))
    """

    goal: Goal
    per_row: RowFunction | None = None
    over_split: Callable[[Any, Any], float] | None = None
    finish: Callable[[float], float] = float
    constant: Constant = "prior"


@dataclass(frozen=True)
class MetricDeclaration:
    """All that dlrun knows of one metric of its own; see `declare_metric` for the arguments."""

    name: str
    build: Callable[..., Any]
    goal: Goal
    kinds: tuple[str, ...]
    over_split: bool = False
    finish: Callable[[float], float] = float
    constant: Constant = "prior"
    default_for: tuple[str, ...] = ()
    default_settings: Mapping[str, Any] = field(default_factory=dict)

    def make(self, target: Field, settings: Mapping[str, Any]) -> Metric:
        """The metric of one target; raises UserError for a kind of target that it does not have."""
        if target.kind not in self.kinds:
            raise UserError(get_metric_error(self.name, target.kind) or "")
        function = self.build(target, **settings)
        constant = self.get_best_constant(target.kind)
        if self.over_split:
            return Metric(self.goal, over_split=function, finish=self.finish, constant=constant)
        return Metric(self.goal, function, finish=self.finish, constant=constant)

    def get_best_constant(self, kind: str) -> Constant:
        """The best dummy prediction: of several exclusive classes none is 'yes', so their prior."""
        return "prior" if self.constant == "yes" and kind == "category" else self.constant


# Filled by the decorators below.
METRICS: dict[str, MetricDeclaration] = {}  # in the order in which messages list them


def declare_metric(goal: Goal, kinds: tuple[str, ...], **details: Any) -> Callable[..., Any]:
    """Declare the function below as a metric of dlrun's own.

    The function gets the target's `Field` and its settings, and returns the function that measures.
    `config.compatibility` reads these arguments from the source: write them as literals.

    Args:
        goal: The better direction, 'max' or 'min'; nothing else in dlrun says it.
        kinds: The kinds of target that the metric is defined for.
        details: `over_split=True` for a function of a whole split instead of rows; `finish`,
            applied to the mean; `constant`, the best dummy prediction; `default_for`, the kinds
            that are measured by it when no metric is configured, with `default_settings`.

    Example:
        @declare_metric("max", kinds=("category",))
        def adjacent(field: Field, *, distance: Count) -> RowFunction:
            return lambda raw, target: ((raw.argmax(-1) - target).abs() <= distance).float()
    """

    def decorate(build: Callable[..., Any]) -> Callable[..., Metric]:
        declaration = MetricDeclaration(build.__name__, build, goal, kinds, **details)
        METRICS[build.__name__] = declaration

        # wraps keeps the signature and the module, by which a config's target is checked.
        @functools.wraps(build)
        def make(field: Field, **settings: Any) -> Metric:
            return declaration.make(field, settings)

        return make

    return decorate


@declare_metric(
    "max",
    kinds=("binary", "category", "tokens", "multilabel"),
    default_for=("binary", "category", "multilabel"),
    default_settings={"threshold": 0.5},
)
def accuracy(field: Field, *, threshold: Fraction) -> RowFunction:
    """Share of rows, labels or tokens predicted right; `threshold`: probability that means yes."""
    if field.kind == "tokens":
        return lambda raw, target: (raw.argmax(-1) == target).float().mean(1)
    if field.kind == "category":
        return lambda raw, target: (raw.argmax(-1) == target).float()
    logit = to_logit(threshold)
    return lambda raw, target: ((raw > logit) == (target > 0.5)).float().flatten(1).mean(1)


@declare_metric("max", kinds=("multilabel",))
def exact_match(field: Field, *, threshold: Fraction) -> RowFunction:
    """Share of rows whose labels are all right."""
    logit = to_logit(threshold)
    return lambda raw, target: ((raw > logit) == (target > 0.5)).all(-1).float()


@declare_metric("max", kinds=("category", "tokens"))
def top_k(field: Field, *, k: Count) -> RowFunction:
    """Share of rows, or tokens, whose class is among the k most likely."""
    if k > field.size:
        raise ValueError(f"k={k}, but there are only {field.size} classes")

    def is_among_top(raw: Tensor, target: Tensor) -> Tensor:
        hits = (raw.topk(k, -1).indices == target.unsqueeze(-1)).any(-1).float()
        return hits.reshape(len(target), -1).mean(1)

    return is_among_top


@declare_metric("max", kinds=("binary", "category", "multilabel"), over_split=True, constant="yes")
def precision(field: Field, *, average: Average) -> SplitMetric:
    """Share of the predicted positives that are positive; averaged over several classes."""
    return _make_split_metric("precision", field, average)


@declare_metric("max", kinds=("binary", "category", "multilabel"), over_split=True, constant="yes")
def recall(field: Field, *, average: Average) -> SplitMetric:
    """Share of the positives that are predicted; averaged over several classes."""
    return _make_split_metric("recall", field, average)


@declare_metric("max", kinds=("binary", "category", "multilabel"), over_split=True, constant="yes")
def f1(field: Field, *, average: Average) -> SplitMetric:
    """Harmonic mean of precision and recall; averaged over several classes."""
    return _make_split_metric("f1", field, average)


@declare_metric("max", kinds=("binary", "category", "multilabel"), over_split=True)
def roc_auc(field: Field) -> SplitMetric:
    """Area under the ROC curve, each class against the rest, averaged over those that occur."""
    return _make_split_metric("roc_auc", field)


@declare_metric("max", kinds=("binary", "multilabel"), over_split=True)
def pr_auc(field: Field) -> SplitMetric:
    """Average precision, the area under the precision-recall curve, over the labels that occur."""
    return _make_split_metric("pr_auc", field)


def exp_nats(nats: float) -> float:
    """e to the mean cross-entropy: the perplexity."""
    return math.exp(min(nats, MAX_NATS))


def nats_to_bits(nats: float) -> float:
    """A mean cross-entropy in bits."""
    return nats / math.log(2)


@declare_metric("min", kinds=("category", "tokens"), finish=exp_nats, default_for=("tokens",))
def perplexity(field: Field) -> RowFunction:
    """The number of equally likely classes, or next tokens, with the same cross-entropy."""
    return row_cross_entropy


@declare_metric("min", kinds=("category", "tokens"), finish=nats_to_bits, default_for=("tokens",))
def bits(field: Field) -> RowFunction:
    """Mean cross-entropy in bits a row, or a token."""
    return row_cross_entropy


def row_cross_entropy(raw: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of each row, in nats.

    Args:
        raw: Logits (B, …, classes).
        target: Classes (B, …).

    Returns:
        (B,) values; of a row with several places, their mean.
    """
    right = raw.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return (raw.logsumexp(-1) - right).reshape(len(target), -1).mean(1)


@declare_metric(
    "min", kinds=("number", "fraction"), constant="median", default_for=("number", "fraction")
)
def mae(field: Field) -> RowFunction:
    """Mean absolute error in the target's unit; of a series in standard deviations."""
    return lambda raw, target: field.prediction_error(raw, target).abs().flatten(1).mean(1)


@declare_metric("min", kinds=("number", "fraction"))
def mse(field: Field) -> RowFunction:
    """Mean squared error."""
    return _squared_error(field)


@declare_metric(
    "min", kinds=("number", "fraction"), finish=math.sqrt, default_for=("number", "fraction")
)
def rmse(field: Field) -> RowFunction:
    """Root of the mean squared error, in the unit of `mae`."""
    return _squared_error(field)


@declare_metric("max", kinds=("number", "fraction"), over_split=True)
def r2(field: Field) -> SplitMetric:
    """Coefficient of determination: 1 is perfect, 0 is the mean's; nan for a constant target."""
    return _make_split_metric("r2", field)


@declare_metric("min", kinds=("number",), constant="median")
def mae_unit(field: Field) -> RowFunction:
    """Mean absolute error in the target's own unit, such as °C, also where it is standardized."""
    return lambda raw, target: _unit_error(field, raw, target).abs().flatten(1).mean(1)


@declare_metric("min", kinds=("number",), finish=math.sqrt)
def rmse_unit(field: Field) -> RowFunction:
    """Root of the mean squared error in the target's own unit."""
    return lambda raw, target: _unit_error(field, raw, target).square().flatten(1).mean(1)


def _make_split_metric(name: str, field: Field, average: str = "") -> SplitMetric:
    from dlrun.evaluation.split_metrics import SplitMetric

    return SplitMetric(name, field.kind, average)


def _squared_error(field: Field) -> RowFunction:
    return lambda raw, target: field.prediction_error(raw, target).square().flatten(1).mean(1)


def _unit_error(field: Field, raw: Tensor, target: Tensor) -> Tensor:
    return field.to_original_units(raw) - field.to_original_units(target)


def to_logit(threshold: float) -> float:
    """The logit of a probability; of 0 and 1 the infinities."""
    if threshold in (0, 1):
        return math.inf if threshold else -math.inf
    return math.log(threshold / (1 - threshold))


def get_default_metric_names(kind: str, scaled: bool) -> tuple[str, ...]:
    """The metrics of a kind of target for which none is configured.

    Args:
        kind: The kind of the target.
        scaled: Whether it is a number that is measured in another unit than its own.
    """
    # The first of them is what early stopping, sweeps and workflows look at by default.
    names = tuple(name for name, metric in METRICS.items() if kind in metric.default_for)
    return names + (("mae_unit",) if scaled else ())


def get_default_metrics(field: Field) -> dict[str, Metric]:
    """The metrics of a target for which none is configured, by name."""
    names = get_default_metric_names(
        field.kind, field.outlook is not None and field.scale is not None
    )
    return {name: METRICS[name].make(field, METRICS[name].default_settings) for name in names}


def build_metric(
    node: Mapping[str, Any], name: str, field: Field, plugins: Plugins, tell: Callable[[str], None]
) -> Metric:
    """The metric that a node of the config describes for one target.

    Args:
        node: The part; `goal` in a part of the user's own says which direction is better.
        name: Its name in the config.
        field: The target.
        plugins: The user's packages.
        tell: Receives a warning where the direction is not given.

    Raises:
        UserError: The target of the node makes no metric.
    """
    custom = is_custom(node["_target_"])
    settings = {key: node[key] for key in node if not (custom and key == "goal")}
    built = build_part(settings, field, kind="metric", plugins=plugins)
    if not custom or isinstance(built, Metric):
        return built  # type: ignore[no-any-return]
    from dlrun.evaluation.custom_metric import make_custom_metric

    return Metric(node.get("goal", "max"), over_split=make_custom_metric(built, node, name, tell))


def get_direction_map(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Name → better direction of all that a row of the history will hold; of a loss, less."""
    return {"loss": "min", **{name: metric.goal for name, metric in metrics.items()}}


MIN_ROWS = 20  # of an interval
NO_INTERVAL = "it has no interval"
NO_VARIATION = "all rows have the same value, so that they say nothing of how others would come out"
NORMAL_QUANTILE = 1.959964  # of 97.5 %: half of a 95 % interval, in standard errors


def check_sample_size(rows: int) -> str:
    """Why there is no interval over so few rows; '' where there is one.

    An interval belongs to one score of one fit over its rows, or to a difference on the same rows:
    how far it could have come out otherwise with other rows. It is not computed over fits.
    """
    subject = "1 row is" if rows == 1 else f"{rows} rows are"
    return (
        f"{subject} too few for an interval: at least {MIN_ROWS} are needed"
        if rows < MIN_ROWS
        else ""
    )


def compute_mean_score(
    total: float,
    squares: float,
    n: int,
    finish: Callable[[float], float] = float,
    goal: str = "min",
) -> Score:
    """The mean of n values with its 95 % interval, from their sums.

    Wilson's interval where every value is 0 or 1 (Wilson 1927), the normal approximation elsewhere.
    `check_sample_size` says when there is no interval.

    Args:
        total: The sum of the values.
        squares: The sum of their squares.
        n: How many values there are, at least one.
        finish: Applied to the mean and to both ends.
        goal: The better direction.
    """
    from dlrun.core.types import Score

    mean = total / n
    if not math.isfinite(mean):
        return Score(math.nan, n=n, goal=goal, why="some rows have no value")
    if why := check_sample_size(n):
        return Score(finish(mean), n=n, goal=goal, why=why)
    if _are_zeros_and_ones(total, squares, mean):
        center, half = _wilson_interval(mean, n)
    else:
        center = mean
        half = NORMAL_QUANTILE * math.sqrt(max(0.0, squares / n - mean * mean) / (n - 1))
        if not half:
            return Score(finish(mean), n=n, goal=goal, why=NO_VARIATION)
    # An error cannot be negative, so neither can the lower end; a log-likelihood can.
    low = center - half if mean < 0 else max(0.0, center - half)
    return Score(finish(mean), finish(low), finish(center + half), n, goal)


def _are_zeros_and_ones(total: float, squares: float, mean: float) -> bool:
    """Whether values can only have been 0 and 1: these alone are their own squares."""
    same = abs(squares - total) < 1e-9 * max(1.0, total)
    return same and 0 <= mean <= 1 and float(total).is_integer()


def _wilson_interval(mean: float, n: int) -> tuple[float, float]:
    """The center and half the width of Wilson's interval of a share."""
    z = NORMAL_QUANTILE
    center = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return center, half


def score_from_rows(values: Tensor, finish: Callable[[float], float] = float) -> Score:
    """The mean of an error, a value from 0 up, of each row (N,), with its 95 % interval."""
    values = values.double()
    total, squares = float(values.sum()), float(values.square().sum())
    return compute_mean_score(total, squares, len(values), finish)


def make_zero_accumulator(count: int, device: torch.device) -> Tensor:
    """Sums and sums of squares on the device, (count, 2) zeros."""
    import torch

    # Double where the device has it: a float32 sum over a million rows loses the last digits.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.zeros(count, 2, dtype=dtype, device=device)
