"""Small objects for the tests of the engine: a table, a model, a trainer."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dlrun.config.instantiate import build_part
from dlrun.config.parts import get_builtin_conf
from dlrun.core.dataset import PreparedData
from dlrun.core.environment import ONE_PROCESS, ProcessGroup
from dlrun.core.types import Field, Spec
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.evaluation import metrics
from dlrun.objectives.supervised import Supervised
from dlrun.training.optimization import Optimization
from dlrun.training.trainer import Trainer

BAG: dict[str, Any] = {
    "length": None,
    "pad": "front",
    "cut": "front",
    "bucket": False,
}  # words without their order
SPEC = Spec({"x": Field("number", (5,))}, {"y": Field("category", (), 3, ("a", "b", "c"))})


def merge_values(old: Any, new: Any) -> Any:
    """Mappings are merged key by key; any other value replaces the old one."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    return {**old, **{key: merge_values(old.get(key), value) for key, value in new.items()}}


def node(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """A shipped part's YAML with some values changed."""
    own = yaml.safe_load((get_builtin_conf() / group / f"{name}.yaml").read_text())
    found: dict[str, Any] = {}
    for parent in own.pop("defaults", []):
        if isinstance(parent, dict):  # /encoder@readers.text: lstm
            ((place, option),) = parent.items()
            inner, _, key = place.removeprefix("override ").strip("/").partition("@")
            *outer, last = key.split(".")
            reduce(lambda part, step: part.setdefault(step, {}), outer, found)[last] = node(
                inner, option
            )
        elif parent != "_self_":
            found = merge_values(found, node(group, parent))
    known = {**merge_values(found, own), **changes}
    return {
        key: node("text", "multi_hot") if value == "${text}" else value
        for key, value in known.items()
    }


def table(rows: int = 50, seed: int = 1) -> Table:
    """A table that a model can learn something from."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator)
    return Table(
        {
            "x": DenseColumn(x),
            "y": DenseColumn((x @ torch.arange(15.0).reshape(5, 3).sin()).argmax(1)),
        }
    )


def trainer(folder: Path, processes: ProcessGroup = ONE_PROCESS, **settings: Any) -> Trainer:
    """A trainer of a small network with dropout; settings beginning with optimizer_ go to RMSprop."""
    optimizer = {
        key[10:]: settings.pop(key) for key in list(settings) if key.startswith("optimizer_")
    }
    name = settings.pop("optimizer", "rmsprop")
    schedule = settings.pop("schedule", None)
    dropout = settings.pop("dropout", 0.3)
    engine = build_part(
        node("engine", "default", **{"epochs": 3, "batch_size": 8, "device": "cpu", **settings})
    )
    torch.manual_seed(0)
    model = build_part(node("model", "dense", units=[16], dropout=dropout), SPEC)
    return wired(model, engine, folder, node("optimizer", name, **optimizer), schedule, processes)


def wired(
    model: nn.Module,
    engine: Any,
    folder: Path,
    optimizer: dict[str, Any],
    schedule: Any = None,
    processes: ProcessGroup = ONE_PROCESS,
) -> Trainer:
    """A trainer around any model of SPEC."""
    objective = Supervised(model, {"y": build_part(node("loss", "auto"), SPEC.targets["y"])})
    learner = Optimization(
        objective.groups,
        lambda ps: build_part(optimizer, ps),
        engine,
        schedule,
        torch.device("cpu"),
        processes=processes,
    )
    measures = {
        name: ("y", metric)
        for name, metric in metrics.get_default_metrics(SPEC.targets["y"]).items()
    }
    return Trainer(
        objective, PreparedData(SPEC, table(), table(20, 2)), engine, learner, measures, folder
    )


def weights(of: Trainer) -> list[torch.Tensor]:
    """Copies of all weights."""
    return [value.detach().clone() for value in of.objective.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Equal bit for bit."""
    return len(first) == len(second) and all(
        torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )
