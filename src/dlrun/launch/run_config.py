"""Carries a config out in its run folder: an experiment or a workflow, in one process or several."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import get_model_part_name
from dlrun.config.overrides import split_config_folders
from dlrun.config.parts import check_plugin_names
from dlrun.core import json_text
from dlrun.core.errors import FileWriteError, UserError, describe_system_error
from dlrun.launch.finish import finish_run, record_test_evaluations
from dlrun.launch.run_log import log_to_folder

if TYPE_CHECKING:
    from dlrun.core.types import Result


RunFunction = Callable[[Any, Any], "list[Result]"]


def load_plugin_packages(words: list[str]) -> tuple[str, ...]:
    """The packages that `plugins=[…]` names among these words; they become importable from the working folder."""
    names = [
        word.partition("=")[2].strip("[]").split(",")
        for word in words
        if word.lstrip("+").startswith("plugins=")
    ]
    plugins = check_plugin_names(name for group in names for name in group)
    if plugins and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return plugins


def make_run_folder(config: dict[str, Any]) -> Path:
    """A folder for a new run: output/task/model/time."""
    from dlrun.core.run_folder import create_run_folder

    return create_run_folder(
        Path(config["output"]), config["task"]["name"], get_model_part_name(config["model"])
    )


def start_run(
    config: dict[str, Any], words: list[str], folder: Path, plugins: tuple[str, ...] = ()
) -> int:
    """Begin a run in a new folder. A run that is refused before it trained leaves no folder behind."""
    from dlrun.core.run_folder import remove_run_folder

    try:
        write_run_metadata(config, words, folder)
        return execute_run(config, folder, plugins)[0]
    except Exception as error:
        if (
            not isinstance(error, UserError | FileWriteError)
            and describe_system_error(error) is None
        ):
            raise
        if not (folder / "history.jsonl").exists():
            remove_run_folder(folder)
        raise


def write_run_metadata(config: dict[str, Any], words: list[str], folder: Path) -> None:
    """Write down what a run was asked for and where: config, words, environment."""
    import yaml

    from dlrun.core.environment import collect_environment
    from dlrun.core.files import write_text

    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_text(folder / "command.txt", format_command(words) + "\n")
    write_text(folder / "environment.json", json_text.to_json(collect_environment(), 1) + "\n")


def format_command(words: list[str]) -> str:
    """These words as one line for a shell."""
    return shlex.join(["dlrun", *words])


def execute_run(
    config: dict[str, Any],
    folder: Path,
    plugins: tuple[str, ...] = (),
    carry: RunFunction | None = None,
) -> tuple[int, list[Result]]:
    """Run, or go on with, what the config says in this folder; answers with the exit code and the results.

    carry: (experiment, display) → results, where somebody else carries it out, and looks after the report. Where the
    config asks for several processes, these are started, and do it.
    """
    from dlrun.core.folder_lock import lock_folder
    from dlrun.launch import local_ranks, rank_state

    with nullcontext() if rank_state.is_launched_rank() else lock_folder(folder):
        if local_ranks.get_num_processes(config) > 1:
            return local_ranks.launch_processes(config, folder, plugins, report=carry is None)
        rank_state.broadcast_run(config, folder, plugins)
        return execute_in_process(config, folder, plugins, carry)


def execute_in_process(
    config: dict[str, Any],
    folder: Path,
    plugins: tuple[str, ...],
    carry: RunFunction | None = None,
    first: bool = True,
) -> tuple[int, list[Result]]:
    """What `execute_run` does in this process. first: of several it is the one that is seen, and writes the report."""
    from dlrun.core.errors import TrainingDiverged, TrainingInterrupted
    from dlrun.launch.console import RecordingConsole
    from dlrun.launch.progress import ProgressDisplay

    console = RecordingConsole(quiet=not first)
    with log_to_folder(folder, console):
        try:
            experiment = create_experiment(config, folder, plugins)
            console.print(f"run folder: {folder}", soft_wrap=True)
            report_unused_overrides(experiment, config, folder)
            display = ProgressDisplay(console, quiet=not first, brief="workflow" in config)
            results = experiment.results(display) if carry is None else carry(experiment, display)
        except TrainingInterrupted as stop:
            console.print(f"stopped and saved; to go on: dlrun resume {folder}", soft_wrap=True)
            return 128 + stop.number, []
        except TrainingDiverged as error:
            report_divergence(error, folder)
            return 3, []
        except FileWriteError as error:
            if not (folder / "history.jsonl").exists():  # nothing has begun
                raise
            saved = "what was saved before is whole, and with room for it"
            raise FileWriteError(f"{error}; {saved}, dlrun resume {folder} goes on") from error
        if first and carry is None:
            finish_run(config, folder, results, console)
        elif first:
            record_test_evaluations(config, folder)
    return int(any("FAILED" in result.note for result in results)), results


def report_divergence(error: Exception, folder: Path) -> None:
    """Say that a fit has ended in a loss that is no number, and what there is of it."""
    from dlrun.core import checkpoint
    from dlrun.core.run_folder import RunFolder

    log, run = logging.getLogger("dlrun"), RunFolder(folder)
    log.error("stopped: %s", error)
    for name, state in [
        (job.name, checkpoint.load_latest_or_none(run.checkpoint_folder(job) / "best.pt"))
        for job in run.failed_jobs()
    ]:
        if state is not None:
            log.info(
                "kept: epoch %d of %s, the best one before; dlrun evaluate %s",
                state["epoch"],
                name,
                folder,
            )
    log.info(
        "to go on would end the same; with a lower rate: dlrun rerun %s optimizer.lr=…", folder
    )


def report_unused_overrides(experiment: Any, config: dict[str, Any], folder: Path) -> None:
    """Say, also beside the result, which words of a run change nothing, or take something away."""
    from dlrun.config.unused_settings import find_unused_settings

    if "workflow" in config or not (folder / "command.txt").is_file():
        return
    folders, words = split_config_folders(
        shlex.split((folder / "command.txt").read_text(encoding="utf-8"))[1:]
    )
    log = folder / "log.txt"
    said = log.read_text(encoding="utf-8") if log.is_file() else ""
    for text in find_unused_settings(
        config, words, folders, dict(experiment.builder.dataset.inputs)
    ):
        if text in said:
            experiment.builder.messages[text] = None
        else:
            experiment.builder.warn_once(text)


def create_experiment(config: dict[str, Any], folder: Path, plugins: tuple[str, ...]) -> Any:
    """What this config asks for, ready to be carried out: one experiment, a workflow, or the end of one."""
    if "workflow" not in config:
        from dlrun.experiment.runner import Experiment

        return Experiment(config, folder, plugins)
    if config["test"]:
        from dlrun.workflow.final_evaluation import FinalEvaluation

        return FinalEvaluation(config, folder, plugins)
    from dlrun.workflow.workflow import Workflow

    return Workflow(config, folder, plugins)
