"""`dlrun -m`: every combination of the values given, one after the other, with a table that is true after each."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from dlrun.commands.configure import configure
from dlrun.commands.train import go, named_plugins, note
from dlrun.errors import Refused


def sweep(words: list[str], folders: list[Path]) -> int:
    """Run every job; a job that fails is a line in the table, and the others go on. Answers 1 if any failed."""
    plugins = named_plugins(words)
    jobs = combinations(words)
    configs = [_configured(job, folders, plugins) for job in jobs]
    if faults := [f"{' '.join(job)}: {c}" for job, c in zip(jobs, configs, strict=True) if isinstance(c, Refused)]:
        if len(faults) == len(jobs):
            raise Refused("\n".join(dict.fromkeys(str(c) for c in configs)))
        logging.getLogger("dlrun").info("\n".join(faults))
    first = next(config for config in configs if isinstance(config, dict))
    from dlrun.rundir import create

    folder = create(Path(first["output"]), first["task"]["name"], "sweep")
    codes = []
    for number, (job, config) in enumerate(zip(jobs, configs, strict=True)):
        print(f"job {number + 1}/{len(jobs)}: {' '.join(job)}", flush=True)
        codes.append(one(folder, number, job, config, plugins))
        tell(folder)
        if codes[-1] in (130, 143):
            return codes[-1]
    return int(any(codes))


def combinations(words: list[str]) -> list[list[str]]:
    """The words of each job, in Hydra's own sweep grammar: lists, range(), choice(), glob()."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        overrides = OverridesParser.create().parse_overrides(words)
        batches = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    except HydraException as error:
        raise Refused(f"cannot read the sweep: {str(error).splitlines()[0]}") from error
    return [list(job) for batch in batches for job in batch]


def _configured(job: list[str], folders: list[Path], plugins: tuple[str, ...]) -> dict[str, Any] | Refused:
    try:
        return configure(job, folders, plugins)
    except Refused as error:
        return error


def one(folder: Path, number: int, job: list[str], config: dict[str, Any] | Refused, plugins: tuple[str, ...]) -> int:
    """Run one job in its own folder and note how it ended."""
    from dlrun.whole import write_text

    name, error, code = f"{number:03d}", "", 0
    place = folder / name
    place.mkdir()
    try:
        if isinstance(config, Refused):
            raise config
        note(config, job, place)
        code, _ = go(config, place, plugins)
        error = {0: "", 3: "the loss became nan or infinite"}.get(code, f"exit code {code}")
    except Refused as refused:
        error, code = str(refused), 2
    except Exception as crash:
        error, code = f"{type(crash).__name__}: {crash}", 1
    if error:
        write_text(place / "error.txt", error + "\n")
    line = {"job": number, "words": job, "status": "failed" if error else "done", "error": error, "folder": name}
    with (folder / "sweep.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return code


def tell(folder: Path) -> None:
    """Write sweep.csv and sweep.md anew and show the table."""
    from rich.console import Console

    from dlrun.report.sweep import write_sweep

    console = Console(highlight=False)
    console.print(write_sweep(folder))
    console.print(f"sweep folder: {folder}", soft_wrap=True)
