"""dlrun, scripts/bench's hand-written loop, and the same loop over a DataLoader, as peers of scripts/bench --peers.

The loop and dlrun are the very functions that scripts/bench times. dlrun is given its own columns of the same values:
pixels as bytes, words as a sparse bag, windows as views of a series; what that saves is what its data path is for. The
loops have the float tensors that the others have. variant: loop, loader, dlrun, or dlrun with settings of the engine
after a comma, as in dlrun,precision=bf16. Every run of dlrun keeps the memory of large arrays, so this one does too.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import torch
from bench_peer import EPS, LR, RHO, Fit, Given
from torch.utils.data import DataLoader, TensorDataset

from dlrun.core import device
from dlrun.data.loading.table import DenseColumn, Table


def bench() -> Any:
    """scripts/bench as a module."""
    if "bench" not in sys.modules:
        loader = SourceFileLoader("bench", str(Path(__file__).with_name("bench")))
        spec = importlib.util.spec_from_loader("bench", loader)
        assert spec is not None
        sys.modules["bench"] = module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    return sys.modules["bench"]


def read(given: Given) -> Any:
    """The columns as dlrun keeps them."""
    bench()
    return torch.load(given.folder / "columns.pt", weights_only=False)


def peer(given: Given, columns: Any, variant: str) -> tuple[Fit, int]:
    """What trains, and how many parameters the network has."""
    work, table = bench().WORKLOADS[given.workload][0](), Table(columns)
    size = sum(parameter.numel() for parameter in given.network().parameters())
    name, *settings = variant.split(",")
    if name == "dlrun":
        device.keep_freed_memory()
        return dlrun(given, work, table, dict(word.split("=") for word in settings)), size
    few = {
        key: DenseColumn(value.to_dense())
        for key, value in next(table.batches(given.batch_size)).items()
    }
    loop = bench().by_hand if name == "loop" else over_loader
    return fit_of(loop(work, table, given.folder), loop(work, Table(few), given.folder)), size


def fit_of(whole: Iterator[int], first: Iterator[int]) -> Fit:
    """A fit over two generators of epochs: over all rows, and over those of the first batch."""

    def fit(epochs: int, rows: int | None) -> None:
        for _ in range(epochs):
            next(whole if rows is None else first)

    return fit


def dlrun(given: Given, work: Any, table: Table, settings: dict[str, str]) -> Fit:
    """dlrun's engine with its default settings, and these."""
    folder, shipped = Path(tempfile.mkdtemp(prefix="dlrun-bench-", dir=given.folder)), bench().node

    def epochs(**more: Any) -> Iterator[int]:
        def node(group: str, name: str, **changes: Any) -> dict[str, Any]:
            return shipped(group, name, **changes, **(settings | more if group == "engine" else {}))

        bench().node = node
        yield from bench().ours(work, table, folder)

    return fit_of(
        epochs(), epochs(epoch_batches=3 if "compile" in settings else 1)
    )  # the third is compiled


def over_loader(work: Any, table: Table, folder: Path) -> Iterator[int]:
    """The hand-written loop with torch's usual feeding: rows are collated one by one."""
    del folder
    whole = next(table.batches(len(table)))
    x, y = whole["x"].to_dense(), whole["y"]
    loader = DataLoader(TensorDataset(x, y), batch_size=work.batch_size, shuffle=True)
    field, model = work.spec.targets["y"], work.by_hand()
    loss_function = bench().build_part(bench().node("loss", "auto"), field)
    measure = next(iter(bench().metrics.get_default_metrics(field).values())).per_row
    optimizer = torch.optim.RMSprop(model.parameters(), lr=LR, alpha=RHO, eps=EPS)
    while True:
        total, right = torch.zeros(()), torch.zeros(())
        for inputs, target in loader:
            optimizer.zero_grad()
            raw = model(inputs)
            loss = loss_function(raw, target)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(target)
            right += measure(raw.detach(), target).sum()
        float(total), float(right)
        yield len(y)
