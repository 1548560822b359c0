"""`dlrun -m`: checks every job that the words ask for, then runs them with a table that grows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compose import ConfigComposer, compose_config
from dlrun.config.override_errors import InvalidOverride, list_dotted_keys, unknown_key_message
from dlrun.config.overrides import missing_option_message
from dlrun.config.parallel_fits import incompatibility
from dlrun.config.parts import get_conf_folders, list_all_groups
from dlrun.config.settings import Sweep, parallel_fits_mode
from dlrun.config.unused_settings import find_unused_settings
from dlrun.config.validation import find_node_errors
from dlrun.core.errors import UserError
from dlrun.core.run_folder import format_command
from dlrun.launch.hydra_launchers import split_launcher_overrides
from dlrun.launch.local_ranks import check_can_prune
from dlrun.launch.run_config import load_plugin_packages
from dlrun.sweeps.conditional import resolve_conditions
from dlrun.sweeps.space import SweepOverrides, expand_search_space
from dlrun.sweeps.study import Axis, GridStudy, Study, get_metric_names, make_combinations

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.sweeps.job import Executor
    from dlrun.sweeps.scheduler import Scheduler
    from dlrun.sweeps.sweep_folder import SweepFolder


# An override that has no effect in so many combinations is reported as unused.
MAX_CHECKED_JOBS = 20
# One of so many combinations must be valid before anything is begun.
MAX_TRIED_JOBS = 200


def find_valid_config(
    space: SweepOverrides, settings: Sweep, composer: ConfigComposer
) -> dict[str, Any]:
    """Return the config of the first job that is valid.

    Args:
        space: The overrides with their axes.
        settings: The settings of the sweep.
        composer: Composes the config of a job.

    Raises:
        UserError: Where no job is, with all errors.
    """
    errors: dict[str, None] = {}
    # Conditions may exclude many combinations, so the first one alone proves nothing.
    for axis_overrides in islice(iter_override_combinations(space.axes, settings), MAX_TRIED_JOBS):
        try:
            return composer(space.get_job_overrides(axis_overrides))
        except UserError as error:
            errors[str(error)] = None
    raise UserError("\n".join(errors))


def find_unused_overrides(
    first: dict[str, Any], space: SweepOverrides, settings: Sweep, composer: ConfigComposer
) -> list[str]:
    """Describe which fixed overrides have no effect in any job, among those that are looked at."""
    unused = find_unused_settings(first, space.fixed, composer.folders)
    combinations = iter_override_combinations(space.axes, settings)
    for axis_overrides in islice(combinations, MAX_CHECKED_JOBS if unused else 0):
        # A combination that is not valid is reported when its turn comes.
        with suppress(UserError):
            config = composer(space.get_job_overrides(axis_overrides))
            job_unused = find_unused_settings(config, space.fixed, composer.folders)
            unused = [text for text in unused if text in job_unused]
    return unused


def check_test_evaluation(first: dict[str, Any], space: SweepOverrides) -> None:
    """Refuse to evaluate the same test rows in every job without a reason.

    The second evaluation would be refused, and the first be spent.

    Raises:
        UserError: In that case.
    """
    # Jobs that differ in these may have different test rows, or a reason of their own.
    varies = {axis.key for axis in space.axes}
    reason = first["reason"] or first["book"] or varies & {"reason", "task", "experiment"}
    if first["test"] and space.axes and first["source"] == "official" and not reason:
        raise UserError(
            'test=true in a sweep evaluates the test split in every job; say why, reason="…"'
        )


def get_sequential_reason(
    first: dict[str, Any], settings: Sweep, launcher: list[str]
) -> str | None:
    """Return why jobs that should be trained as one are not; None where they are, or should not
    be.
    """
    if parallel_fits_mode(first) is not True:
        return None
    if launcher:
        return "a launcher hands each out by itself"
    if settings.limit is not None:
        return "sweep.limit ends each by itself"
    if settings.method != "grid" or settings.prune is not None:
        choice = f"sweep.method={settings.method}, sweep.prune={settings.prune}"
        return f"{choice} ask for one at a time"
    if first["test"]:
        return "test=true evaluates the test split of each by itself"
    return incompatibility(first)


def iter_override_combinations(axes: list[Axis], settings: Sweep) -> Iterator[list[str]]:
    """Yield combinations of values, with each interval's lower end for all of it."""
    finite = []
    for axis in axes:
        if axis.values:
            finite.append(axis)
            continue
        low = str(int(axis.low) if axis.whole else axis.low)
        finite.append(Axis(axis.key, (low,), when=axis.when))
    yield from make_combinations(finite, settings.zip)


def sweep_command(words: list[str], folders: list[Path], flags: list[str]) -> int:
    """Run what is missing of a sweep. A failed job is a row in its table, and the others go on.

    Args:
        words: Overrides; values with commas between them are axes of the sweep.
        folders: The user's config folders, strongest first.
        flags: Words that are no settings (--config-dir …), to be repeated in commands.

    Returns:
        The exit code: 1 if any job failed.
    """
    line = format_command([*flags, "-m", *words])
    words, launcher = split_launcher_overrides(words)
    plugins = load_plugin_packages(words)
    sweep_words = [
        word for word in words if word.partition("=")[0].partition(".")[0] in ("sweep", "space")
    ]
    overrides = [word for word in words if word not in sweep_words]
    space = SweepOverrides(
        [*overrides, *expand_search_spaces(sweep_words, overrides, folders)], folders
    )
    notices = resolve_conditions(space, partial(try_compose, folders=folders))
    settings = parse_sweep_settings(
        [word for word in sweep_words if word.startswith("sweep")], space.fixed, folders
    )
    composer = ConfigComposer(folders, plugins)
    # Errors in the overrides are reported before anything is written.
    first = find_valid_config(space, settings, composer)
    for text in [*notices, *find_unused_overrides(first, space, settings, composer)]:
        print(text)
    check_can_prune(first, settings.prune is not None)
    check_test_evaluation(first, space)
    if reason := get_sequential_reason(first, settings, launcher):
        print(f"protocol.stacked=true: jobs are trained one by one, for {reason}")
    # These import torch: not before all overrides are known to be valid.
    from dlrun.core.files import remove_run_folder
    from dlrun.sweeps.sweep_folder import describe_sweep, open_sweep_folder

    described = describe_sweep([*flags, *space.given.values()], settings)
    folder = open_sweep_folder(
        Path(first["output"]), first["task"]["name"], described, settings.fresh
    )
    # Two dlrun at work on one sweep would run the same jobs.
    with folder.lock():
        try:
            return run_sweep(folder, space, settings, composer, [line, *flags], launcher)
        except UserError:
            # A sweep that was refused before its first job leaves no folder behind.
            if not folder.entries:
                remove_run_folder(folder.path)
            raise


def expand_search_spaces(
    sweep_words: list[str], overrides: list[str], folders: list[Path]
) -> list[str]:
    """Expand the named search spaces to overrides, except for keys that the command line sets.

    Args:
        sweep_words: The words for sweep and space.
        overrides: The other words.
        folders: The user's config folders, strongest first.

    Raises:
        UserError: For a word that names no space.
    """
    space_lists = [
        word.partition("=")[2].strip("[]") for word in sweep_words if word.startswith("space=")
    ]
    spaces = [word for word in sweep_words if word.startswith("space")]
    unknown = [word for word in spaces if not word.startswith("space=")]
    if unknown:
        raise UserError(
            f"{unknown[0]}: name a space, such as space=dense; its keys are set by their own names"
        )
    names = [name.strip() for text in space_lists for name in text.split(",")]
    names = [name for name in names if name not in ("", "null")]
    overridden = {word.partition("=")[0].lstrip("+~") for word in overrides}
    return [
        word
        for word in expand_search_space(names, folders)
        if word.partition("=")[0].lstrip("+~") not in overridden
    ]


def parse_sweep_settings(sweep_words: list[str], fixed: list[str], folders: list[Path]) -> Sweep:
    """Compose the settings of the sweep.

    Args:
        sweep_words: The words for it.
        fixed: Overrides that are the same in every job.
        folders: The user's config folders, strongest first.

    Raises:
        UserError: For settings that do not exist or are not allowed.
    """
    overrides = [word.lstrip("+") for word in sweep_words]
    groups = list_all_groups(get_conf_folders(folders))
    named = [word.partition("=")[2] for word in overrides if word.startswith("sweep=")]
    if errors := [
        missing_option_message("sweep", name, groups)
        for name in named
        if name not in groups["sweep"]
    ]:
        raise UserError("\n".join(errors))
    # An error in the fixed overrides is reported with the first job; the settings can do without.
    config = try_compose([*fixed, *overrides], folders) or try_compose(overrides, folders)
    if config is None:
        raise UserError(describe_invalid_override(overrides, folders))
    node = config.get("sweep")
    if errors := list(find_node_errors(node, "sweep", "sweep", ())):
        raise UserError("\n".join(errors))
    settings = Sweep(**{key: value for key, value in dict(node or {}).items() if key != "_target_"})
    if settings.zip and settings.method != "grid":
        raise UserError(
            f"sweep.zip pairs the lists of a grid; sweep.method={settings.method} draws each key "
            "by itself"
        )
    return settings


def try_compose(words: list[str], folders: list[Path]) -> dict[str, Any] | None:
    """Compose the config of these words; None where one of them is wrong."""
    try:
        return compose_config(words, folders)
    except InvalidOverride:
        return None


def describe_invalid_override(words: list[str], folders: list[Path]) -> str:
    """Describe what is wrong with words of which one is."""
    for word in words:
        try:
            compose_config([word], folders)
        except InvalidOverride as error:
            if not error.key:
                return error.text
            return unknown_key_message(error.key, list_dotted_keys(compose_config([], folders)))
    return f"these make no sense together: {' '.join(words)}"


def create_study(axes: list[Axis], settings: Sweep, folder: Path) -> tuple[Study, int | None]:
    """Create the study that names the jobs.

    Returns:
        The study, and the number of jobs, where it is known.
    """
    if settings.method == "grid" and settings.prune is None:
        grid = GridStudy(axes, settings.zip, settings.trials, get_metric_names(settings))
        return grid, len(grid.left)
    from dlrun.sweeps.optuna_study import SearchStudy

    return SearchStudy(axes, settings, folder), settings.trials


def run_sweep(
    folder: SweepFolder,
    overrides: SweepOverrides,
    settings: Sweep,
    composer: ConfigComposer,
    resume_command: list[str],
    launcher: list[str],
) -> int:
    """Run what is missing, and print the results.

    Args:
        folder: The folder of the sweep.
        overrides: The overrides with their axes.
        settings: The settings of the sweep.
        composer: Composes the config of a job.
        resume_command: The command that resumes the sweep, and its flags.
        launcher: The words for a launcher that is not dlrun's.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from dlrun.cli.sweep_output import SweepDisplay
    from dlrun.sweeps.scheduler import Scheduler

    console = Console(highlight=False)
    line, *flags = resume_command
    study, total = create_study(overrides.axes, settings, folder.path)
    in_other_processes = needs_worker_processes(settings) or bool(launcher)
    display = SweepDisplay(folder.path, console, total, in_other_processes)
    # Jobs are trained as one only where none depends on the results of another.
    one_by_one = (
        launcher
        or settings.limit is not None
        or study.supports_pruning
        or not isinstance(study, GridStudy)
    )
    stacks = 0 if one_by_one else settings.jobs
    scheduler = Scheduler(
        folder, study, composer, overrides.get_job_overrides, display, stacks=stacks
    )
    report_existing_jobs(scheduler, settings.retry, console)
    stop_rule = scheduler.should_prune if study.supports_pruning else None
    code = scheduler.run(create_executor(settings, launcher, composer, folder.path, stop_rule))
    if folder.entries:
        display.close(flags, stopped=code > 1)
    if code > 1:
        console.print(
            f"stopped; what has run is kept, and the same command goes on: {line}", soft_wrap=True
        )
    return code


def report_existing_jobs(scheduler: Scheduler, retry: bool, console: Console) -> None:
    """Take over the jobs of earlier starts, and report how many there are."""
    num_jobs, num_resumed = scheduler.restore_jobs(retry)
    if num_jobs:
        details = f", {num_resumed} of them to be gone on with" if num_resumed else ""
        statuses = [entry["status"] for entry in scheduler.folder.entries.values()]
        num_failed = 0 if retry else statuses.count("failed")
        if num_failed:
            details += f", {num_failed} of them failed (sweep.retry=true does these again)"
        notice = f"this sweep is there, with {num_jobs} jobs{details}: {scheduler.folder.path}"
        console.print(notice, soft_wrap=True)
    if scheduler.unknown:
        keys = ", ".join(sorted(scheduler.unknown))
        notice = f"they are of an older dlrun, which did not know {keys}, and count as they are"
        console.print(notice, soft_wrap=True)


def needs_worker_processes(settings: Sweep) -> bool:
    """Return whether jobs need processes of their own: several at a time, a time limit, or
    devices.
    """
    return settings.jobs > 1 or settings.limit is not None or settings.devices is not None


def create_executor(
    settings: Sweep, launcher: list[str], composer: ConfigComposer, folder: Path, stop_rule: Any
) -> Executor:
    """Create the executor of the jobs: another launcher, worker processes, or this process."""
    if launcher:
        from dlrun.launch.hydra_launchers import HydraExecutor

        return HydraExecutor(launcher, composer.folders, composer.plugins, folder, settings)
    if needs_worker_processes(settings):
        from dlrun.sweeps.worker_pool import WorkerPool

        return WorkerPool(settings, composer.plugins, folder, stop_rule)
    from dlrun.launch.sweep_job import InProcessExecutor

    return InProcessExecutor(composer.plugins, stop_rule)
