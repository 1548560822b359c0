"""Commands on a run that is there: `dlrun resume`, `dlrun rerun`, `dlrun evaluate`."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from dlrun.cli.run_argument import change, only, opened
from dlrun.config.compose import configure
from dlrun.config.overrides import user_folders
from dlrun.config.validation import check
from dlrun.core import stored_files
from dlrun.core.errors import Damaged, Refused
from dlrun.core.folder_lock import at_work
from dlrun.launch.run_config import go, make_folder, named_plugins, start
from dlrun.launch.run_log import logging_to

log = logging.getLogger("dlrun")

RESUMED = ("workflow.budget", "engine.device", "engine.devices", "engine.save_every", "reason")


def resume(words: list[str]) -> int:
    """Go on with a run in its own folder, as if it had never stopped; with other settings, which are kept."""
    with at_work(opened(words, "resume")[0]):
        return gone_on_with(*opened(words, "resume"), words[0])


def gone_on_with(folder: Path, config: dict[str, Any], rest: list[str], name: str) -> int:
    """What `resume` does while no other dlrun is at work on the run. name: of the folder, as it was typed."""
    from dlrun.core.run_reader import flat

    plugins, before = named_plugins(rest), flat(config)
    words = [word for word in rest if not word.startswith("plugins=")]
    if "workflow" in config:
        only(words, RESUMED, "a workflow goes on as it began; dlrun rerun begins one with other settings")
    change(config, words)
    check(config, plugins)
    changes = {key: value for key, value in flat(config).items() if before.get(key) != value}
    if not changes:
        return go(config, folder, plugins)[0]
    again = f"a new run with them: dlrun rerun {name} {' '.join(words)}"
    if "workflow" in config and workflow_ended(folder):
        raise Refused(f"{folder} is finished and takes no other settings; {again}")
    with changed(folder, config, {key: [before.get(key), value] for key, value in changes.items()}, again, plugins):
        return go(config, folder, plugins)[0]


@contextmanager
def changed(
    folder: Path, config: dict[str, Any], changes: dict[str, Any], again: str, plugins: tuple[str, ...]
) -> Iterator[None]:
    """Inside, the run has these settings: dotted key → [before, now]. What is refused puts those before back."""
    import yaml

    from dlrun.core.changed_settings import noted
    from dlrun.core.run_folder import RunDir
    from dlrun.evaluation.protocols.two_stages import plan_of
    from dlrun.launch import resuming

    run, plan = RunDir(folder), None if "workflow" in config else plan_of(config, plugins)
    jobs = resuming.jobs_of(plan) if plan else []
    begun = resuming.begun_fits(run, jobs, config)
    if plan:
        resuming.check_changes(changes, begun, jobs, again)
    over = plan is not None and plan([result for result in run.results() if result.split != "test"]) is None
    longer = over and resuming.go_on(changes, begun, config)
    if over and not longer and "test" not in changes:
        raise Refused(f"{folder} is finished, and nothing is left to train with these settings; {again}")
    if longer and config["test"] and "test" not in changes:
        config["test"] = False
        log.warning("the test rows are not opened again; dlrun evaluate %s test=true reason=… opens them", folder)
    with ExitStack() as taken_back:
        taken_back.enter_context(kept(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False)))
        taken_back.enter_context(noted(folder, {fit.job.name: fit.state for fit in begun}, changes))
        if longer:
            taken_back.enter_context(resuming.reopened(run, begun))
        yield


@contextmanager
def kept(path: Path, text: str) -> Iterator[None]:
    """Write a changed config; inside, what is refused puts the one before back."""
    from dlrun.core.files import write_text

    before = path.read_text(encoding="utf-8")
    write_text(path, text)
    try:
        yield
    except Refused:
        write_text(path, before)
        raise


def workflow_ended(folder: Path) -> bool:
    """Whether a workflow has come to its end."""
    from dlrun.core.run_folder import RunDir

    return any(entry["step"] == 7 or entry["stopped"] for entry in RunDir(folder).read_json("workflow.json") or [])


def rerun(words: list[str]) -> int:
    """Do a run again in a new folder: exactly, or with other settings on top of its words."""
    folder, config, rest = opened(words, "rerun")
    plugins = named_plugins(rest)
    at_home(config, folder, rest)
    before = words_of(folder)
    if before[:1] == ["workflow"]:
        from dlrun.cli.workflow import workflow

        return workflow([*without(before[1:], rest), *rest], lambda config: at_home(config, folder, rest))
    if rest:
        folders, more = user_folders(rest)
        config = configure([*without(before, more), *more], folders, plugins)
        at_home(config, folder, rest)  # which the kept words may say otherwise
    check(config, plugins)
    new = make_folder(config)
    code = start(config, [*without(before, rest), *rest], new, plugins)
    if code == 0 and all(word.startswith(("plugins=", "output=")) for word in rest):
        from dlrun.cli.reproduction import verdict

        print(verdict(folder, new))
    return code


def at_home(config: dict[str, Any], folder: Path, words: list[str]) -> None:
    """Raise Refused where a run would be done again in a place that its folder alone names."""
    output = Path(str(config.get("output")))
    said = any(word.startswith("output=") for word in words)
    inside = not output.is_absolute() and ".." not in output.parts
    if not said and not inside and output.absolute() not in folder.parents:
        raise Refused(f"{folder} says output={output}, and does not lie there: say where the new run goes: output=…")


def words_of(folder: Path) -> list[str]:
    """The words that a run began with. Raises Refused where they are not kept."""
    try:
        words = shlex.split(stored_files.command(folder))[1:]
    except ValueError as error:
        raise Damaged(f"{folder / 'command.txt'} is damaged: {error}") from error
    return trusted(words, folder)


def trusted(words: list[str], folder: Path) -> list[str]:
    """Kept words without those that are for the command line alone: which packages may be run. Says so."""
    packages = [word for word in words if word.lstrip("+").startswith("plugins=")]
    for word in packages:
        log.warning("%s: not taken from %s, for it runs code; where you trust it, type it again", word, folder)
    return [word for word in words if word not in packages]


def without(words: list[str], newer: list[str]) -> list[str]:
    """The words whose keys are not set again by newer ones."""
    again = {word.partition("=")[0].lstrip("+~") for word in newer}
    return [word for word in words if word.partition("=")[0].lstrip("+~") not in again]


def evaluate(words: list[str]) -> int:
    """Score a finished run's checkpoint on its validation rows, or with test=true on the test rows (recorded)."""
    folder, config, rest = opened(words, "evaluate")
    if "workflow" in config:
        raise Refused(
            f"{folder} is a workflow: its scores are in its report, and dlrun final {words[0]} tests its winner"
        )
    plugins = named_plugins(rest)
    config["reason"] = ""  # a reason is given for each opening anew
    name = next((word.partition("=")[2] for word in rest if word.startswith("checkpoint=")), "")
    if name not in ("", "best", "last"):
        raise Refused(f"checkpoint={name}: it must be best or last")
    change(config, [word for word in rest if not word.startswith(("checkpoint=", "plugins="))])
    check(config, plugins)
    from dlrun.core.run_folder import result_line
    from dlrun.experiment.runner import Experiment
    from dlrun.launch.console import Shown
    from dlrun.report.result_tables import rich_table, summaries

    console = Shown()
    with at_work(folder) if config["test"] else nullcontext(), logging_to(folder, console):
        results = Experiment(config, folder, plugins).evaluated(name)
        console.print(*map(rich_table, summaries([result_line(result) for result in results], config)))
    return 0
