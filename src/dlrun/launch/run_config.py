"""Carries out a config in its run folder: experiment or workflow, in one process or several."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compatibility import get_model_part_name
from dlrun.config.overrides import split_config_folders
from dlrun.config.parts import check_plugin_names
from dlrun.core.errors import FileWriteError, UserError, describe_system_error
from dlrun.core.process_group import ONE_PROCESS, ProcessGroup, is_rank
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.launch.finish import finish_run, record_test_evaluations
from dlrun.launch.run_log import log_to_folder

if TYPE_CHECKING:
    from dlrun.core.types import Result


# (experiment, display) → results.
RunFunction = Callable[[Any, Any], "list[Result]"]


def load_plugin_packages(words: list[str]) -> tuple[str, ...]:
    """Make the packages that `plugins=[…]` names importable from the working folder.

    Args:
        words: The words of the command line.

    Returns:
        The names of the packages.
    """
    names = [
        word.partition("=")[2].strip("[]").split(",")
        for word in words
        if word.lstrip("+").startswith("plugins=")
    ]
    plugins = check_plugin_names(name for listed in names for name in listed)
    if plugins and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return plugins


def make_run_folder(config: dict[str, Any]) -> Path:
    """Create a folder for a new run: output/task/model/time."""
    from dlrun.core.paths import create_run_folder

    return create_run_folder(
        Path(config["output"]), config["task"]["name"], get_model_part_name(config["model"])
    )


def start_run(
    config: dict[str, Any], words: list[str], folder: Path, plugins: tuple[str, ...] = ()
) -> int:
    """Begin a run in a new folder; a run that is refused before it trained leaves no folder behind.

    Args:
        config: The config of the run.
        words: The words of the command line, to be stored.
        folder: The new folder.
        plugins: Packages that the config may instantiate.

    Returns:
        The exit code.
    """
    from dlrun.core.environment import collect_environment
    from dlrun.core.paths import remove_run_folder

    try:
        RunFolder(folder).write_request(config, words, collect_environment())
        return execute_run(config, folder, plugins)[0]
    except Exception as error:
        expected = isinstance(error, UserError | FileWriteError)
        # After an unexpected error the folder stays: it holds the log with the traceback.
        if not expected and describe_system_error(error) is None:
            raise
        if not RunFolder(folder).exists(RunFile.HISTORY):
            remove_run_folder(folder)
        raise


def execute_run(
    config: dict[str, Any],
    folder: Path,
    plugins: tuple[str, ...] = (),
    run_experiment: RunFunction | None = None,
) -> tuple[int, list[Result]]:
    """Run a config in its folder, or resume it, in as many processes as it asks for.

    Args:
        config: The config of the run.
        folder: The run folder.
        plugins: Packages that the config may instantiate.
        run_experiment: (experiment, display) → results, of a caller that drives the experiment and
            writes the report itself.

    Returns:
        The exit code, and the results.
    """
    from dlrun.core.folder_lock import lock_folder

    if is_rank():
        return execute_shared_run(config, folder, plugins, run_experiment)
    with lock_folder(folder):
        if config["engine"].get("devices") is not None:
            from dlrun.launch import local_ranks

            if local_ranks.get_num_processes(config) > 1:
                report = run_experiment is None
                return local_ranks.launch_processes(config, folder, plugins, report)
        return execute_in_process(config, folder, plugins, run_experiment)


def execute_shared_run(
    config: dict[str, Any],
    folder: Path,
    plugins: tuple[str, ...],
    run_experiment: RunFunction | None,
) -> tuple[int, list[Result]]:
    """Run a config as the first of several processes, see `execute_run`; tells the others of it.

    Raises:
        SharedRunRefused: Where it is refused; none of the others waits for another one.
    """
    from dlrun.core.folder_lock import lock_folder
    from dlrun.launch import rank_state

    # The parent holds the lock for the processes that it started.
    with nullcontext() if rank_state.has_launcher() else lock_folder(folder):
        processes = rank_state.find_process_group(config)
        rank_state.broadcast_run(processes, config, folder, plugins)
        try:
            return execute_in_process(config, folder, plugins, run_experiment, processes)
        except UserError as error:
            raise rank_state.SharedRunRefused(str(error)) from error


def execute_in_process(
    config: dict[str, Any],
    folder: Path,
    plugins: tuple[str, ...],
    run_experiment: RunFunction | None = None,
    processes: ProcessGroup = ONE_PROCESS,
) -> tuple[int, list[Result]]:
    """Run a config in this process, see `execute_run`.

    Args:
        config: The config of the run.
        folder: The run folder.
        plugins: Packages that the config may instantiate.
        run_experiment: As for `execute_run`.
        processes: That share the run; the first prints and writes the report.

    Returns:
        The exit code, and the results.
    """
    from dlrun.core.errors import TrainingDiverged, TrainingInterrupted
    from dlrun.launch.console import RecordingConsole
    from dlrun.launch.progress import ProgressDisplay

    is_main = processes.rank == 0
    console = RecordingConsole(quiet=not is_main)
    with log_to_folder(folder, console):
        try:
            experiment = create_experiment(config, folder, plugins, processes)
            console.print(f"run folder: {folder}", soft_wrap=True)
            report_unused_overrides(experiment, config, folder)
            display = ProgressDisplay(console, quiet=not is_main, brief="workflow" in config)
            results = (
                experiment.results(display)
                if run_experiment is None
                else run_experiment(experiment, display)
            )
        except TrainingInterrupted as stop:
            console.print(f"stopped and saved; to go on: dlrun resume {folder}", soft_wrap=True)
            # The shell's convention for a process that a signal ended.
            return 128 + stop.number, []
        except TrainingDiverged as error:
            report_divergence(error, folder)
            return 3, []
        except FileWriteError as error:
            if not RunFolder(folder).exists(RunFile.HISTORY):  # nothing has begun
                raise
            raise FileWriteError(
                f"{error}; what was saved before is whole, and with room for it, "
                f"dlrun resume {folder} goes on"
            ) from error
        if is_main and run_experiment is None:
            finish_run(config, folder, results, console)
        elif is_main:
            record_test_evaluations(config, folder)
    return max((result.exit_code for result in results), default=0), results


def report_divergence(error: Exception, folder: Path) -> None:
    """Report that a loss became nan or infinite, which checkpoint is left, and what to try."""
    from dlrun.core import checkpoint

    log = logging.getLogger("dlrun")
    run = RunFolder(folder)
    log.error("stopped: %s", error)
    for job in run.failed_jobs():
        state = checkpoint.load_latest_or_none(run.checkpoint_file(job.name, "best"))
        if state is not None:
            message = "kept: epoch %d of %s, the best one before; dlrun evaluate %s"
            log.info(message, state["epoch"], job.name, folder)
    log.info(
        "to go on would end the same; with a lower rate: dlrun rerun %s optimizer.lr=…", folder
    )


def report_unused_overrides(experiment: Any, config: dict[str, Any], folder: Path) -> None:
    """Report, also beside the result, which overrides of a run have no effect."""
    from dlrun.config.unused_settings import find_unused_settings

    run = RunFolder(folder)
    if "workflow" in config or not run.exists(RunFile.COMMAND):
        return
    folders, words = split_config_folders(run.read_command_words(), quiet=True)
    logged = run.read_text(RunFile.LOG)
    inputs = dict(experiment.builder.dataset.inputs)
    for text in find_unused_settings(config, words, folders, inputs):
        # A resumed run has said it before; the note beside the result is made anew.
        if text in logged:
            experiment.builder.messages[text] = None
        else:
            experiment.builder.warn_once(text)


def create_experiment(
    config: dict[str, Any],
    folder: Path,
    plugins: tuple[str, ...],
    processes: ProcessGroup = ONE_PROCESS,
) -> Any:
    """Create the experiment, workflow, or final evaluation that this config asks for."""
    arguments = config, folder, plugins, processes
    if "workflow" not in config:
        from dlrun.experiment.runner import Experiment

        return Experiment(*arguments)
    if config["test"]:
        from dlrun.workflow.final_evaluation import FinalEvaluation

        return FinalEvaluation(*arguments)
    from dlrun.workflow.workflow import Workflow

    return Workflow(*arguments)
