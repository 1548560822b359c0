"""Says in plain words how a fit went, from its history alone: overfitting, underfitting, and what else there is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from dlrun.core.formatting import counted
from dlrun.evaluation.learning_curve import CLEAR, FEW, NOISE, RISEN, Curve, curve, number, series

Kind = Literal[
    "unstable", "suspiciously good", "not learning", "overfitting", "rising", "underfitting", "converged", "unclear"
]  # worst first
ORDER: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]

NOTHING = 0.97  # a share of the constant answer's loss that is no gain over it
MUCH = 0.6  # a share of the constant answer's loss that is far above nothing
JUMPY = 0.25  # noise as a share of the level from which a curve is unstable,
LARGE = 0.02  # when it is also this share of the loss that the fit began with
TURNING = 1 / 3  # and when so many epochs are peaks or troughs; of pure noise two thirds are
PERFECT, TINY = 0.995, 0.02  # a measure, and a share of the constant answer's loss, that come suspiciously early
EASIER = 0.4  # validation loss as a share of training loss that asks for a reason


TURNED: tuple[Kind, ...] = ("overfitting", "rising")  # validation loss ends above its best while training goes on


@dataclass(frozen=True)
class Diagnosis:
    """How a fit went. epoch: where validation loss was best, noise aside; None without validation rows."""

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
    """How one fit went.

    rows: its history, one entry an epoch and split ('train', 'val'), as Rows or as their dicts. baseline_loss: the
    constant answer's loss, without which a fit cannot be said to learn nothing. measure, goal: a measure up to 1 with
    goal 'max', such as accuracy, by which suspiciously good answers are known. hindered: dropout or augmentation makes
    training rows harder than validation rows, so that those may do better.
    """
    entries = [row if isinstance(row, dict) else vars(row) for row in rows]
    if broken := not_a_number(entries):
        return Diagnosis("unstable", best_of(entries), broken)
    train, val = curve(entries, "train"), curve(entries, "val")
    epoch = val.epochs[val.best] if val else None
    if train is None or len(train.values) < 3:
        seen = len(train.values) if train else 0
        few = f"{counted(seen, 'epoch')} {'is' if seen == 1 else 'are'} too few to tell how the fit goes"
        return Diagnosis("unclear", epoch, few)
    start = max(train.values[0], baseline_loss or 0.0)
    checks = (
        val and perfect(entries, val, baseline_loss, measure if goal == "max" else None),
        val and overfitting(train, val, start),
        jumping(train, start, "training"),
        val and not hindered and easier(train, val),
        nothing_learnt(train, baseline_loss),
        val and jumping(val, start, "validation"),
        val and rising(train, val),
        underfitting(train, val, start, baseline_loss),
    )
    kind, text = next((found for found in checks if found), None) or settled(train, val, start)
    few = f" ({len(train.values)} epochs say little)" if len(train.values) < FEW else ""
    return Diagnosis(kind, epoch, text + few)


def circumstances(
    patch: Mapping[str, Any], model: Mapping[str, Any], losses: Sequence[float], measure: str, goal: str
) -> dict[str, Any]:
    """What a diagnosis must know of a fit, as its keywords.

    patch, model: what the fit changes in the config, and the config's model. losses: the baseline's, of each fold; a
    penalty is in the loss, which cannot be held against them then.
    """
    set_to = {name: patch.get(f"model.{name}", model.get(name, 0)) for name in ("dropout", "l1", "l2")}
    bar = None if set_to["l1"] or set_to["l2"] or not losses else fmean(losses)
    return {"baseline_loss": bar, "measure": measure, "goal": goal, "hindered": bool(set_to["dropout"])}


def over_folds(
    histories: Iterable[Iterable[Any]],
    baseline_loss: float | None = None,
    measure: str | None = None,
    goal: str | None = None,
    hindered: bool = False,
) -> Diagnosis:
    """What most folds are diagnosed with, the worse of two as frequent; epoch: the median of their best epochs."""
    found = [diagnose(rows, baseline_loss, measure, goal, hindered) for rows in histories]
    if not found:
        return Diagnosis("unclear", None, "no fold has a history yet")
    counts = Counter(one.kind for one in found)
    kind = max(ORDER, key=lambda kind: (counts[kind], -ORDER.index(kind)))
    kinds = ", ".join(f"{kind} in {counts[kind]}" for kind in sorted(counts, key=lambda k: (k != kind, ORDER.index(k))))
    text = f"{kinds} of {len(found)} folds"
    best = [one.epoch for one in found if one.epoch is not None]
    if not best:
        return Diagnosis(kind, None, text)
    middle, spread = round(median(best)), f"{min(best)} to {max(best)}"
    told = f"about epoch {middle} (median; {spread} over folds)" if min(best) < max(best) else f"epoch {middle} in each"
    return Diagnosis(kind, middle, f"{text}; validation loss is best at {told}")


Found = tuple[Kind, str] | None


def jumping(curve: Curve, start: float, name: str) -> Found:
    """Noise from epoch to epoch that is large beside the level and not small beside the beginning."""
    level = median(curve.smooth[len(curve.smooth) // 3 :])
    calm = curve.noise <= max(JUMPY * abs(level), LARGE * abs(start)) or curve.turns < TURNING
    if len(curve.values) < 5 or calm:
        return None
    settled = curve.values[len(curve.values) // 3 :]
    low, high = number(min(settled)), number(max(settled))
    return "unstable", (
        f"unstable: {name} loss jumps up and down between {low} and {high} from one epoch to the next; "
        "a smaller learning rate or a larger batch calms it"
    )


def perfect(entries: list[dict[str, Any]], val: Curve, baseline: float | None, measure: str | None) -> Found:
    """Next to perfect on validation rows from the first epochs, by the measure and by the loss where both are known."""
    first = max(2, len(val.values) // 10)
    values = series(entries, "val", measure)[1][:first] if measure else []
    good = not values or median(values) >= PERFECT
    small = not baseline or median(val.values[:first]) <= TINY * baseline
    if not (good and small and (values or baseline)):
        return None
    what = f"{measure} {number(median(values))}" if values else f"loss {number(median(val.values[:first]))}"
    return "suspiciously good", (
        f"suspiciously good: validation {what} within the first {first} epochs; "
        "look for a column that gives the answer away, or for rows that stand on both sides"
    )


def easier(train: Curve, val: Curve) -> Found:
    """Far better on validation rows than on training rows."""
    if val.late >= EASIER * train.late or train.late - val.late <= NOISE * max(train.noise, val.noise):
        return None
    return "suspiciously good", (
        f"suspiciously good: validation loss {number(val.late)} is far below training loss {number(train.late)}; "
        "the validation rows are easier, or known"
    )


def nothing_learnt(train: Curve, baseline: float | None) -> Found:
    """Training loss that never gets clearly below the constant answer's."""
    if not baseline or min(train.smooth) < NOTHING * baseline:
        return None
    return "not learning", (
        f"not learning: training loss never gets clearly below {number(baseline)}, the baseline's (its lowest "
        f"is {number(min(train.smooth))}); another learning rate, scaled inputs, or inputs that say more of the target"
    )


def overfitting(train: Curve, val: Curve, start: float) -> Found:
    """Training loss goes on falling while validation loss, past its minimum, is clearly worse at the end."""
    best = val.best
    low = val.smooth[best] if val.width > 1 else min(val.smooth)
    after = len(val.values) - 1 - best
    count = max(val.few, after // 2)
    if after < 2 * val.width or not val.clearly(val.end(count) - low, low, start, count):
        return None
    if len(val.values) < FEW:
        return None  # it may be said to rise, no more
    then = train.epochs.index(val.epochs[best])
    if not train.clearly(train.smooth[then] - train.late, train.smooth[then], 0, train.few):
        return None
    end = val.shown(-1) if val.values[-1] > low else number(val.late)
    return "overfitting", (
        f"overfitting from epoch {val.epochs[best] + 1}: training loss went on from {train.shown(then)} to "
        f"{train.shown(-1)} while validation loss rose from {val.shown(best)} to {end}"
    )


def rising(train: Curve, val: Curve) -> Found:
    """A loss that ends clearly above its lowest value, in too few epochs to be sure why."""
    if train.rise:
        end = f"{number(train.values[-1])}, {percent(above(train.values[-1], min(train.values)))} above its lowest"
        return "unstable", f"unstable: training loss ends at {end}; a smaller learning rate may help"
    if not val.rise:
        return None
    low, last = min(val.values), val.values[-1]
    place = val.values.index(low)
    after = len(val.values) - 1 - place
    why = "one epoch may be chance" if after == 1 else f"{after} epochs do not tell overfitting from chance"
    return "rising", (
        f"rising: validation loss rose from {number(low)} at epoch {val.epochs[place]} to {number(last)} "
        f"({percent(above(last, low))} more) while training loss went to {train.shown(-1)}; {why}"
    )


def above(value: float, low: float) -> float:
    """How far a value is above a lower one, as a share of it."""
    return (value - low) / abs(low) if low else math.inf


def percent(share: float) -> str:
    """0.163 → '16 %'; from ten times on, how many times."""
    return f"{100 * share:.0f} %" if share < 9 else f"{share + 1:.3g} times"


def underfitting(train: Curve, val: Curve | None, start: float, baseline: float | None) -> Found:
    """Both losses still falling at the end; or both flat, alike, and far above nothing."""
    if val is None:
        return None
    if still_falling(train, start) and still_falling(val, start):
        return "underfitting", (
            f"underfitting: at the end training loss ({train.shown(-1)}) and validation loss ({val.shown(-1)}) "
            "are still falling; more epochs, or a larger model"
        )
    alike = abs(val.late - train.late) <= 2 * CLEAR * abs(train.late)
    if (
        baseline
        and alike
        and len(train.values) >= FEW
        and train.late > MUCH * baseline
        and not still_falling(train, start)
    ):
        return "underfitting", (
            f"underfitting: training loss has stopped at {train.shown(-1)}, where validation loss is too "
            f"({val.shown(-1)}), and the baseline's is {number(baseline)}; a larger model, or better inputs"
        )
    return None


def settled(train: Curve, val: Curve | None, start: float) -> tuple[Kind, str]:
    """What is left to say where nothing is wrong."""
    course = f"training loss went from {number(train.values[0])} to {train.shown(-1)}"
    if len(train.values) < FEW and val is not None:
        return "unclear", f"unclear: {course}, validation loss from {number(val.values[0])} to {val.shown(-1)}"
    if val is None:
        falling = still_falling(train, start)
        more = " and is still falling" if falling else " and has settled"
        text = f"{course}{more}; without validation rows nothing can be said of overfitting"
        return ("unclear" if falling else "converged"), text
    smoothed = " (smoothed)" if val.width > 1 else ""
    apart = above(val.values[-1], val.smooth[val.best])
    noise = f", its last value {percent(apart)} above that, within its noise" if apart > RISEN else ""
    return "converged", (
        f"converged: validation loss{smoothed} is best, {val.shown(val.best)}, at epoch {val.epochs[val.best]} "
        f"and {val.shown(-1)} at the end{noise}; {course}"
    )


def still_falling(curve: Curve, start: float) -> bool:
    """Whether the last quarter of the epochs made a clear difference, and the last one is not above all of it."""
    if curve.rise or (len(curve.values) < FEW and curve.values[-1] > curve.values[-2]):
        return False
    back = max(2, len(curve.values) // 4)
    before = curve.smooth[max(0, len(curve.smooth) - 1 - back)]
    return curve.clearly(before - curve.late, before, start, curve.few)


def not_a_number(entries: list[dict[str, Any]]) -> str:
    """What to say of a loss that is no number any more; empty when there is none."""
    for split, name in (("train", "training"), ("val", "validation")):
        for epoch, value in zip(*series(entries, split, "loss"), strict=True):
            if not math.isfinite(value):
                return f"unstable: {name} loss is {value} at epoch {epoch}; a smaller learning rate, or scaled inputs"
    return ""


def best_of(entries: list[dict[str, Any]]) -> int | None:
    """The epoch with the lowest validation loss that is a number."""
    found = [(value, epoch) for epoch, value in zip(*series(entries, "val", "loss"), strict=True)]
    return min(((value, epoch) for value, epoch in found if math.isfinite(value)), default=(0.0, None))[1]
