"""Diagnoses a fit from its history alone: overfitting, underfitting, instability and the like."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from dlrun.core.formatting import counted
from dlrun.evaluation.learning_curve import (
    MIN_RELATIVE_CHANGE,
    MIN_RELATIVE_INCREASE,
    MIN_VALUES,
    NOISE_FACTOR,
    LossCurve,
    format_loss,
    get_metric_series,
    make_loss_curve,
)

Kind = Literal[
    "unstable",
    "suspiciously good",
    "not learning",
    "overfitting",
    "rising",
    "underfitting",
    "converged",
    "unclear",
]  # worst first
ORDER: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]

MIN_REMAINING_LOSS = 0.97  # a share of the baseline's loss that is no gain over it
HIGH_LOSS = 0.6  # a share of the baseline's loss that is far above nothing
NOISE_LIMIT = 0.25  # noise as a share of the level from which a curve is unstable,
LARGE_CHANGE = 0.02  # when it is also this share of the loss that the fit began with
TURNING = 1 / 3  # and when so many epochs are peaks or troughs; of pure noise two thirds are
# A metric, and a share of the baseline's loss, that are suspicious in the first epochs:
PERFECT_SCORE, TINY_LOSS = 0.995, 0.02
EASIER_RATIO = 0.4  # validation loss as a share of training loss that asks for a reason


# Validation loss ends above its best while training goes on:
TURNED: tuple[Kind, ...] = ("overfitting", "rising")


@dataclass(frozen=True)
class Diagnosis:
    """How a fit went.

    Attributes:
        kind: The diagnosis, in a word or two.
        epoch: Where validation loss was best, noise aside; None without validation rows.
        text: The evidence, in a sentence.
    """

    kind: Kind
    epoch: int | None
    text: str


def diagnose(
    rows: Iterable[Any],
    baseline_loss: float | None = None,
    measure: str | None = None,
    goal: str | None = None,
    hindered: bool = False,
) -> Diagnosis:
    """Diagnose one fit.

    Args:
        rows: Its history, one entry an epoch and split ('train', 'val'), as records or as their
            dicts.
        baseline_loss: The dummy predictor's loss, without which 'not learning' cannot be said.
        measure: A metric up to 1, such as accuracy, by which suspiciously good scores are known.
        goal: The better direction of `measure`; only 'max' is used.
        hindered: Whether dropout or augmentation makes training rows harder than validation rows,
            so that these may do better.
    """
    entries = [row if isinstance(row, dict) else vars(row) for row in rows]
    if problem := detect_nan_loss(entries):
        return Diagnosis("unstable", find_best_epoch(entries), problem)
    train, val = make_loss_curve(entries, "train"), make_loss_curve(entries, "val")
    epoch = val.epochs[val.best_index] if val else None
    if train is None or len(train.values) < 3:
        num_epochs = len(train.values) if train else 0
        verb = "is" if num_epochs == 1 else "are"
        note = f"{counted(num_epochs, 'epoch')} {verb} too few to tell how the fit goes"
        return Diagnosis("unclear", epoch, note)
    start = max(train.values[0], baseline_loss or 0.0)
    # In order of weight: the first that applies is the diagnosis.
    checks: tuple[Any, ...] = (
        val and detect_high_score(entries, val, baseline_loss, measure if goal == "max" else None),
        val and detect_overfit(train, val, start),
        detect_unstable(train, start, "training"),
        val and not hindered and detect_validation_gap(train, val),
        detect_no_learning(train, baseline_loss),
        val and detect_unstable(val, start, "validation"),
        val and detect_loss_increase(train, val),
        detect_underfit(train, val, start, baseline_loss),
    )
    detection = next(filter(None, checks), None)
    kind, text = detection or describe_convergence(train, val, start)
    note = f" ({len(train.values)} epochs say little)" if len(train.values) < MIN_VALUES else ""
    return Diagnosis(kind, epoch, text + note)


def get_fit_context(
    patch: Mapping[str, Any],
    model: Mapping[str, Any],
    losses: Sequence[float],
    measure: str,
    goal: str,
) -> dict[str, Any]:
    """What a diagnosis must know of a fit, as keywords of `diagnose`.

    Args:
        patch: What the fit changes in the config, as dotted keys.
        model: The config's model.
        losses: The baseline's loss in each fold. A penalty is part of the loss, so that it cannot
            be compared with them.
        measure: See `diagnose`.
        goal: See `diagnose`.
    """
    settings = {
        name: patch.get(f"model.{name}", model.get(name, 0)) for name in ("dropout", "l1", "l2")
    }
    # A penalty is in the training loss and not in the baseline's.
    baseline_loss = None if settings["l1"] or settings["l2"] or not losses else fmean(losses)
    return {
        "baseline_loss": baseline_loss,
        "measure": measure,
        "goal": goal,
        "hindered": bool(settings["dropout"]),
    }


def diagnose_folds(
    histories: Iterable[Iterable[Any]],
    baseline_loss: float | None = None,
    measure: str | None = None,
    goal: str | None = None,
    hindered: bool = False,
) -> Diagnosis:
    """The diagnosis of most folds, the worse of two as frequent; see `diagnose` for the arguments.

    Its epoch is the median of their best epochs.
    """
    diagnoses = [diagnose(rows, baseline_loss, measure, goal, hindered) for rows in histories]
    if not diagnoses:
        return Diagnosis("unclear", None, "no fold has a history yet")
    counts = Counter(diagnosis.kind for diagnosis in diagnoses)
    kind = max(ORDER, key=lambda kind: (counts[kind], -ORDER.index(kind)))
    kinds = ", ".join(
        f"{kind} in {counts[kind]}"
        for kind in sorted(counts, key=lambda k: (k != kind, ORDER.index(k)))
    )
    text = f"{kinds} of {len(diagnoses)} folds"
    best = [diagnosis.epoch for diagnosis in diagnoses if diagnosis.epoch is not None]
    if not best:
        return Diagnosis(kind, None, text)
    middle, spread = round(median(best)), f"{min(best)} to {max(best)}"
    best_text = (
        f"about epoch {middle} (median; {spread} over folds)"
        if min(best) < max(best)
        else f"epoch {middle} in each"
    )
    return Diagnosis(kind, middle, f"{text}; validation loss is best at {best_text}")


Detection = tuple[Kind, str] | None


def detect_unstable(curve: LossCurve, start: float, name: str) -> Detection:
    """Noise that is large beside the level and not small beside the first loss."""
    level = median(curve.smooth[len(curve.smooth) // 3 :])
    calm = (
        curve.noise <= max(NOISE_LIMIT * abs(level), LARGE_CHANGE * abs(start))
        or curve.oscillation_rate < TURNING
    )
    if len(curve.values) < 5 or calm:
        return None
    # The first third is left out: a fast fall is no noise.
    later = curve.values[len(curve.values) // 3 :]
    low, high = format_loss(min(later)), format_loss(max(later))
    return "unstable", (
        f"unstable: {name} loss jumps up and down between {low} and {high} from one epoch to the "
        "next; a smaller learning rate or a larger batch calms it"
    )


def detect_high_score(
    entries: list[dict[str, Any]], val: LossCurve, baseline: float | None, measure: str | None
) -> Detection:
    """Almost perfect on validation rows in the first epochs, by metric and by loss."""
    num_epochs = max(2, len(val.values) // 10)
    values = get_metric_series(entries, "val", measure)[1][:num_epochs] if measure else []
    good = not values or median(values) >= PERFECT_SCORE
    small = not baseline or median(val.values[:num_epochs]) <= TINY_LOSS * baseline
    if not (good and small and (values or baseline)):
        return None
    description = (
        f"{measure} {format_loss(median(values))}"
        if values
        else f"loss {format_loss(median(val.values[:num_epochs]))}"
    )
    return "suspiciously good", (
        f"suspiciously good: validation {description} within the first {num_epochs} epochs; look "
        "for a column that gives the answer away, or for rows that stand on both sides"
    )


def detect_validation_gap(train: LossCurve, val: LossCurve) -> Detection:
    """Far better on validation rows than on training rows."""
    if (
        val.final_level >= EASIER_RATIO * train.final_level
        or train.final_level - val.final_level <= NOISE_FACTOR * max(train.noise, val.noise)
    ):
        return None
    return "suspiciously good", (
        f"suspiciously good: validation loss {format_loss(val.final_level)} is far below training "
        f"loss {format_loss(train.final_level)}; the validation rows are easier, or known"
    )


def detect_no_learning(train: LossCurve, baseline: float | None) -> Detection:
    """Training loss that never gets clearly below the baseline's."""
    if not baseline or min(train.smooth) < MIN_REMAINING_LOSS * baseline:
        return None
    return "not learning", (
        f"not learning: training loss never gets clearly below {format_loss(baseline)}, the "
        f"baseline's (its lowest is {format_loss(min(train.smooth))}); another learning rate, "
        "scaled inputs, or inputs that say more of the target"
    )


def detect_overfit(train: LossCurve, val: LossCurve, start: float) -> Detection:
    """Training loss goes on falling while validation loss, past its minimum, rises."""
    best = val.best_index
    low = val.smooth[best] if val.width > 1 else min(val.smooth)
    num_later = len(val.values) - 1 - best
    count = max(val.tail_count, num_later // 2)
    if num_later < 2 * val.width or not val.is_significant(
        val.tail_median(count) - low, low, start, count
    ):
        return None
    if len(val.values) < MIN_VALUES:
        # With so few epochs noise is unknown; `detect_loss_increase` may still report a rise.
        return None  # it may be said to rise, no more
    train_index = train.epochs.index(val.epochs[best])
    if not train.is_significant(
        train.smooth[train_index] - train.final_level,
        train.smooth[train_index],
        0,
        train.tail_count,
    ):
        return None
    end = val.format_at(-1) if val.values[-1] > low else format_loss(val.final_level)
    return "overfitting", (
        f"overfitting from epoch {val.epochs[best] + 1}: training loss went on from "
        f"{train.format_at(train_index)} to {train.format_at(-1)} while validation loss rose from "
        f"{val.format_at(best)} to {end}"
    )


def detect_loss_increase(train: LossCurve, val: LossCurve) -> Detection:
    """A loss that ends clearly above its lowest value, in too few epochs to be sure why."""
    if train.final_increase:
        increase = relative_difference(train.values[-1], min(train.values))
        end = f"{format_loss(train.values[-1])}, {format_percent(increase)} above its lowest"
        return "unstable", (
            f"unstable: training loss ends at {end}; a smaller learning rate may help"
        )
    if not val.final_increase:
        return None
    low, last = min(val.values), val.values[-1]
    index = val.values.index(low)
    num_later = len(val.values) - 1 - index
    reason = (
        "one epoch may be chance"
        if num_later == 1
        else f"{num_later} epochs do not tell overfitting from chance"
    )
    return "rising", (
        f"rising: validation loss rose from {format_loss(low)} at epoch {val.epochs[index]} to "
        f"{format_loss(last)} ({format_percent(relative_difference(last, low))} more) while "
        f"training loss went to {train.format_at(-1)}; {reason}"
    )


def relative_difference(value: float, low: float) -> float:
    """How far a value is above a lower one, as a share of it."""
    return (value - low) / abs(low) if low else math.inf


def format_percent(share: float) -> str:
    """0.163 → '16 %'; from ten times on, how many times."""
    return f"{100 * share:.0f} %" if share < 9 else f"{share + 1:.3g} times"


def detect_underfit(
    train: LossCurve, val: LossCurve | None, start: float, baseline: float | None
) -> Detection:
    """Both losses still falling at the end; or both flat, alike, and far above nothing."""
    if val is None:
        return None
    if is_decreasing(train, start) and is_decreasing(val, start):
        return "underfitting", (
            f"underfitting: at the end training loss ({train.format_at(-1)}) and validation loss "
            f"({val.format_at(-1)}) are still falling; more epochs, or a larger model"
        )
    alike = abs(val.final_level - train.final_level) <= 2 * MIN_RELATIVE_CHANGE * abs(
        train.final_level
    )
    if (
        baseline
        and alike
        and len(train.values) >= MIN_VALUES
        and train.final_level > HIGH_LOSS * baseline
        and not is_decreasing(train, start)
    ):
        return "underfitting", (
            f"underfitting: training loss has stopped at {train.format_at(-1)}, where validation "
            f"loss is too ({val.format_at(-1)}), and the baseline's is {format_loss(baseline)}; a "
            "larger model, or better inputs"
        )
    return None


def describe_convergence(train: LossCurve, val: LossCurve | None, start: float) -> tuple[Kind, str]:
    """What is left to say where nothing is wrong."""
    summary = f"training loss went from {format_loss(train.values[0])} to {train.format_at(-1)}"
    if len(train.values) < MIN_VALUES and val is not None:
        return (
            "unclear",
            f"unclear: {summary}, validation loss from {format_loss(val.values[0])} to "
            f"{val.format_at(-1)}",
        )
    if val is None:
        falling = is_decreasing(train, start)
        trend = " and is still falling" if falling else " and has settled"
        text = f"{summary}{trend}; without validation rows nothing can be said of overfitting"
        return ("unclear" if falling else "converged"), text
    smoothed = " (smoothed)" if val.width > 1 else ""
    increase = relative_difference(val.values[-1], val.smooth[val.best_index])
    noise = (
        f", its last value {format_percent(increase)} above that, within its noise"
        if increase > MIN_RELATIVE_INCREASE
        else ""
    )
    return "converged", (
        f"converged: validation loss{smoothed} is best, {val.format_at(val.best_index)}, at epoch "
        f"{val.epochs[val.best_index]} and {val.format_at(-1)} at the end{noise}; {summary}"
    )


def is_decreasing(curve: LossCurve, start: float) -> bool:
    """Whether the last quarter of the epochs made a clear difference, down to the last one."""
    if curve.final_increase or (
        len(curve.values) < MIN_VALUES and curve.values[-1] > curve.values[-2]
    ):
        return False
    lookback = max(2, len(curve.values) // 4)
    earlier = curve.smooth[max(0, len(curve.smooth) - 1 - lookback)]
    return curve.is_significant(earlier - curve.final_level, earlier, start, curve.tail_count)


def detect_nan_loss(entries: list[dict[str, Any]]) -> str:
    """The message about a loss that is not finite; '' when all are."""
    for split, name in (("train", "training"), ("val", "validation")):
        for epoch, value in zip(*get_metric_series(entries, split, "loss"), strict=True):
            if not math.isfinite(value):
                return (
                    f"unstable: {name} loss is {value} at epoch {epoch}; a smaller learning rate, "
                    "or scaled inputs"
                )
    return ""


def find_best_epoch(entries: list[dict[str, Any]]) -> int | None:
    """The epoch with the lowest validation loss that is a number."""
    points = [
        (value, epoch)
        for epoch, value in zip(*get_metric_series(entries, "val", "loss"), strict=True)
    ]
    return min(
        ((value, epoch) for value, epoch in points if math.isfinite(value)), default=(0.0, None)
    )[1]
