"""Carries out a config in its run folder, in one process or several, to its tables and report."""

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
from dlrun.core.environment import ONE_PROCESS, ProcessGroup, is_rank
from dlrun.core.errors import FileWriteError, UserError, describe_system_error
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.launch.run_log import log_to_folder

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.core.types import Result


def finish_run(
    config: dict[str, Any], folder: Path, results: list[Result], console: Console
) -> None:
    """Write plots and the report, and print the score tables.

    Args:
        config: The config of the run.
        folder: The run folder.
        results: All results of the run.
        console: Where the tables are printed.
    """
    from dlrun.core.files import optional_write
    from dlrun.report.build import write_report
    from dlrun.report.result_tables import load_result_tables

    page = RunFolder(folder).path(RunFile.REPORT_PAGE)
    # A full disk costs the report, never the scores, which are stored already.
    with optional_write("the report is", page):
        record_test_evaluations(config, folder)
        status = console.status("drawing plots and writing the report")
        with status if console.is_terminal else nullcontext():
            write_report(folder)
    if "workflow" not in config:
        console.print(*load_result_tables(folder))
    print_ensemble_members(folder, console)
    for line in [*get_baseline_warnings(results, config), *compare_with_reference(config, results)]:
        console.print(line, soft_wrap=True)
    if page.is_file():
        console.print(f"report: {page}", soft_wrap=True)


BASELINE_TARGETS = (
    "dlrun.models.baselines.constant",
    "dlrun.models.baselines.",
    "dlrun.models.bigram.",
)


def get_baseline_warnings(results: list[Result], config: dict[str, Any]) -> list[str]:
    """Name the fits whose validation loss is not below the baseline's.

    Fits of the baseline model itself are skipped, and so are a workflow's candidates: its verdicts
    already compare them.

    Args:
        results: All results of the run.
        config: The config of the run.

    Returns:
        One warning line, or an empty list.
    """
    from dlrun.core.run_reader import get_family
    from dlrun.evaluation.protocols.two_stages import drop_first_stages

    if "workflow" in config:
        return []
    worse = [
        result.job.name
        for result in drop_first_stages(results)
        if not _is_baseline_model(result, config) and _is_not_below_baseline(result)
    ]
    if not worse:
        return []
    # Folds and repetitions of one fit are named once, with their number.
    families = [get_family(name) for name in dict.fromkeys(worse)]
    counted = [
        f"{family} ({families.count(family)} fits)" if families.count(family) > 1 else family
        for family in dict.fromkeys(families)
    ]
    hint = "Try dlrun lr … and dlrun explain …, with the same words"
    return [f"WARNING: the loss of {', '.join(counted)} is not below the baseline's. {hint}"]


def _is_baseline_model(result: Result, config: dict[str, Any]) -> bool:
    # A stage may have exchanged the model of the config: its patch goes first.
    node = result.job.patch.get("model") or config["model"]
    return str(node.get("_target_")).startswith(BASELINE_TARGETS)


def _is_not_below_baseline(result: Result) -> bool:
    if "loss" not in result.scores or "loss" not in result.baseline:
        return False
    return result.scores["loss"].value >= result.baseline["loss"].value


def print_ensemble_members(folder: Path, console: Console) -> None:
    """Show an ensemble beside its members; nothing for other runs."""
    if not RunFolder(folder).exists(RunFile.MEMBERS):
        return
    from dlrun.report import ensemble_members
    from dlrun.report.result_tables import to_rich_table

    members = ensemble_members.make_members_table(folder)
    if not members:
        return
    table, lines = members
    console.print(to_rich_table(table))
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def record_test_evaluations(config: dict[str, Any], folder: Path) -> None:
    """Store with the run how often the test rows of its data have been evaluated before."""
    from dlrun.evaluation import test_ledger

    run = RunFolder(folder)
    data = run.read_data()
    # Synthetic rows are drawn anew and protect nothing, so they have no entry in the ledger.
    if data["synthetic"]:
        return
    previous = test_ledger.find_previous_entries(
        config["task"]["name"], data["fingerprint"], data.get("test", "")
    )
    entries = [
        {"date": entry.date, "score": entry.score, "reason": entry.reason} for entry in previous
    ]
    run.write_json(RunFile.OPENINGS, {"count": len(previous), "entries": entries})


def compare_with_reference(config: dict[str, Any], results: list[Result]) -> list[str]:
    """Compare a run that reproduces an example of the book with the book's number.

    Args:
        config: The config of the run; `book` holds the section, metric, value and accepted range.
        results: All results of the run.

    Returns:
        One line, or an empty list where the config names no example of the book.
    """
    book = config.get("book")
    if not book:
        return []
    from dlrun.evaluation.protocols.two_stages import drop_first_stages

    reference = f"book §{book['section']}: {book['measure']} {book['figure']}"
    split, _, name = book["measure"].partition("/")
    scored = [result for result in drop_first_stages(results) if result.split == split]
    values = [result.scores[name].value for result in scored if name in result.scores]
    # Synthetic data, or weights other than the book's, make the two numbers incomparable.
    comparable = not any(result.synthetic or result.book_difference for result in results)
    if not values or not comparable:
        return [f"{reference}; nothing here to compare with it"]
    mean = sum(values) / len(values)
    reached = "inside" if book["low"] <= mean <= book["high"] else "OUTSIDE"
    accepted = f"the accepted range {book['low']} to {book['high']}"
    return [f"{reference}; here {mean:.4f}, {reached} {accepted}"]


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
    from dlrun.core.files import create_run_folder

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
    from dlrun.core.files import remove_run_folder

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
    from dlrun.core.run_reader import lock_folder

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
    from dlrun.core.run_reader import lock_folder
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
    from dlrun.launch.progress import ProgressDisplay, RecordingConsole

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
