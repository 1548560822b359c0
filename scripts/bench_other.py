"""What scripts/bench tells besides training throughput: start-up, memory, time a row with ever more rows, evaluation.

    scripts/bench --start          CPU seconds of `dlrun --help` and up to a first training step, and peak memory
    scripts/bench --rows           dense net on a table of 10^3 … 10^6 rows: dlrun against the hand-written loop, and
                                   dlrun's evaluation against a forward pass of the loop's network, in the loop's
                                   batches and in those that dlrun takes where nothing is learned

Start-up is that of fresh processes, as the `dlrun` command starts them: CPU seconds of all their threads up to the end
of the first optimizer step, less those of `import torch` alone; the least of a few runs, a busy machine only adds.
Tasks whose official files are not there run on their samples, and say so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HELP, FIRST_STEP, PEAK = 0.3, 1.5, 1e9 / 2**20  # the most for a release: seconds, seconds, MiB
FILES = {"imdb": "imdb", "boston_housing": "boston_housing"}  # folders of official rows
SIZES = (10**3, 10**4, 10**5, 10**6)
COLUMNS, BATCH = 20, 128

TORCH = "import sys, time, torch; print('seconds', time.process_time(), file=sys.stderr)"
TO_FIRST_STEP = """
import sys, time
from dlrun.cli import main as cli

def watched(words):
    from dlrun.training.optimization import Optimization
    learn = Optimization.step
    def once(*args):
        learn(*args)
        print("seconds", time.process_time(), file=sys.stderr)
        sys.exit(0)
    Optimization.step = once
    return main(words)

main, cli.main = cli.main, watched
cli.entry()
"""
TO_THE_END = """
import atexit, sys
sys.path.insert(0, {here!r})
from bench_peer import peak
atexit.register(lambda: print(f"MiB {{peak()}}", file=sys.stderr))
from dlrun.cli.main import entry
entry()
"""


def tell_start(runs: int = 3) -> bool:
    """Print start-up times and the peak of experiment=imdb_dense; whether all keep their bars."""
    base = least(lambda: said("seconds", TORCH, []), runs)
    helped = least(
        lambda: used([sys.executable, "-c", "from dlrun.cli.main import entry; entry()", "--help"]),
        runs,
    )
    print(f"import torch alone: {base:.2f} s of CPU")
    kept = [bar("dlrun --help", helped, HELP, "s of CPU")]
    for task in ("imdb", "boston_housing", "wine", "digits"):
        words, note = [f"task={task}", *there(task)], " (sample)" if there(task) else ""
        seconds = least(lambda words=words: said("seconds", TO_FIRST_STEP, words), runs) - base
        kept.append(
            bar(
                f"task={task}{note}, to the first step, on top of it",
                seconds,
                FIRST_STEP,
                "s of CPU",
            )
        )
    words = ["experiment=imdb_dense", "test=true", "reason=a measure of memory", *there("imdb")]
    most = said("MiB", TO_THE_END.format(here=str(Path(__file__).parent)), words)
    kept.append(
        bar(
            f"experiment=imdb_dense with its test{' (sample)' if there('imdb') else ''}",
            most,
            PEAK,
            "MiB",
        )
    )
    return all(kept)


def bar(what: str, found: float, most: float, unit: str) -> bool:
    """Print a figure beside its bar; whether it keeps it."""
    kept = found < most
    print(
        f"{what}: {found:.3g} {unit} (less than {most:.3g}{'' if kept else ', MISSED'})", flush=True
    )
    return kept


def there(task: str) -> list[str]:
    """The words that a task needs to run on its sample where its official files are not there; none otherwise."""
    from dlrun.core.files import data_root

    name = FILES.get(task)
    return [] if name is None or (data_root() / name).is_dir() else ["source=sample"]


def least(measure: Callable[[], float], runs: int) -> float:
    return min(measure() for _ in range(runs))


def used(command: list[str]) -> float:
    """CPU seconds of a command."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, about = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return about.ru_utime + about.ru_stime


def said(unit: str, code: str, words: list[str]) -> float:
    """The figure that a process of this code, which runs dlrun with these words, gives of itself."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-c",
            code,
            *words,
            *(["engine.device=cpu", f"output={folder}"] if words else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    found = [line.split()[1] for line in done.stderr.splitlines() if line.startswith(f"{unit} ")]
    if done.returncode or not found:
        raise SystemExit(
            f"dlrun {' '.join(words)} ended with {done.returncode}: {done.stderr[-300:]}"
        )
    return float(found[-1])


def tell_rows(rounds: int = 5, seconds: float = 1.0) -> None:
    """Print microseconds a row of training and evaluation, by number of rows, and dlrun's ratio to the loop."""
    import torch
    from bench_peer_own import bench

    from dlrun.core.device import flush_tiny_values

    torch.set_num_threads(1)
    flush_tiny_values()
    heads = ("loop", "dlrun", "ratio", "forward", "evaluate", "ratio", "same batch", "ratio")
    print(f"{'rows':>9} {' '.join(f'{head:>10}' for head in heads)}   (µs a row)")
    for rows in SIZES:
        work = table_of(bench(), rows)
        with tempfile.TemporaryDirectory() as folder:
            hand, mine, forward, same, evaluate = loops(bench(), work, Path(folder))
            training = paired(hand, mine, rounds, seconds, bench().speed)
            evaluating = paired(forward, evaluate, rounds, seconds / 2, bench().speed)
            alike = paired(same, evaluate, rounds, seconds / 2, bench().speed)
        print(
            f"{rows:>9,} {told(training)} {told(evaluating)} {1e6 / alike[0]:>10.2f} {alike[2]:>10.2f}",
            flush=True,
        )


def table_of(bench: Any, rows: int) -> Any:
    """A table of random numbers, as a workload of scripts/bench."""
    import torch
    from torch import nn

    from dlrun.core.types import Field, Spec
    from dlrun.data.loading.table import DenseColumn

    spec = Spec({"x": Field("number", (COLUMNS,))}, {"y": Field("number", (1,))})
    columns = lambda: {  # noqa: E731
        "x": DenseColumn(torch.randn(rows, COLUMNS)),
        "y": DenseColumn(torch.randn(rows, 1)),
    }
    hand = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(COLUMNS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )
    return bench.Workload(spec, columns, "dense", {"units": [64, 64]}, BATCH, hand)


def loops(bench: Any, work: Any, folder: Path) -> tuple[Iterator[int], ...]:
    """Epochs of the loop and of dlrun, and passes of the loop's network and of dlrun's evaluation over all rows."""
    from dlrun.data.loading.table import Table

    table, trainers = Table(work.columns()), []
    made = bench.Trainer
    bench.Trainer = lambda *parts: trainers.append(made(*parts)) or trainers[-1]
    hand, mine = bench.by_hand(work, table, folder), bench.ours(work, table, folder)
    next(hand), next(mine)
    bench.Trainer = made
    same = forwards(work, table, trainers[0].settings.get_inference_batch_size(work.spec))
    forward, evaluate = forwards(work, table, work.batch_size), evaluations(trainers[0], table)
    next(forward), next(same), next(evaluate)
    return hand, mine, forward, same, evaluate


def forwards(work: Any, table: Any, size: int) -> Iterator[int]:
    """The loop's way to evaluate: the network over all rows, loss and measure summed."""
    import torch

    whole, model = next(table.batches(len(table))), work.by_hand().eval()
    while True:
        total, away = torch.zeros(()), torch.zeros(())
        with torch.no_grad():
            for low in range(0, len(table), size):
                raw, y = model(whole["x"][low : low + size]), whole["y"][low : low + size]
                total += torch.nn.functional.mse_loss(raw, y) * len(y)
                away += (raw - y).abs().sum()
        float(total), float(away)
        yield len(table)


def evaluations(trainer: Any, table: Any) -> Iterator[int]:
    """dlrun's: a visit without learning."""
    while True:
        trainer.run_epoch("val", table).scores()
        yield len(table)


def paired(
    theirs: Iterator[int],
    ours: Iterator[int],
    rounds: int,
    seconds: float,
    speed: Callable[..., float],
) -> tuple[float, float, float]:
    """Medians of rows a second of both, and of the rounds' ratios."""
    pairs = [(speed(theirs, seconds), speed(ours, seconds)) for _ in range(rounds)]
    ratio = statistics.median(mine / other for other, mine in pairs)
    return (
        statistics.median(other for other, _ in pairs),
        statistics.median(mine for _, mine in pairs),
        ratio,
    )


def told(found: tuple[float, float, float]) -> str:
    return f"{1e6 / found[0]:>10.2f} {1e6 / found[1]:>10.2f} {found[2]:>10.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--rows", action="store_true")
    args = parser.parse_args()
    start = time.perf_counter()
    kept = tell_start() if args.start else True
    if args.rows:
        tell_rows()
    print(f"({time.perf_counter() - start:.0f} s)")
    return int(not kept)


if __name__ == "__main__":
    raise SystemExit(main())
