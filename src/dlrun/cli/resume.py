"""Commands on a run that is there: `dlrun resume`, `dlrun rerun`, `dlrun evaluate`."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from dlrun.cli.run_argument import check_allowed_keys, parse_run_argument, set_config_keys
from dlrun.config.compose import configure
from dlrun.config.overrides import split_config_folders
from dlrun.config.validation import validate_config
from dlrun.core import stored_files
from dlrun.core.errors import CorruptedFileError, UserError
from dlrun.core.folder_lock import lock_folder
from dlrun.launch.run_config import execute_run, load_plugin_packages, make_run_folder, start_run
from dlrun.launch.run_log import log_to_folder

log = logging.getLogger("dlrun")

WORKFLOW_RESUME_KEYS = (
    "workflow.budget",
    "engine.device",
    "engine.devices",
    "engine.save_every",
    "reason",
)


def resume_command(words: list[str]) -> int:
    """Go on with a run in its own folder, as if it had never stopped; with other settings, which are kept."""
    with lock_folder(parse_run_argument(words, "resume")[0]):
        return resume_run(*parse_run_argument(words, "resume"), words[0])


def resume_run(folder: Path, config: dict[str, Any], rest: list[str], name: str) -> int:
    """What `resume_command` does while no other dlrun is at work on the run. name: of the folder, as it was typed."""
    from dlrun.core.run_reader import flatten_config

    plugins, before = load_plugin_packages(rest), flatten_config(config)
    words = [word for word in rest if not word.startswith("plugins=")]
    if "workflow" in config:
        check_allowed_keys(
            words,
            WORKFLOW_RESUME_KEYS,
            "a workflow goes on as it began; dlrun rerun begins one with other settings",
        )
    set_config_keys(config, words)
    validate_config(config, plugins)
    changes = {
        key: value for key, value in flatten_config(config).items() if before.get(key) != value
    }
    if not changes:
        return execute_run(config, folder, plugins)[0]
    again = f"a new run with them: dlrun rerun {name} {' '.join(words)}"
    if "workflow" in config and is_workflow_finished(folder):
        raise UserError(f"{folder} is finished and takes no other settings; {again}")
    with apply_changed_settings(
        folder,
        config,
        {key: [before.get(key), value] for key, value in changes.items()},
        again,
        plugins,
    ):
        return execute_run(config, folder, plugins)[0]


@contextmanager
def apply_changed_settings(
    folder: Path,
    config: dict[str, Any],
    changes: dict[str, Any],
    again: str,
    plugins: tuple[str, ...],
) -> Iterator[None]:
    """Inside, the run has these settings: dotted key → [before, now]. What is refused puts those before back."""
    import yaml

    from dlrun.core.changed_settings import record_changes
    from dlrun.core.run_folder import RunFolder
    from dlrun.evaluation.protocols.two_stages import make_plan
    from dlrun.launch import resuming

    run, plan = RunFolder(folder), None if "workflow" in config else make_plan(config, plugins)
    jobs = resuming.list_fit_jobs(plan) if plan else []
    begun = resuming.find_started_jobs(run, jobs, config)
    if plan:
        resuming.check_allowed_changes(changes, begun, jobs, again)
    over = (
        plan is not None
        and plan([result for result in run.read_results() if result.split != "test"]) is None
    )
    longer = over and resuming.can_train_longer(changes, begun, config)
    if over and not longer and "test" not in changes:
        raise UserError(
            f"{folder} is finished, and nothing is left to train with these settings; {again}"
        )
    if longer and config["test"] and "test" not in changes:
        config["test"] = False
        log.warning(
            "the test rows are not opened again; dlrun evaluate %s test=true reason=… opens them",
            folder,
        )
    with ExitStack() as taken_back:
        taken_back.enter_context(
            replace_config_file(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        )
        taken_back.enter_context(
            record_changes(folder, {fit.job.name: fit.state for fit in begun}, changes)
        )
        if longer:
            taken_back.enter_context(resuming.remove_finished_results(run, begun))
        yield


@contextmanager
def replace_config_file(path: Path, text: str) -> Iterator[None]:
    """Write a changed config; inside, what is refused puts the one before back."""
    from dlrun.core.files import write_text

    before = path.read_text(encoding="utf-8")
    write_text(path, text)
    try:
        yield
    except UserError:
        write_text(path, before)
        raise


def is_workflow_finished(folder: Path) -> bool:
    """Whether a workflow has come to its end."""
    from dlrun.core.run_folder import RunFolder

    return any(
        entry["step"] == 7 or entry["stopped"]
        for entry in RunFolder(folder).read_json("workflow.json") or []
    )


def rerun_command(words: list[str]) -> int:
    """Do a run again in a new folder: exactly, or with other settings on top of its words."""
    folder, config, rest = parse_run_argument(words, "rerun")
    plugins = load_plugin_packages(rest)
    check_same_location(config, folder, rest)
    before = read_run_overrides(folder)
    if before[:1] == ["workflow"]:
        from dlrun.cli.workflow import workflow_command

        return workflow_command(
            [*remove_overridden(before[1:], rest), *rest],
            lambda config: check_same_location(config, folder, rest),
        )
    if rest:
        folders, more = split_config_folders(rest)
        config = configure([*remove_overridden(before, more), *more], folders, plugins)
        check_same_location(config, folder, rest)  # which the kept words may say otherwise
    validate_config(config, plugins)
    new = make_run_folder(config)
    code = start_run(config, [*remove_overridden(before, rest), *rest], new, plugins)
    if code == 0 and all(word.startswith(("plugins=", "output=")) for word in rest):
        from dlrun.cli.reproduction import compare_rerun

        print(compare_rerun(folder, new))
    return code


def check_same_location(config: dict[str, Any], folder: Path, words: list[str]) -> None:
    """Raise UserError where a run would be done again in a place that its folder alone names."""
    output = Path(str(config.get("output")))
    said = any(word.startswith("output=") for word in words)
    inside = not output.is_absolute() and ".." not in output.parts
    if not said and not inside and output.absolute() not in folder.parents:
        raise UserError(
            f"{folder} says output={output}, and does not lie there: say where the new run goes: output=…"
        )


def read_run_overrides(folder: Path) -> list[str]:
    """The words that a run began with. Raises UserError where they are not kept."""
    try:
        words = shlex.split(stored_files.load_command(folder))[1:]
    except ValueError as error:
        raise CorruptedFileError(f"{folder / 'command.txt'} is damaged: {error}") from error
    return remove_plugin_overrides(words, folder)


def remove_plugin_overrides(words: list[str], folder: Path) -> list[str]:
    """Kept words without those that are for the command line alone: which packages may be run. Says so."""
    packages = [word for word in words if word.lstrip("+").startswith("plugins=")]
    for word in packages:
        log.warning(
            "%s: not taken from %s, for it runs code; where you trust it, type it again",
            word,
            folder,
        )
    return [word for word in words if word not in packages]


def remove_overridden(words: list[str], newer: list[str]) -> list[str]:
    """The words whose keys are not set again by newer ones."""
    again = {word.partition("=")[0].lstrip("+~") for word in newer}
    return [word for word in words if word.partition("=")[0].lstrip("+~") not in again]


def evaluate_command(words: list[str]) -> int:
    """Score a finished run's checkpoint on its validation rows, or with test=true on the test rows (recorded)."""
    folder, config, rest = parse_run_argument(words, "evaluate")
    if "workflow" in config:
        raise UserError(
            f"{folder} is a workflow: its scores are in its report, and dlrun final {words[0]} tests its winner"
        )
    plugins = load_plugin_packages(rest)
    config["reason"] = ""  # a reason is given for each opening anew
    name = next((word.partition("=")[2] for word in rest if word.startswith("checkpoint=")), "")
    if name not in ("", "best", "last"):
        raise UserError(f"checkpoint={name}: it must be best or last")
    set_config_keys(
        config, [word for word in rest if not word.startswith(("checkpoint=", "plugins="))]
    )
    validate_config(config, plugins)
    from dlrun.core.run_folder import result_to_dict
    from dlrun.experiment.runner import Experiment
    from dlrun.launch.console import RecordingConsole
    from dlrun.report.result_tables import make_score_tables, to_rich_table

    console = RecordingConsole()
    with lock_folder(folder) if config["test"] else nullcontext(), log_to_folder(folder, console):
        results = Experiment(config, folder, plugins).evaluate(name)
        console.print(
            *map(
                to_rich_table,
                make_score_tables([result_to_dict(result) for result in results], config),
            )
        )
    return 0
