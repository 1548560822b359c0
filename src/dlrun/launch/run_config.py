"""Carries a config out in its run folder: an experiment or a workflow, in one process or several."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import name_of
from dlrun.config.overrides import user_folders
from dlrun.config.parts import named_packages
from dlrun.core import json_text
from dlrun.core.errors import Refused, Unwritable, in_one_line
from dlrun.launch.finish import count_openings, finish
from dlrun.launch.run_log import logging_to

if TYPE_CHECKING:
    from dlrun.core.types import Result


Carry = Callable[[Any, Any], "list[Result]"]


def named_plugins(words: list[str]) -> tuple[str, ...]:
    """The packages that `plugins=[…]` names among these words; they become importable from the working folder."""
    names = [word.partition("=")[2].strip("[]").split(",") for word in words if word.lstrip("+").startswith("plugins=")]
    plugins = named_packages(name for group in names for name in group)
    if plugins and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return plugins


def make_folder(config: dict[str, Any]) -> Path:
    """A folder for a new run: output/task/model/time."""
    from dlrun.core.run_folder import create

    return create(Path(config["output"]), config["task"]["name"], name_of(config["model"]))


def start(config: dict[str, Any], words: list[str], folder: Path, plugins: tuple[str, ...] = ()) -> int:
    """Begin a run in a new folder. A run that is refused before it trained leaves no folder behind."""
    from dlrun.core.run_folder import discard

    try:
        note(config, words, folder)
        return go(config, folder, plugins)[0]
    except Exception as error:
        if not isinstance(error, Refused | Unwritable) and in_one_line(error) is None:
            raise
        if not (folder / "history.jsonl").exists():
            discard(folder)
        raise


def note(config: dict[str, Any], words: list[str], folder: Path) -> None:
    """Write down what a run was asked for and where: config, words, environment."""
    import yaml

    from dlrun.core.files import write_text
    from dlrun.core.run_folder import environment

    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_text(folder / "command.txt", command(words) + "\n")
    write_text(folder / "environment.json", json_text.text(environment(), 1) + "\n")


def command(words: list[str]) -> str:
    """These words as one line for a shell."""
    return shlex.join(["dlrun", *words])


def go(
    config: dict[str, Any], folder: Path, plugins: tuple[str, ...] = (), carry: Carry | None = None
) -> tuple[int, list[Result]]:
    """Run, or go on with, what the config says in this folder; answers with the exit code and the results.

    carry: (experiment, display) → results, where somebody else carries it out, and looks after the report. Where the
    config asks for several processes, these are started, and do it.
    """
    from dlrun.core.folder_lock import at_work
    from dlrun.launch import local_ranks, rank_state

    with nullcontext() if rank_state.started_by_us() else at_work(folder):
        if local_ranks.wanted(config) > 1:
            return local_ranks.launched(config, folder, plugins, report=carry is None)
        rank_state.lead(config, folder, plugins)
        return carried_out(config, folder, plugins, carry)


def carried_out(
    config: dict[str, Any], folder: Path, plugins: tuple[str, ...], carry: Carry | None = None, first: bool = True
) -> tuple[int, list[Result]]:
    """What `go` does in this process. first: of several it is the one that is seen, and writes the report."""
    from dlrun.core.errors import Diverged, Interrupted
    from dlrun.launch.console import Shown
    from dlrun.launch.progress import Display

    console = Shown(quiet=not first)
    with logging_to(folder, console):
        try:
            experiment = begun(config, folder, plugins)
            console.print(f"run folder: {folder}", soft_wrap=True)
            tell_of_words(experiment, config, folder)
            display = Display(console, quiet=not first, brief="workflow" in config)
            results = experiment.results(display) if carry is None else carry(experiment, display)
        except Interrupted as stop:
            console.print(f"stopped and saved; to go on: dlrun resume {folder}", soft_wrap=True)
            return 128 + stop.number, []
        except Diverged as error:
            diverged(error, folder)
            return 3, []
        except Unwritable as error:
            if not (folder / "history.jsonl").exists():  # nothing has begun
                raise
            saved = "what was saved before is whole, and with room for it"
            raise Unwritable(f"{error}; {saved}, dlrun resume {folder} goes on") from error
        if first and carry is None:
            finish(config, folder, results, console)
        elif first:
            count_openings(config, folder)
    return int(any("FAILED" in result.note for result in results)), results


def diverged(error: Exception, folder: Path) -> None:
    """Say that a fit has ended in a loss that is no number, and what there is of it."""
    from dlrun.core import checkpoint
    from dlrun.core.run_folder import RunDir

    log, run = logging.getLogger("dlrun"), RunDir(folder)
    log.error("stopped: %s", error)
    for name, state in [(job.name, checkpoint.newest(run.checkpoints(job) / "best.pt")) for job in run.cut()]:
        if state is not None:
            log.info("kept: epoch %d of %s, the best one before; dlrun evaluate %s", state["epoch"], name, folder)
    log.info("to go on would end the same; with a lower rate: dlrun rerun %s optimizer.lr=…", folder)


def tell_of_words(experiment: Any, config: dict[str, Any], folder: Path) -> None:
    """Say, also beside the result, which words of a run change nothing, or take something away."""
    from dlrun.config.unused_settings import notes

    if "workflow" in config or not (folder / "command.txt").is_file():
        return
    folders, words = user_folders(shlex.split((folder / "command.txt").read_text(encoding="utf-8"))[1:])
    log = folder / "log.txt"
    said = log.read_text(encoding="utf-8") if log.is_file() else ""
    for text in notes(config, words, folders, dict(experiment.assembly.raw.inputs)):
        if text in said:
            experiment.assembly.told[text] = None
        else:
            experiment.assembly.tell(text)


def begun(config: dict[str, Any], folder: Path, plugins: tuple[str, ...]) -> Any:
    """What this config asks for, ready to be carried out: one experiment, a workflow, or the end of one."""
    if "workflow" not in config:
        from dlrun.experiment.runner import Experiment

        return Experiment(config, folder, plugins)
    if config["test"]:
        from dlrun.workflow.final_evaluation import Final

        return Final(config, folder, plugins)
    from dlrun.workflow.workflow import Workflow

    return Workflow(config, folder, plugins)
