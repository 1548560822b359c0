"""What scripts/bench tells of all that is not training: commands, intervals, audits, preparation, memory.

    scripts/bench --light          CPU seconds of light commands and of what a run does beside training, and the memory
                                   of files that are read in turn; official data where DLRUN_DATA has them

The least of three runs (of an audit one, which keeps what it has found), each with its bar; a busy machine only adds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_other import bar, least, used

COMMANDS = {  # words: their exit code, and the most CPU seconds
    "--help": (0, 0.3),
    "complete task=": (0, 0.3),
    "ls tasks": (0, 0.3),
    # Hydra alone composes: what its messages cost in time, a second composer cost in lines.
    "modle=dense": (2, 0.7),
    "task=wine model=convnet": (2, 0.7),
}
AUDITS = {"mnist": 3.0, "imdb": 3.0, "reuters": 3.0, "imdb_text": 10.0}  # of official data
FILES = (3, 40)  # of 2 MB each
GROWN = 12.0  # MB, of the 80 that all files have
MEMORY = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from bench_peer import peak
from dlrun.config.instantiate import build_part as build
from dlrun.data.preprocessing.pipeline import prepare

def epoch(folder):
    node = {"_target_": "dlrun.data.shards.npz_dataset.shards", "source": "official", "path": folder, "inputs": None, "kinds": {}}
    node |= {"target": "y", "labels": None, "hold_out": "rows", "scale": "standardize", "window": 2}
    raw = build(node)
    return sum(len(batch["y"]) for batch in prepare(raw, np.arange(len(raw)), None).train.batches(100, seed=0))

few, many = sys.argv[2:]
epoch(few), epoch(few)
before = peak()
epoch(many)
print("MiB", peak() - before, file=sys.stderr)
"""


def tell_light() -> bool:
    """Print each figure beside its bar; whether all keep theirs."""
    return all([*commands(), *beside_training(), *audits(), memory()])


def commands() -> Iterator[bool]:
    """Fresh processes."""
    for words, (code, most) in COMMANDS.items():
        program = f"import sys; from dlrun.cli.main import main; sys.exit(main({words.split()!r}) != {code})"
        yield bar(
            f"dlrun {words}",
            least(lambda p=program: used([sys.executable, "-c", p]), 3),
            most,
            "s of CPU",
        )


def beside_training() -> Iterator[bool]:
    """An interval, the worst errors, and a linear model, of many rows."""
    from dlrun.evaluation import bootstrap

    values = np.random.default_rng(0).gamma(2.0, 1.0, 10_000)
    yield bar(
        "an interval of 10,000 rows",
        cpu(lambda: bootstrap.compute_mean_interval(values, seed=0)),
        1.0,
        "s of CPU",
    )
    with tempfile.TemporaryDirectory() as place:
        yield bar("the worst of 10,000 images", cpu(worst(Path(place))), 0.5, "s of CPU")
    yield bar("a linear model of 20,000 texts of 10,000 words", cpu(linear()), 10.0, "s of CPU")


def cpu(act: Callable[[], Any], runs: int = 3) -> float:
    """CPU seconds of a call in this process."""

    def once() -> float:
        start = time.process_time()
        act()
        return time.process_time() - start

    return least(once, runs)


def worst(place: Path) -> Callable[[], Any]:
    from dlrun.core.dataset import Dataset
    from dlrun.core.types import Field
    from dlrun.evaluation import worst_errors

    random, rows = np.random.RandomState(0), 10_000
    columns = {
        "image": random.randint(0, 256, (rows, 1, 28, 28)).astype(np.uint8),
        "digit": random.randint(0, 10, rows),
    }
    raw = Dataset(columns, {"image": "image"}, {"digit": "category"}, {})
    answers = {"digit": (random.dirichlet(np.ones(10), rows).astype(np.float32), columns["digit"])}
    fields = {"digit": Field("category")}
    return lambda: worst_errors.write_largest_errors(
        place, "fit", "val", raw, raw.dev, np.arange(rows), answers, fields
    )


def linear() -> Callable[[], Any]:
    import torch
    from bench_peer_own import bench

    from dlrun.config.instantiate import build_part
    from dlrun.core.types import Field, Spec
    from dlrun.data.loading.table import DenseColumn, SparseCounts, Table

    random, rows, each, width = np.random.default_rng(0), 20_000, 20, 10_000
    words = np.sort(
        random.integers(0, width // each, (rows, each)) + np.arange(each) * (width // each), 1
    )
    starts = torch.arange(0, rows * each + 1, each, dtype=torch.int32)
    bag = SparseCounts(
        starts, torch.tensor(words.reshape(-1), dtype=torch.int32), torch.ones(rows * each), width
    )
    y = torch.tensor((words[:, :5] % 2).mean(1) > 0.5).float()[:, None]
    spec = Spec(
        {"bag": Field("bag", (width,), width)}, {"y": Field("binary", (1,), 2, ("no", "yes"))}
    )
    table = Table({"bag": bag, "y": DenseColumn(y)})
    return lambda: build_part(bench().node("model", "linear_solved"), spec).solve(table)


def audits() -> Iterator[bool]:
    """Of the book's data sets, where the official files are."""
    from dlrun.config.compose import configure
    from dlrun.config.instantiate import build_part
    from dlrun.core.files import data_root
    from dlrun.data.audit.run import audit

    for task, most in AUDITS.items():
        if not (data_root() / task.partition("_")[0]).is_dir():
            print(f"audit of task={task}: its official files are not there")
            continue
        raw = build_part(configure([f"task={task}"], [])["data"])
        rows = np.arange(len(raw))
        parts = rows[: len(raw) * 4 // 5], rows[len(raw) * 4 // 5 :]
        yield bar(
            f"audit of task={task}",
            cpu(lambda raw=raw, parts=parts: audit(raw, *parts, 0), 1),
            most,
            "s of CPU",
        )


def memory() -> bool:
    """How much more files that are read in turn take, where there are more of them."""
    random = np.random.RandomState(0)
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, str(count)) for count in FILES]
        for folder, count in zip(folders, FILES, strict=True):
            folder.mkdir()
            whole = {
                "x": random.normal(size=(500, 1000)).astype(np.float32),
                "y": np.arange(500) % 2,
            }
            for number in range(count):
                np.savez(folder / f"{number:03}.npz", **whole)
        words = [sys.executable, "-c", MEMORY, str(Path(__file__).parent), *map(str, folders)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    return bar("40 files after 3", float(done.stderr.split()[-1]), GROWN, "MiB")
