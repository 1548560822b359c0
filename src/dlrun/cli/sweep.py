"""`dlrun -m`: every job that the words ask for, in one process or several, with a table that is true after each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compose import (
    ConfigComposer,
    InvalidOverride,
    compose_config,
    list_dotted_keys,
    unknown_key_message,
)
from dlrun.config.early_check import compose_without_hydra
from dlrun.config.groups import get_conf_folders, list_all_groups
from dlrun.config.overrides import missing_option_message
from dlrun.config.parallel_fits import incompatibility, parallel_fits_mode
from dlrun.config.settings import Sweep
from dlrun.config.unused_settings import find_unused_settings
from dlrun.config.validation import find_node_errors
from dlrun.core.errors import UserError
from dlrun.launch.hydra_launchers import HydraExecutor, split_launcher_overrides
from dlrun.launch.local_ranks import check_can_prune
from dlrun.launch.run_config import format_command, load_plugin_packages
from dlrun.sweeps.conditional import resolve_conditions
from dlrun.sweeps.space import SweepOverrides, expand_search_space
from dlrun.sweeps.study import Axis, GridStudy, Study, get_metric_names, make_combinations

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.sweeps.scheduler import Executor, Scheduler
    from dlrun.sweeps.sweep_folder import SweepFolder


MAX_CHECKED_JOBS = 20  # combinations among which a word must do nothing, to be said to do nothing
MAX_TRIED_JOBS = 200  # combinations of which one must make sense before anything is begun


def sweep_command(words: list[str], folders: list[Path], flags: list[str]) -> int:
    """Run what is missing of a sweep. A job that fails is a line in its table, and the others go on.

    flags: words that are no settings (--config-dir …), to be repeated in commands. Answers with 1 if any job failed.
    """
    line = format_command([*flags, "-m", *words])
    words, launcher = split_launcher_overrides(words)
    plugins = load_plugin_packages(words)
    own = [word for word in words if word.partition("=")[0].partition(".")[0] in ("sweep", "space")]
    rest = [word for word in words if word not in own]
    given = SweepOverrides([*rest, *expand_search_spaces(own, rest, folders)], folders)
    told = resolve_conditions(given, partial(try_compose, folders=folders))
    settings = parse_sweep_settings(
        [word for word in own if word.startswith("sweep")], given.fixed, folders
    )
    composer = ConfigComposer(folders, plugins)
    first = find_valid_config(given, settings, composer)
    for text in [*told, *find_unused_overrides(first, given, settings, composer)]:
        print(text)
    check_can_prune(first, settings.prune is not None)
    check_test_evaluation(first, given)
    if reason := get_sequential_reason(first, settings, launcher):
        print(f"protocol.stacked=true: jobs are trained one by one, for {reason}")
    from dlrun.core.run_folder import (
        remove_run_folder,
    )  # imports torch: not before all is known to make sense
    from dlrun.sweeps.sweep_folder import describe_sweep, open_sweep_folder

    described = describe_sweep([*flags, *given.given.values()], settings)
    folder = open_sweep_folder(
        Path(first["output"]), first["task"]["name"], described, settings.fresh
    )
    with folder.lock():
        try:
            return run_sweep(folder, given, settings, composer, [line, *flags], launcher)
        except UserError:
            if not folder.entries:
                remove_run_folder(folder.path)
            raise


def expand_search_spaces(own: list[str], rest: list[str], folders: list[Path]) -> list[str]:
    """The words of the spaces that are named, but for keys that the command line sets itself."""
    named = [word.partition("=")[2].strip("[]") for word in own if word.startswith("space=")]
    if wrong := [
        word for word in own if word.startswith("space") and not word.startswith("space=")
    ]:
        raise UserError(
            f"{wrong[0]}: name a space, such as space=dense; its keys are set by their own names"
        )
    names = [
        name.strip()
        for text in named
        for name in text.split(",")
        if name.strip() not in ("", "null")
    ]
    said = {word.partition("=")[0].lstrip("+~") for word in rest}
    return [
        word
        for word in expand_search_space(names, folders)
        if word.partition("=")[0].lstrip("+~") not in said
    ]


def parse_sweep_settings(own: list[str], fixed: list[str], folders: list[Path]) -> Sweep:
    """How the sweep is carried out. Raises UserError for settings that are not there or not allowed."""
    alone = [word.lstrip("+") for word in own]
    there = list_all_groups(get_conf_folders(folders))
    named = [word.partition("=")[2] for word in alone if word.startswith("sweep=")]
    if faults := [
        missing_option_message("sweep", name, there) for name in named if name not in there["sweep"]
    ]:
        raise UserError("\n".join(faults))
    config = try_compose([*fixed, *alone], folders) or try_compose(alone, folders)
    if config is None:
        raise UserError(describe_invalid_override(alone, folders))
    node = config.get("sweep")
    if faults := list(find_node_errors(node, "sweep", "sweep", ())):
        raise UserError("\n".join(faults))
    settings = Sweep(**{key: value for key, value in dict(node or {}).items() if key != "_target_"})
    if settings.zip and settings.method != "grid":
        raise UserError(
            f"sweep.zip pairs the lists of a grid; sweep.method={settings.method} draws each key by itself"
        )
    return settings


def try_compose(words: list[str], folders: list[Path]) -> dict[str, Any] | None:
    """The config of these words; None where one of them is wrong."""
    if early := compose_without_hydra(words, folders):
        return None if early[1] else early[0]
    try:
        return compose_config(words, folders)
    except InvalidOverride:
        return None


def describe_invalid_override(words: list[str], folders: list[Path]) -> str:
    """What is wrong with words of which one is."""
    for word in words:
        try:
            compose_config([word], folders)
        except InvalidOverride as bad:
            return (
                unknown_key_message(bad.key, list_dotted_keys(compose_config([], folders)))
                if bad.key
                else bad.text
            )
    return f"these make no sense together: {' '.join(words)}"


def find_valid_config(
    given: SweepOverrides, settings: Sweep, composer: ConfigComposer
) -> dict[str, Any]:
    """The config of the first job that makes sense. Raises UserError with what is wrong in them where none does."""
    faults: dict[str, None] = {}
    for own in islice(iter_override_combinations(given.axes, settings), MAX_TRIED_JOBS):
        try:
            return composer(given.get_job_overrides(own))
        except UserError as error:
            faults[str(error)] = None
    raise UserError("\n".join(faults))


def find_unused_overrides(
    first: dict[str, Any], given: SweepOverrides, settings: Sweep, composer: ConfigComposer
) -> list[str]:
    """What the words of all jobs ask for in vain in every job, as far as jobs are looked at."""
    found = find_unused_settings(first, given.fixed, composer.folders)
    for own in islice(
        iter_override_combinations(given.axes, settings), MAX_CHECKED_JOBS if found else 0
    ):
        with suppress(UserError):
            there = find_unused_settings(
                composer(given.get_job_overrides(own)), given.fixed, composer.folders
            )
            found = [text for text in found if text in there]
    return found


def check_test_evaluation(first: dict[str, Any], given: SweepOverrides) -> None:
    """Refuse to open the same test rows in every job for no reason: the second would be refused, the first be spent."""
    varies = {axis.key for axis in given.axes}
    said = first["reason"] or first["book"] or varies & {"reason", "task", "experiment"}
    if first["test"] and given.axes and first["source"] == "official" and not said:
        raise UserError(
            'test=true in a sweep opens the test rows in every job; say why, reason="…"'
        )


def get_sequential_reason(
    first: dict[str, Any], settings: Sweep, launcher: list[str]
) -> str | None:
    """Why jobs that are to be trained as one are not; None where they are, or are not to be."""
    against = {
        "a launcher hands each out by itself": bool(launcher),
        "sweep.limit ends each by itself": settings.limit is not None,
        f"sweep.method={settings.method}, sweep.prune={settings.prune} ask for one at a time": settings.method
        != "grid"
        or settings.prune is not None,
        "test=true opens the test rows for each by itself": bool(first["test"]),
    }
    told = next((reason for reason, holds in against.items() if holds), None) or incompatibility(
        first
    )
    return told if parallel_fits_mode(first) is True else None


def iter_override_combinations(axes: list[Axis], settings: Sweep) -> Iterator[list[str]]:
    """Combinations of what there is to try, with each interval's lower end for all of it."""
    low = lambda axis: str(int(axis.low) if axis.whole else axis.low)  # noqa: E731
    ends = [axis if axis.values else Axis(axis.key, (low(axis),), when=axis.when) for axis in axes]
    yield from make_combinations(ends, settings.zip)


def create_study(axes: list[Axis], settings: Sweep, folder: Path) -> tuple[Study, int | None]:
    """What names the jobs, and how many there will be. Raises UserError."""
    if settings.method == "grid" and settings.prune is None:
        grid = GridStudy(axes, settings.zip, settings.trials, get_metric_names(settings))
        return grid, len(grid.left)
    from dlrun.sweeps.optuna_study import SearchStudy

    return SearchStudy(axes, settings, folder), settings.trials


def run_sweep(
    folder: SweepFolder,
    given: SweepOverrides,
    settings: Sweep,
    composer: ConfigComposer,
    again: list[str],
    launcher: list[str],
) -> int:
    """Run what is missing, and show what came of it all. again: the command that goes on, and its flags.

    launcher: words for a launcher that is not ours.
    """
    from rich.console import Console

    from dlrun.cli.sweep_output import SweepDisplay
    from dlrun.sweeps.scheduler import Scheduler

    console, (line, *flags) = Console(highlight=False), again
    study, total = create_study(given.axes, settings, folder.path)
    show = SweepDisplay(
        folder.path, console, total, beside=needs_worker_processes(settings) or bool(launcher)
    )
    apart = (
        launcher
        or settings.limit is not None
        or study.supports_pruning
        or not isinstance(study, GridStudy)
    )  # each job by itself
    loop = Scheduler(
        folder, study, composer, given.get_job_overrides, show, stacks=0 if apart else settings.jobs
    )
    report_existing_jobs(loop, settings.retry, console)
    judge = loop.should_prune if study.supports_pruning else None
    code = loop.run(create_executor(settings, launcher, composer, folder.path, judge))
    if folder.entries:
        show.close(flags, stopped=code > 1)
    if code > 1:
        console.print(
            f"stopped; what has run is kept, and the same command goes on: {line}", soft_wrap=True
        )
    return code


def report_existing_jobs(loop: Scheduler, retry: bool, console: Console) -> None:
    """Take in the jobs of earlier starts, and say how many there are, and what an older dlrun did not know of them."""
    there, further = loop.restore_jobs(retry)
    if there:
        on = f", {further} of them to be gone on with" if further else ""
        failed = (
            0
            if retry
            else sum(entry["status"] == "failed" for entry in loop.folder.entries.values())
        )
        on += f", {failed} of them failed (sweep.retry=true does these again)" if failed else ""
        console.print(
            f"this sweep is there, with {there} jobs{on}: {loop.folder.path}", soft_wrap=True
        )
    if loop.unknown:
        told = f"they are of an older dlrun, which did not know {', '.join(sorted(loop.unknown))}, and count as they are"
        console.print(told, soft_wrap=True)


def needs_worker_processes(settings: Sweep) -> bool:
    """Whether jobs need processes of their own: several at a time, ones that can be killed, or devices of their own."""
    return settings.jobs > 1 or settings.limit is not None or settings.devices is not None


def create_executor(
    settings: Sweep, launcher: list[str], composer: ConfigComposer, folder: Path, judge: Any
) -> Executor:
    """Who carries the jobs out: a launcher that is not ours, processes of ours, or this one."""
    from dlrun.launch.sweep_job import InProcessExecutor
    from dlrun.sweeps.worker_pool import WorkerPool

    if launcher:
        return HydraExecutor(launcher, composer.folders, composer.plugins, folder, settings)
    return (
        WorkerPool(settings, composer.plugins, folder, judge)
        if needs_worker_processes(settings)
        else InProcessExecutor(composer.plugins, judge)
    )
