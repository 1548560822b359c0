"""What several processes do together in tests/training/test_distributed.py, and one by itself: fits, and what comes of them."""

from __future__ import annotations

import math
import os
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from beside import HERE, Beside
from laboratory import SPEC, node, table, trainer, weights, wired
from torch import nn

from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.dataset import PreparedData
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.errors import TrainingDiverged, TrainingInterrupted
from dlrun.core.types import Field, Spec
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.objectives.gan import GANObjective
from dlrun.objectives.gan_losses import GANLoss
from dlrun.objectives.supervised import Supervised
from dlrun.training.callbacks import BestCheckpoint
from dlrun.training.distributed import data_parallel, fsdp, process_group
from dlrun.training.meter import scores_with_intervals
from dlrun.training.optimization import Optimization
from dlrun.training.trainer import Trainer

SGD = {"optimizer": "sgd", "dropout": 0.0}
BINARY = Spec({"x": Field("number", (5,))}, {"y": Field("binary", (1,), 2, ("no", "yes"))})
PICTURES = Spec({"image": Field("image", (1, 8, 8))})
CODE = "from crew import main; main()"


def learnt(of: Trainer) -> dict[str, Any]:
    """What a fit has come to."""
    of.fit()
    return {
        "weights": weights(of),
        "history": [[row.epoch, row.split, row.values] for row in of.history],
    }


def classifier(folder: Path, processes: ProcessGroup, **settings: Any) -> dict[str, Any]:
    """50 rows in batches of 8: the last batch has 2, and no two processes of three have as many rows as each other."""
    return learnt(trainer(folder / "classifier", processes, **{**SGD, **settings}))


def windows(folder: Path, processes: ProcessGroup) -> dict[str, Any]:
    """Accumulated and clipped; the last window has one batch of 2 rows."""
    return learnt(
        trainer(
            folder / "windows", processes, **SGD, batch_size=6, accumulate=4, clip_norm=0.2, ema=0.5
        )
    )


def tiny(folder: Path, processes: ProcessGroup) -> dict[str, Any]:
    """Batches of one row: most processes have none of their own."""
    return learnt(
        trainer(folder / "tiny", processes, **SGD, batch_size=1, max_steps=60, eval_batch_size=1)
    )


def ranked(folder: Path, processes: ProcessGroup) -> dict[str, Any]:
    """A whole-split measure, and the answers of every row in their order, over 23 rows in batches of 7."""
    x = torch.randn(73, 5, generator=torch.Generator().manual_seed(3))
    y = (x[:, :1] + 0.5 * x[:, 1:2] > 0).float()
    cut = lambda low, high: Table({"x": DenseColumn(x[low:high]), "y": DenseColumn(y[low:high])})  # noqa: E731
    engine = build_part(
        node("engine", "default", epochs=2, batch_size=8, eval_batch_size=7, device="cpu")
    )
    torch.manual_seed(0)
    model = build_part(node("model", "dense", units=[8], dropout=0.0), BINARY)
    objective = Supervised(model, {"y": build_part(node("loss", "auto"), BINARY.targets["y"])})
    learner = Optimization(
        objective.groups,
        lambda ps: build_part(node("optimizer", "sgd"), ps),
        engine,
        None,
        torch.device("cpu"),
        processes=processes,
    )
    measures = {
        name: ("y", build_part(node("metric", name)[name], BINARY.targets["y"]))
        for name in ("accuracy", "roc_auc")
    }
    of = Trainer(
        objective,
        PreparedData(BINARY, cut(0, 50), cut(50, 73)),
        engine,
        learner,
        measures,
        folder / "ranked",
    )
    found = learnt(of)
    meter = of.run_epoch("val", cut(50, 73), keep=True)
    scores = {
        name: [s.value, s.low, s.high, s.n]
        for name, s in scores_with_intervals(meter, seed=1).items()
    }
    answers, truths = meter.predictions()["y"]
    return found | {"scores": scores, "answers": [answers, truths, meter.values()["accuracy"]]}


def contest(folder: Path, processes: ProcessGroup) -> dict[str, Any]:
    """Two networks against each other, with label noise, a penalty, and latent points drawn for the whole batch."""
    pictures = torch.rand(37, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    source = Table({"image": DenseColumn(pictures)})
    small = {
        "latent": 4,
        "generator": [8],
        "discriminator": [8],
        "batch_norm": False,
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    model = build_part(node("model", "dcgan", **small), PICTURES)
    objective = GANObjective(model, GANLoss("standard", 0.1, 1.0, 2), source, processes=processes)
    engine = build_part(node("engine", "default", epochs=2, batch_size=8, device="cpu"))
    learner = Optimization(
        objective.groups,
        lambda ps: build_part(node("optimizer", "sgd"), ps),
        engine,
        None,
        torch.device("cpu"),
        processes=processes,
    )
    return learnt(
        Trainer(objective, PreparedData(PICTURES, source), engine, learner, {}, folder / "contest")
    )


class Broken(nn.Module):
    """Answers nan for one row, once so many batches have been seen."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.layer, self.good = nn.Linear(5, 3), good

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.good -= 1
        wrong = (batch["x"][:, :1] == table().columns["x"].values[7, 0]) & (self.good < 0)
        return {"y": self.layer(batch["x"]) * torch.where(wrong, math.nan, 1.0)}


def diverged(folder: Path, processes: ProcessGroup) -> dict[str, Any]:
    """A row that one process holds makes the loss nan: all stop, and say the same."""
    of = trainer(folder / "diverged", processes)
    of = wired(
        Broken(9),
        of.settings,
        folder / "diverged",
        {"_target_": "torch.optim.SGD", "lr": 0.0},
        processes=processes,
    )
    try:
        of.fit()
    except TrainingDiverged as error:
        return {"told": processes.all_gather_object(str(error))}
    return {"told": []}


def cut(folder: Path, processes: ProcessGroup, dropout: float = 0.3) -> dict[str, Any]:
    """One process is asked to stop in the middle of an epoch: all stop after the same batch, and go on."""
    settings = {**SGD, "dropout": dropout, "save_every": 0.0}
    whole = learnt(trainer(folder / f"whole-{dropout}", processes, **settings, schedule=None))
    place = folder / f"cut-{dropout}"
    first = trainer(place, processes, **settings)
    first.callbacks = [BestCheckpoint("val/loss")]
    take, taken = first.runner.steps, []

    def counted(batch: Any) -> Any:
        taken.append(1)
        if len(taken) == 12 and processes.rank == processes.world_size - 1:
            first.interrupted = 15
        return take(batch)

    first.runner.steps = counted  # type: ignore[method-assign]
    try:
        first.fit()
        raise AssertionError("nobody stopped")
    except TrainingInterrupted as stop:
        where = processes.all_gather_object([stop.number, first.epoch, first.position, first.split])
    again = trainer(place, processes, **settings)
    again.restore(
        processes.on_main_process(lambda: checkpoint.load_latest_or_none(place / "last.pt"))
    )  # type: ignore[arg-type]
    return {"where": where, "whole": whole, "again": learnt(again)}


def normed(folder: Path, processes: ProcessGroup) -> dict[str, Any]:
    """Batch norm: running statistics are the same in all processes after an epoch."""
    of = trainer(folder / "normed", processes, **SGD)
    model = build_part(
        node("model", "dense", units=[8], dropout=0.0, batch_norm=True), of.data.spec
    )
    settings = replace(of.settings, batch_size=10)
    of = wired(model, settings, folder / "normed", node("optimizer", "sgd"), processes=processes)
    data_parallel.check_data_parallel(of.objective, of.data.train, settings, processes)
    of.fit()
    return {
        "running": processes.all_gather_object(
            [value.clone() for value in data_parallel.batch_norm_statistics(of.objective).values()]
        )
    }


def split(
    folder: Path, processes: ProcessGroup, optimizer: str = "sgd", **settings: Any
) -> dict[str, Any]:
    """Each process keeps a part of the weights; saved in the middle of an epoch, and gone on with."""
    engine = {
        "epochs": 3,
        "batch_size": 8,
        "device": "cpu",
        "accumulate": 2,
        "clip_norm": 0.5,
        "ema": 0.9,
    }
    engine = build_part(node("engine", "default", **{**engine, "shard": True, **settings}))
    place = folder / f"split-{optimizer}"

    def made() -> Trainer:
        torch.manual_seed(0)
        model = build_part(node("model", "dense", units=[16, 9], dropout=0.0), SPEC)
        if processes.world_size > 1:
            fsdp.shard_model(model, engine, torch.device("cpu"), processes)
        return wired(model, engine, place, node("optimizer", optimizer), processes=processes)

    whole = made()
    whole.fit()
    first = made()
    take, taken = first.runner.steps, []

    def counted(batch: Any) -> Any:
        taken.append(1)
        first.interrupted = 15 if len(taken) == 10 else first.interrupted
        return take(batch)

    first.runner.steps = counted  # type: ignore[method-assign]
    with suppress(TrainingInterrupted):
        first.fit()
    saved = processes.on_main_process(lambda: checkpoint.load(place / "last.pt"))
    again = made()
    again.restore(saved)
    again.fit()
    rows = [[[row.epoch, row.split, row.values] for row in of.history] for of in (whole, again)]
    states = [fsdp.unshard(of.objective.state_dict()) for of in (whole, again)]
    weights = [[value.clone() for value in state.values()] for state in states]
    held = sum(
        p.to_local().numel() if hasattr(p, "to_local") else p.numel()
        for p in whole.objective.parameters()
    )
    again.restore(saved)  # other weights than those that were validated last
    again.meter, again.position = None, 0
    scored = [score.value for score in again.run_epoch("val", again.data.val).scores().values()]
    return {
        "rows": rows,
        "weights": weights,
        "held": processes.all_gather_object(held),
        "saved": saved,
        "scored": scored,
    }


def restored(state: dict[str, Any]) -> int:
    """In which batch a process by itself goes on with such a state."""
    engine = build_part(
        node("engine", "default", epochs=1, batch_size=8, device="cpu", accumulate=2, ema=0.9)
    )
    optimizer = "adam" if "exp_avg" in str(state["learner"]["optimizers"]) else "sgd"
    of = wired(
        build_part(node("model", "dense", units=[16, 9], dropout=0.0), SPEC),
        engine,
        Path(),
        node("optimizer", optimizer),
    )
    of.restore(state)
    return of.position


def masks(folder: Path, processes: ProcessGroup) -> dict[str, Any]:
    """Dropout differs from process to process; what is drawn for the whole batch does not."""
    processes.seed(5, torch.device("cpu"))
    if processes.world_size > 1:
        processes.begin_batch(2 * processes.world_size, 2)  # type: ignore[attr-defined]
    own, common = torch.rand(3), processes.draw_for_batch(lambda count: torch.rand(count, 2), 2)
    if processes.world_size > 1:
        processes.end_batch()  # type: ignore[attr-defined]
    return {
        "own": processes.all_gather_object(own),
        "common": torch.cat(processes.all_gather_object(common)),
    }


CASES = (classifier, windows, tiny, ranked, contest, diverged, cut, normed, masks, split)


def found(folder: Path, processes: ProcessGroup = ONE_PROCESS) -> dict[str, Any]:
    """What all cases come to in this process, or in this one and the others."""
    return {case.__name__: case(folder, processes) for case in CASES} | {
        "plain": cut(folder, processes, 0.0),
        "adam": split(folder, processes, "adam", epochs=1),
    }


def main() -> None:
    """What each process does: the first one writes down what has come of it."""
    folder = Path(sys.argv[1])
    processes = process_group.join_group("cpu")
    result = found(folder, processes)
    if processes.rank == 0:
        torch.save(result, folder / "found.pt")
    process_group.exit_process(0)


def run(folder: Path, count: int) -> dict[str, Any]:
    """What so many processes find."""
    folder.mkdir()
    here = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "DLRUN_STORE": folder / "store"}
    paths = os.pathsep.join([str(Path(__file__).parent), HERE["PYTHONPATH"]])
    common = HERE | {name: str(value) for name, value in here.items()} | {"PYTHONPATH": paths}
    with ExitStack() as crew:
        about = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        for process in [
            crew.enter_context(Beside([sys.executable, "-c", CODE, folder], env=env))
            for env in about
        ]:
            code, said = process.end()
            assert code == 0, said[-4000:]
    return torch.load(folder / "found.pt", weights_only=False)
