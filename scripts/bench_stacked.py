"""Several fits as one against the plain loop, a step of one of them at a time: folds, members of a sweep, seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from dlrun.config.instantiate import build_part
from dlrun.core.dataset import PreparedData
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.evaluation import metrics
from dlrun.experiment.parallel_fits.stack import FitStack
from dlrun.objectives.supervised import Supervised
from dlrun.training.optimization import Optimization
from dlrun.training.trainer import Trainer

Node = Callable[..., dict[str, Any]]
CPU = torch.device("cpu")
RATES = tuple(1e-4 * 10 ** (number / 8) for number in range(16))


def fold(table: Table, number: int, folds: int) -> Table:
    """The training rows of one fold: all but each `folds`-th."""
    rows = torch.arange(len(table)) % folds != number
    columns: dict[str, Any] = table.columns
    return Table({name: DenseColumn(column.values[rows]) for name, column in columns.items()})


def member(work: Any, table: Table, node: Node, folder: Path, number: int, rate: float) -> Trainer:
    """One fit, as dlrun makes it."""
    torch.manual_seed(number)
    objective = Supervised(
        build_part(node("model", work.model, **work.settings), work.spec),
        {"y": build_part(node("loss", "auto"), work.spec.targets["y"])},
    )
    settings = build_part(node("engine", "default", batch_size=work.batch_size, epochs=10**9))
    optimizer = node("optimizer", "rmsprop", lr=rate)
    learner = Optimization(
        objective.groups, lambda parameters: build_part(optimizer, parameters), settings, None, CPU
    )
    measures = {
        name: ("y", metric)
        for name, metric in metrics.get_default_metrics(work.spec.targets["y"]).items()
    }
    trainer = Trainer(
        objective, PreparedData(work.spec, table), settings, learner, measures, folder
    )
    trainer.seed = number
    return trainer


def stacked(
    work: Any, tables: list[Table], rates: list[float], node: Node, folder: Path
) -> Iterator[int]:
    """All fits as one; yields their rows of each epoch after it is done."""
    made = [
        member(work, table, node, folder, n, rate)
        for n, (table, rate) in enumerate(zip(tables, rates, strict=True))
    ]
    stack = FitStack(made, ["y"])
    while True:
        assert not any(stack.run_epoch())
        for trainer in made:
            trainer.history.clear()
        yield sum(map(len, tables))


def one_by_one(
    work: Any, tables: list[Table], rates: list[float], node: Node, folder: Path
) -> Iterator[int]:
    """The same fits one after the other; yields the rows of an epoch of one of them."""
    made = [
        member(work, table, node, folder, n, rate)
        for n, (table, rate) in enumerate(zip(tables, rates, strict=True))
    ]
    while True:
        for trainer in made:
            trainer.run_split("train", trainer.data.train, train=True)
            trainer.epoch += 1
            trainer.history.clear()
            yield len(trainer.data.train)


def tables_of(name: str, table: Table) -> tuple[list[Table], list[float]]:
    """The training rows, and the learning rate, of each fit."""
    if name == "boston_4_folds":
        return [fold(table, number, 4) for number in range(4)], [1e-3] * 4
    if name == "boston_16_members":
        return [table] * 16, list(RATES)
    return [table] * 5, [1e-3] * 5


STACKED: dict[
    str, tuple[str, float]
] = {  # name → the workload of one of them, least ratio for a release
    "boston_4_folds": ("boston_batch_1", 6.0),
    "boston_16_members": ("boston_batch_1", 14.0),
    "imdb_5_seeds": ("imdb_dense", 6.0),
}


def begun(
    name: str, workloads: dict[str, Any], node: Node, folder: Path
) -> tuple[Any, Table, list[Iterator[int]]]:
    """A workload of one of the fits, all its rows, and the fits as one and one after the other."""
    work = workloads[STACKED[name][0]][0]()
    table = Table(work.columns())
    tables, rates = tables_of(name, table)
    return work, table, [way(work, tables, rates, node, folder) for way in (stacked, one_by_one)]
