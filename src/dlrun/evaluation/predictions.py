"""Reads what the fits of a stage answered, row by row, and says how sure a score or a difference is. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import of_target, usual_metrics
from dlrun.core import stored_files
from dlrun.core.errors import Refused, in_short

if TYPE_CHECKING:
    import numpy as np

    from dlrun.evaluation.bootstrap import Interval
    from dlrun.evaluation.split_metrics import Whole


SEED = 0  # of the resamples: the same question has the same answer
OURS = "dlrun.evaluation.metrics."
# As metrics.defaults takes the measures that nobody asked for:
USUAL: dict[str, dict[str, Any]] = {"accuracy": {"_target_": OURS + "accuracy", "threshold": 0.5}}


@dataclass(frozen=True)
class Pooled:
    """What several fits answered on one split, laid one after the other; a row may come several times.

    answers: target → (n, outputs), probabilities or numbers. targets: target → (n, …). rows (n,): which development, or
    test, row each is. values: measure → its value for each row (n,), before the mean. lengths: job → how many rows.
    """

    folder: Path
    split: str
    lengths: dict[str, int]
    answers: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    rows: np.ndarray
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Definition:
    """How a measure is taken: from which target, of which kind, by which function with which arguments."""

    target: str
    kind: str
    function: str
    arguments: dict[str, Any]

    @property
    def finish(self) -> Any:
        """What is done to the mean of its rows."""
        from dlrun.evaluation.split_metrics import FINISHES

        return FINISHES.get(self.function.removeprefix(OURS), float)


def pooled(folder: Path, jobs: Sequence[str], split: str) -> Pooled:
    """The predictions of these jobs. Raises Refused for files that are not there or do not say which row is which."""
    import numpy as np

    parts = [_arrays(folder / "predictions" / f"{job}-{split}.npz", folder) for job in jobs]
    if not parts:
        raise Refused(f"{folder} has no fit that was scored on {split} rows")
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in shared}
    named = {head: {name.partition("/")[2]: found[name] for name in shared if name.startswith(f"{head}/")} for head in
             ("output", "target", "value")}  # fmt: skip
    lengths = {job: len(part["row"]) for job, part in zip(jobs, parts, strict=True)}
    return Pooled(folder, split, lengths, named["output"], named["target"], found["row"], named["value"])


def of_stage(folder: Path, stage: str, split: str) -> Pooled:
    """The predictions of all folds and repeats of a stage that have a result."""
    lines = [line for line in stored_files.lines(folder / "results.jsonl") if line["split"] == split]
    jobs = dict.fromkeys(line["name"] for line in lines if line["job"]["stage"] == stage)
    return pooled(folder, list(jobs), split)


def interval(of: Pooled, measure: str) -> Interval:
    """A measure over all the rows with its 95 % interval; a row that comes several times is drawn as one.

    Of several folds it is the measure of all rows together: for measures of a whole split, such as an area under a
    curve, near the mean over folds, not equal to it. Raises Refused for what was not measured.
    """
    from dlrun.evaluation import bootstrap

    definition = _checked(of, measure)
    if measure in of.values:
        return bootstrap.mean(of.values[measure], of.rows, finish=definition.finish, seed=SEED)
    whole, answers, targets = _whole(of, definition, measure)
    how = {"telling": whole.rarer(targets), "seed": SEED, "work": whole.work(answers)}
    return bootstrap.statistic(whole.of(answers, targets), of.rows, **how)


def difference(first: Pooled, second: Pooled, measure: str) -> Interval:
    """Second minus first with its 95 % interval, by the same resamples of the same rows.

    Of repeated fits the mean for each row is compared. Raises Refused, saying why, where the two cannot be paired.
    """
    import numpy as np

    from dlrun.evaluation import bootstrap

    definition = _checked(first, measure)
    if (other := _checked(second, measure)) != definition:
        raise Refused(f"{measure} is not measured in the same way: {_told(definition)}, and {_told(other)}")
    _check_rows(first, second, definition.target)
    if measure in first.values and measure in second.values:
        ids = np.unique(first.rows)
        before, after = (_mean_of_each(of.rows, of.values[measure]) for of in (first, second))
        return bootstrap.paired(before, after, ids, finish=definition.finish, seed=SEED)
    return _difference_of_wholes(first, second, definition, measure)


def _difference_of_wholes(first: Pooled, second: Pooled, definition: Definition, measure: str) -> Interval:
    import numpy as np

    from dlrun.evaluation import bootstrap

    orders = [np.argsort(of.rows, kind="stable") for of in (first, second)]
    rows = first.rows[orders[0]]
    if not np.array_equal(rows, second.rows[orders[1]]):
        raise Refused(f"{measure} is one number for all rows, and they do not come equally often: repeat both alike")
    statistics, said = [], []
    for of, order in zip((first, second), orders, strict=True):
        whole, answers, targets = _whole(of, definition, measure)
        statistics.append(whole.of(answers[order], targets[order]))
        said.append(whole.decided(answers[order]).reshape(len(rows), -1))
    apart = len(np.unique(rows[(said[0] != said[1]).any(1)]))
    telling = min(apart, max(1, whole.rarer(targets)))
    work = 2 * whole.work(first.answers[definition.target])
    return bootstrap.paired(statistics[0], statistics[1], rows, telling=telling, seed=SEED, work=work)


def _whole(of: Pooled, definition: Definition, measure: str) -> tuple[Whole, np.ndarray, np.ndarray]:
    from dlrun.evaluation.split_metrics import NAMES, Whole

    if not definition.function.startswith(OURS):
        raise Refused(f"{measure} is {definition.function}, which is not one of dlrun's own: it cannot be taken again")
    name = definition.function.removeprefix(OURS)
    if name not in NAMES:
        raise Refused(f"{of.folder}: the predictions on {of.split} rows hold no value/{measure}; {_again(of.folder)}")
    whole = Whole(name, definition.kind, definition.arguments.get("average", ""))
    return whole, of.answers[definition.target], of.targets[definition.target]


def _checked(of: Pooled, measure: str) -> Definition:
    """How a measure is taken, once its predictions have been found to be those of the recorded scores."""
    definition = _definition(of.folder, measure)
    lines = {
        line["name"]: line for line in stored_files.lines(of.folder / "results.jsonl") if line["split"] == of.split
    }
    end = 0
    for job, length in of.lengths.items():
        start, end = end, end + length
        recorded = lines.get(job, {}).get("scores", {}).get(measure, {}).get("value")
        found = _value(of, definition, measure, slice(start, end))
        if recorded is not None and math.isfinite(recorded) and not math.isclose(found, recorded, rel_tol=1e-4):
            raise Refused(
                f"{of.folder}: the predictions of {job} on {of.split} rows give {measure} {found:.6g}, its result is "
                f"{recorded:.6g}: they are from other weights; {_again(of.folder)}"
            )
    return definition


def _value(of: Pooled, definition: Definition, measure: str, part: slice) -> float:
    if measure in of.values:
        return float(definition.finish(float(of.values[measure][part].mean())))
    whole, answers, targets = _whole(of, definition, measure)
    return whole(answers[part], targets[part])


def same_rows(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two data.json are of the same development rows and targets, whichever inputs are read from them.

    Runs of before 0.1.1 say it of their inputs as well, and are told by that.
    """
    marks = [each.get("development") for each in (first, second)]
    return marks[0] == marks[1] if all(marks) else first["fingerprint"] == second["fingerprint"]


def _check_rows(first: Pooled, second: Pooled, target: str) -> None:
    """Refuse two that were not scored on the same rows of the same data with the same truth."""
    import numpy as np

    data = [stored_files.value(of.folder / "data.json") for of in (first, second)]
    if not same_rows(*data) or first.split != second.split:
        raise Refused("they were not scored on the same data (the fingerprints in data.json differ)")
    (ids, at), (others, there) = (np.unique(of.rows, return_index=True) for of in (first, second))
    if not np.array_equal(ids, others):
        shared = len(np.intersect1d(ids, others))
        raise Refused(
            f"they were scored on different rows of the same data: {len(ids):,} and {len(others):,}, {shared:,} "
            "of them shared; the same protocol, seed and sizes give the same rows"
        )
    truths = first.targets[target][at], second.targets[target][there]
    if truths[0].shape != truths[1].shape or not np.allclose(*truths, rtol=1e-5, equal_nan=True):
        raise Refused(f"the truth of '{target}' is not the same on the same rows: it was prepared in different ways")


def _mean_of_each(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the values of each row, in the order of their ids."""
    import numpy as np

    _, owner, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return np.bincount(owner.ravel(), values) / counts


def _definition(folder: Path, measure: str) -> Definition:
    config = stored_files.config(folder)
    fields, found = stored_files.value(folder / "fields.json")["targets"], {}
    for target, about in fields.items():
        names = usual_metrics(about["kind"], bool(about.get("outlook") and about.get("scale")))
        usual = {name: USUAL.get(name, {"_target_": OURS + name}) for name in names}
        prefix = f"{target}_" if len(fields) > 1 else ""
        nodes = of_target(config, "metric", target)
        for name, node in (nodes or usual).items():
            arguments = {key: value for key, value in node.items() if key != "_target_"}
            found[prefix + name] = Definition(target, about["kind"], node["_target_"], arguments)
    if measure not in found:
        there = f"it has {in_short(found)}" if found else "it answers no target, so there are no rows to compare"
        raise Refused(f"{folder} has no measure '{measure}' for each row; {there}")
    return found[measure]


def _arrays(file: Path, folder: Path) -> dict[str, np.ndarray]:
    found = stored_files.arrays(file)
    if "row" not in found:
        raise Refused(f"{file} does not say which row is which: an older dlrun wrote it; {_again(folder)}")
    return found


def _again(folder: Path) -> str:
    return f"dlrun evaluate {folder} writes its predictions again"


def _told(definition: Definition) -> str:
    arguments = ", ".join(f"{key}={value}" for key, value in definition.arguments.items())
    return f"{definition.function}({arguments}) of '{definition.target}'"
