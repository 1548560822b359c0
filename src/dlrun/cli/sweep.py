"""`dlrun -m`: every job that the words ask for, in one process or several, with a table that is true after each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.config.compose import BadWord, Composer, compose, keys, unknown_key
from dlrun.config.early_check import preview
from dlrun.config.groups import all_folders, all_groups
from dlrun.config.overrides import missing_option
from dlrun.config.parallel_fits import asked, fault
from dlrun.config.settings import Sweep
from dlrun.config.unused_settings import notes
from dlrun.config.validation import node_faults
from dlrun.core.errors import Refused
from dlrun.launch.hydra_launchers import Launched, split
from dlrun.launch.local_ranks import must_be_seen
from dlrun.launch.run_config import command, named_plugins
from dlrun.sweeps.conditional import settle
from dlrun.sweeps.space import Words, space_words
from dlrun.sweeps.study import Axis, Grid, Study, combinations, measures_of

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.sweeps.scheduler import Crew, Loop
    from dlrun.sweeps.sweep_folder import SweepFolder


LOOKED_AT = 20  # combinations among which a word must do nothing, to be said to do nothing
TRIED = 200  # combinations of which one must make sense before anything is begun


def sweep(words: list[str], folders: list[Path], flags: list[str]) -> int:
    """Run what is missing of a sweep. A job that fails is a line in its table, and the others go on.

    flags: words that are no settings (--config-dir …), to be repeated in commands. Answers with 1 if any job failed.
    """
    line = command([*flags, "-m", *words])
    words, launcher = split(words)
    plugins = named_plugins(words)
    own = [word for word in words if word.partition("=")[0].partition(".")[0] in ("sweep", "space")]
    rest = [word for word in words if word not in own]
    given = Words([*rest, *spaces(own, rest, folders)], folders)
    told = settle(given, partial(composed, folders=folders))
    settings = settings_of([word for word in own if word.startswith("sweep")], given.fixed, folders)
    composer = Composer(folders, plugins)
    first = sensible(given, settings, composer)
    for text in [*told, *in_vain(first, given, settings, composer)]:
        print(text)
    must_be_seen(first, settings.prune is not None)
    may_open(first, given)
    if reason := one_by_one(first, settings, launcher):
        print(f"protocol.stacked=true: jobs are trained one by one, for {reason}")
    from dlrun.core.run_folder import discard  # imports torch: not before all is known to make sense
    from dlrun.sweeps.sweep_folder import description, opened

    described = description([*flags, *given.given.values()], settings)
    folder = opened(Path(first["output"]), first["task"]["name"], described, settings.fresh)
    with folder.lock():
        try:
            return carried_out(folder, given, settings, composer, [line, *flags], launcher)
        except Refused:
            if not folder.entries:
                discard(folder.path)
            raise


def spaces(own: list[str], rest: list[str], folders: list[Path]) -> list[str]:
    """The words of the spaces that are named, but for keys that the command line sets itself."""
    named = [word.partition("=")[2].strip("[]") for word in own if word.startswith("space=")]
    if wrong := [word for word in own if word.startswith("space") and not word.startswith("space=")]:
        raise Refused(f"{wrong[0]}: name a space, such as space=dense; its keys are set by their own names")
    names = [name.strip() for text in named for name in text.split(",") if name.strip() not in ("", "null")]
    said = {word.partition("=")[0].lstrip("+~") for word in rest}
    return [word for word in space_words(names, folders) if word.partition("=")[0].lstrip("+~") not in said]


def settings_of(own: list[str], fixed: list[str], folders: list[Path]) -> Sweep:
    """How the sweep is carried out. Raises Refused for settings that are not there or not allowed."""
    alone = [word.lstrip("+") for word in own]
    there = all_groups(all_folders(folders))
    named = [word.partition("=")[2] for word in alone if word.startswith("sweep=")]
    if faults := [missing_option("sweep", name, there) for name in named if name not in there["sweep"]]:
        raise Refused("\n".join(faults))
    config = composed([*fixed, *alone], folders) or composed(alone, folders)
    if config is None:
        raise Refused(wrong_word(alone, folders))
    node = config.get("sweep")
    if faults := list(node_faults(node, "sweep", "sweep", ())):
        raise Refused("\n".join(faults))
    settings = Sweep(**{key: value for key, value in dict(node or {}).items() if key != "_target_"})
    if settings.zip and settings.method != "grid":
        raise Refused(f"sweep.zip pairs the lists of a grid; sweep.method={settings.method} draws each key by itself")
    return settings


def composed(words: list[str], folders: list[Path]) -> dict[str, Any] | None:
    """The config of these words; None where one of them is wrong."""
    if early := preview(words, folders):
        return None if early[1] else early[0]
    try:
        return compose(words, folders)
    except BadWord:
        return None


def wrong_word(words: list[str], folders: list[Path]) -> str:
    """What is wrong with words of which one is."""
    for word in words:
        try:
            compose([word], folders)
        except BadWord as bad:
            return unknown_key(bad.key, keys(compose([], folders))) if bad.key else bad.text
    return f"these make no sense together: {' '.join(words)}"


def sensible(given: Words, settings: Sweep, composer: Composer) -> dict[str, Any]:
    """The config of the first job that makes sense. Raises Refused with what is wrong in them where none does."""
    faults: dict[str, None] = {}
    for own in islice(tried(given.axes, settings), TRIED):
        try:
            return composer(given.job(own))
        except Refused as error:
            faults[str(error)] = None
    raise Refused("\n".join(faults))


def in_vain(first: dict[str, Any], given: Words, settings: Sweep, composer: Composer) -> list[str]:
    """What the words of all jobs ask for in vain in every job, as far as jobs are looked at."""
    found = notes(first, given.fixed, composer.folders)
    for own in islice(tried(given.axes, settings), LOOKED_AT if found else 0):
        with suppress(Refused):
            there = notes(composer(given.job(own)), given.fixed, composer.folders)
            found = [text for text in found if text in there]
    return found


def may_open(first: dict[str, Any], given: Words) -> None:
    """Refuse to open the same test rows in every job for no reason: the second would be refused, the first be spent."""
    varies = {axis.key for axis in given.axes}
    said = first["reason"] or first["book"] or varies & {"reason", "task", "experiment"}
    if first["test"] and given.axes and first["source"] == "official" and not said:
        raise Refused('test=true in a sweep opens the test rows in every job; say why, reason="…"')


def one_by_one(first: dict[str, Any], settings: Sweep, launcher: list[str]) -> str | None:
    """Why jobs that are to be trained as one are not; None where they are, or are not to be."""
    against = {
        "a launcher hands each out by itself": bool(launcher),
        "sweep.limit ends each by itself": settings.limit is not None,
        f"sweep.method={settings.method}, sweep.prune={settings.prune} ask for one at a time": settings.method != "grid"
        or settings.prune is not None,
        "test=true opens the test rows for each by itself": bool(first["test"]),
    }
    told = next((reason for reason, holds in against.items() if holds), None) or fault(first)
    return told if asked(first) is True else None


def tried(axes: list[Axis], settings: Sweep) -> Iterator[list[str]]:
    """Combinations of what there is to try, with each interval's lower end for all of it."""
    low = lambda axis: str(int(axis.low) if axis.whole else axis.low)  # noqa: E731
    ends = [axis if axis.values else Axis(axis.key, (low(axis),), when=axis.when) for axis in axes]
    yield from combinations(ends, settings.zip)


def study_of(axes: list[Axis], settings: Sweep, folder: Path) -> tuple[Study, int | None]:
    """What names the jobs, and how many there will be. Raises Refused."""
    if settings.method == "grid" and settings.prune is None:
        grid = Grid(axes, settings.zip, settings.trials, measures_of(settings))
        return grid, len(grid.left)
    from dlrun.sweeps.optuna_study import Search

    return Search(axes, settings, folder), settings.trials


def carried_out(
    folder: SweepFolder, given: Words, settings: Sweep, composer: Composer, again: list[str], launcher: list[str]
) -> int:
    """Run what is missing, and show what came of it all. again: the command that goes on, and its flags.

    launcher: words for a launcher that is not ours.
    """
    from rich.console import Console

    from dlrun.cli.sweep_output import Shown
    from dlrun.sweeps.scheduler import Loop

    console, (line, *flags) = Console(highlight=False), again
    study, total = study_of(given.axes, settings, folder.path)
    show = Shown(folder.path, console, total, beside=elsewhere(settings) or bool(launcher))
    apart = launcher or settings.limit is not None or study.prunes or not isinstance(study, Grid)  # each job by itself
    loop = Loop(folder, study, composer, given.job, show, stacks=0 if apart else settings.jobs)
    tell_what_is_there(loop, settings.retry, console)
    judge = loop.prune if study.prunes else None
    code = loop.run(crew_of(settings, launcher, composer, folder.path, judge))
    if folder.entries:
        show.close(flags, stopped=code > 1)
    if code > 1:
        console.print(f"stopped; what has run is kept, and the same command goes on: {line}", soft_wrap=True)
    return code


def tell_what_is_there(loop: Loop, retry: bool, console: Console) -> None:
    """Take in the jobs of earlier starts, and say how many there are, and what an older dlrun did not know of them."""
    there, further = loop.recall(retry)
    if there:
        on = f", {further} of them to be gone on with" if further else ""
        failed = 0 if retry else sum(entry["status"] == "failed" for entry in loop.folder.entries.values())
        on += f", {failed} of them failed (sweep.retry=true does these again)" if failed else ""
        console.print(f"this sweep is there, with {there} jobs{on}: {loop.folder.path}", soft_wrap=True)
    if loop.unknown:
        told = (
            f"they are of an older dlrun, which did not know {', '.join(sorted(loop.unknown))}, and count as they are"
        )
        console.print(told, soft_wrap=True)


def elsewhere(settings: Sweep) -> bool:
    """Whether jobs need processes of their own: several at a time, ones that can be killed, or devices of their own."""
    return settings.jobs > 1 or settings.limit is not None or settings.devices is not None


def crew_of(settings: Sweep, launcher: list[str], composer: Composer, folder: Path, judge: Any) -> Crew:
    """Who carries the jobs out: a launcher that is not ours, processes of ours, or this one."""
    from dlrun.launch.sweep_job import Alone
    from dlrun.sweeps.worker_pool import Pool

    if launcher:
        return Launched(launcher, composer.folders, composer.plugins, folder, settings)
    return Pool(settings, composer.plugins, folder, judge) if elsewhere(settings) else Alone(composer.plugins, judge)
