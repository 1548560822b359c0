"""What scripts/bench --peers has found: who was measured, the tables, and their place in docs/benchmarks.md."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- scripts/bench --peers: begin -->", "<!-- scripts/bench --peers: end -->"
PEERS = {  # what its process is told → how the table names it, the modules that it needs
    "own:loop": ("hand-written loop", ("torch",)),
    "own:loader": ("hand-written loop, DataLoader", ("torch",)),
    "own:dlrun": ("dlrun", ("dlrun",)),
    "own:dlrun,precision=bf16": ("dlrun, bf16", ("dlrun",)),
    "own:dlrun,compile=step": ("dlrun, engine.compile=step", ("dlrun",)),
    "lightning:quiet": ("Lightning, quiet", ("lightning",)),
    "lightning:defaults": ("Lightning, defaults", ("lightning",)),
    "keras:torch": ("Keras on torch", ("keras",)),
    "keras:jax": ("Keras on JAX", ("keras", "jax")),
    "skorch": ("skorch", ("skorch",)),
    "fastai": ("fastai", ("fastai",)),
}
VERSIONS = ("torch", "lightning", "keras", "jax", "skorch", "fastai")
SMALL = ("boston_batch_1", "boston_batch_16", "mnist_dense")
COMMON = (
    "boston_batch_1",
    "boston_batch_16",
    "mnist_dense",
    "imdb_dense",
    "mnist_convnet",
    "jena_gru",
    "imdb_lstm",
)


@dataclass
class Found:
    """What was measured of one peer on one workload. speeds: samples per second, a round each.

    ratios: to the loop's of the same round. imported, first: CPU seconds up to the end of the import, and of the first
    step. peak: MiB. fault: why it was not measured; '' where it was.
    """

    peer: str
    workload: str
    speeds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    imported: float = 0.0
    first: float = 0.0
    parameters: int = 0
    peak: float = 0.0
    fault: str = ""


def absent() -> list[str]:
    """The peers whose modules are not there; dlrun's settings that do not exist are nobody's lack."""
    return [peer for peer, (_, modules) in PEERS.items() if any(map(lacks, modules))]


def lacks(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def table(found: list[Found]) -> list[str]:
    """What was measured on one workload, as lines of Markdown."""
    lines = ["", f"### {found[0].workload}", ""]
    lines += [
        "| | samples/s | ratio | least – most | import, s | first step, s | peak, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in found:
        name = PEERS[one.peer][0]
        if one.fault or not one.ratios:
            lines.append(f"| {name} | {one.fault or 'the loop was lost'} | | | | | |")
            continue
        ratio, ends = (
            statistics.median(one.ratios),
            f"{min(one.ratios):.2f} – {max(one.ratios):.2f}",
        )
        figures = f"{one.imported:.1f} | {one.first:.1f} | {one.peak:,.0f}"
        lines.append(
            f"| {name} | {statistics.median(one.speeds):,.0f} | {ratio:.2f} | {ends} | {figures} |"
        )
    return lines


def versions() -> str:
    """What was measured, in words."""
    told = []
    for name in VERSIONS:
        try:
            told.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            told.append(f"{name} not installed")
    return ", ".join(told)


def write(
    found: list[Found],
    rounds: int,
    seconds: float,
    alone: Sequence[tuple[str, float, float, float, float]] = (),
) -> None:
    """Put the tables into docs/benchmarks.md, in the place of those of the run before."""
    lines = [BEGIN, "## Against the other frameworks", "", *told(rounds, seconds)]
    for name in dict.fromkeys(one.workload for one in found):
        lines += table([one for one in found if one.workload == name])
    if alone:
        lines += [
            "",
            "### What no other does: several fits as one, a step of one of them; and texts in batches of one length",
            "",
        ]
        lines += [
            "| workload | hand-written loop, samples/s | dlrun | ratio | bar |",
            "|---|--:|--:|--:|--:|",
        ]
        lines += ["| {} | {:,.0f} | {:,.0f} | {:.2f} | {:g} |".format(*one) for one in alone]
    section = "\n".join([*lines, "", END])
    text = BENCHMARKS.read_text(encoding="utf-8")
    if BEGIN in text:
        before, _, rest = text.partition(BEGIN)
        text = before + section + rest.partition(END)[2]
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    BENCHMARKS.write_text(text, encoding="utf-8")


def told(rounds: int, seconds: float) -> list[str]:
    """How the tables came about, as lines of Markdown."""
    missing = ", ".join(PEERS[peer][0] for peer in absent())
    return [
        f"`scripts/bench --peers --rounds {rounds} --seconds {seconds:g}`, {date.today()}; {versions()}; Python "
        f"{platform.python_version()}; {processor()}, one core and one thread each, CPU time of the whole process.",
        "Same tensors, network, RMSprop, loss, measure and batches for all; medians of interleaved rounds, ratios to",
        "the hand-written loop of the same round; a first step is counted from the start of the process, reading",
        "data left out and compilers included (of `engine.compile=step` it is the third, which is compiled); a peak",
        "is the process's. What each was given, and why: `scripts/bench_peer*.py`.",
        *([f"Not installed: {missing}."] if missing else []),
    ]


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
