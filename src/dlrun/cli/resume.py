"""`dlrun resume`, `dlrun rerun` and `dlrun evaluate`, and whether a rerun has the same scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.run_argument import check_allowed_keys, parse_run_argument, set_config_keys
from dlrun.config.compose import configure
from dlrun.config.overrides import split_config_folders
from dlrun.config.validation import validate_config
from dlrun.core.errors import UserError
from dlrun.core.renamed_parts import has_old_names
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.core.run_reader import lock_folder
from dlrun.launch.run_config import execute_run, load_plugin_packages, make_run_folder, start_run
from dlrun.launch.run_log import log_to_folder

if TYPE_CHECKING:
    from dlrun.core.run_folder import RunFolder
    from dlrun.evaluation.protocols.plans import EvaluationPlan
    from dlrun.launch.resuming import StartedFit


# The relative difference that rounding on other hardware may amount to, over many steps.
TOLERANCE = 1e-3
Scores = dict[tuple[str, str, str], float]  # job, split, metric → value


def compare_rerun(first: Path, second: Path) -> str:
    """Compare the scores, and append the result to the log of the second run.

    Args:
        first: The folder of the first run.
        second: The folder of the second run.

    Returns:
        One line: equal, close, or different, and where most.
    """
    text = _describe_comparison(
        read_run_scores(first),
        read_run_scores(second),
        _get_environment_changes(RunFolder(first), RunFolder(second)),
    )
    with RunFolder(second).path(RunFile.LOG).open("a", encoding="utf-8") as log:
        log.write(text + "\n")
    return text


def read_run_scores(folder: Path) -> Scores:
    """Read all scores of a run."""
    return {
        (result.job.name, result.split, name): score.value
        for result in RunFolder(folder).read_results()
        for name, score in result.scores.items()
    }


def _describe_comparison(first: Scores, second: Scores, environment: str) -> str:
    shared = [key for key in second if key in first]
    if not shared:
        return "the original has no scores to compare with: it has not finished"
    differences = {key: _relative_difference(first[key], second[key]) for key in shared}
    worst = max(shared, key=lambda key: differences[key])
    # The same machine and versions give bitwise-identical results.
    if differences[worst] == 0:
        return f"the same as the original: {len(shared)} scores, equal to the last bit"
    job, split, name = worst
    example = f"{job} {split} {name} {first[worst]:.6g} there, {second[worst]:.6g} here"
    if differences[worst] <= TOLERANCE:
        return (
            f"the scores of the original within {differences[worst]:.1g} (relative): "
            f"most apart is {example}{environment}"
        )
    return f"NOT the scores of the original: {example}{environment}"


def _relative_difference(left: float, right: float) -> float:
    # Two nan are equal here: both runs diverged alike.
    if left == right or (math.isnan(left) and math.isnan(right)):
        return 0.0
    size = max(abs(left), abs(right))
    return abs(left - right) / size if math.isfinite(left) and math.isfinite(right) else math.inf


def _get_environment_changes(first: RunFolder, second: RunFolder) -> str:
    """Describe what else is known to differ between the two."""
    old, new = (run.read_json(RunFile.ENVIRONMENT) or {} for run in (first, second))
    changes = []
    if first.read_data() != second.read_data():
        changes.append("the data differ")
    for name in ("torch", "numpy"):
        versions = [environment.get("packages", {}).get(name) for environment in (old, new)]
        if versions[0] != versions[1]:
            changes.append(f"{name} {versions[0]} there, {versions[1]} here")
    changes += ["another machine"] if old.get("host") != new.get("host") else []
    return f" ({'; '.join(changes)})" if changes else ""


log = logging.getLogger("dlrun")

WORKFLOW_RESUME_KEYS = (
    "workflow.budget",
    "engine.device",
    "engine.devices",
    "engine.save_every",
    "reason",
)


def resume_command(words: list[str]) -> int:
    """Resume a run in its own folder, as if it had never stopped, or with changed settings.

    Args:
        words: The run folder, and overrides that are stored with the run.

    Returns:
        The exit code.
    """
    # Parsed again under the lock: another dlrun may just have changed the config.
    with lock_folder(parse_run_argument(words, "resume")[0]):
        return resume_run(*parse_run_argument(words, "resume"), words[0])


def resume_run(folder: Path, config: dict[str, Any], overrides: list[str], name: str) -> int:
    """Resume a run while its folder is locked.

    Args:
        folder: The run folder.
        config: Its config.
        overrides: Settings to be changed.
        name: The folder as it was typed, for messages.

    Returns:
        The exit code.
    """
    from dlrun.core.run_reader import flatten_config

    plugins = load_plugin_packages(overrides)
    old_values = flatten_config(config)
    words = [word for word in overrides if not word.startswith("plugins=")]
    if "workflow" in config:
        check_allowed_keys(
            words,
            WORKFLOW_RESUME_KEYS,
            "a workflow goes on as it began; dlrun rerun begins one with other settings",
        )
    set_config_keys(config, words)
    validate_config(config, plugins)
    changes = {
        key: value for key, value in flatten_config(config).items() if old_values.get(key) != value
    }
    if not changes:
        return execute_run(config, folder, plugins)[0]
    alternative = f"a new run with them: dlrun rerun {name} {' '.join(words)}"
    if "workflow" in config and is_workflow_finished(folder):
        raise UserError(f"{folder} is finished and takes no other settings; {alternative}")
    pairs = {key: [old_values.get(key), value] for key, value in changes.items()}
    with apply_changed_settings(folder, config, pairs, alternative, plugins):
        return execute_run(config, folder, plugins)[0]


@contextmanager
def apply_changed_settings(
    folder: Path,
    config: dict[str, Any],
    changes: dict[str, Any],
    alternative: str,
    plugins: tuple[str, ...],
) -> Iterator[None]:
    """Inside, the run has the changed settings; where it is refused, the former ones are restored.

    Args:
        folder: The run folder.
        config: The config with the changes.
        changes: Dotted key → [value before, value now].
        alternative: The command for a new run, for messages.
        plugins: Packages that the config may instantiate.

    Raises:
        UserError: For settings that cannot change, or leave nothing to train.
    """
    from dlrun.core.checkpoint import record_changes
    from dlrun.core.run_folder import RunFolder
    from dlrun.evaluation.protocols.two_stages import make_plan
    from dlrun.launch import resuming

    run = RunFolder(folder)
    started: list[resuming.StartedFit] = []
    train_longer = False
    # A workflow plans its fits from their results; its own check is made when it resumes.
    if "workflow" not in config:
        plan = make_plan(config, plugins)
        started, train_longer = _check_fits(run, plan, config, changes, alternative)
    if train_longer and config["test"] and "test" not in changes:
        # Each evaluation of the test rows has to be asked for anew.
        config["test"] = False
        log.warning(
            "the test split is not evaluated again; dlrun evaluate %s test=true reason=… does it",
            folder,
        )
    states = {fit.job.name: fit.state for fit in started}
    with ExitStack() as undo:
        undo.enter_context(replace_config_file(run, config))
        undo.enter_context(record_changes(folder, states, changes))
        if train_longer:
            undo.enter_context(resuming.remove_finished_results(run, started))
        yield


def _check_fits(
    run: RunFolder,
    plan: EvaluationPlan,
    config: dict[str, Any],
    changes: dict[str, Any],
    alternative: str,
) -> tuple[list[StartedFit], bool]:
    """Check the changes against the fits; return the begun ones, and whether they train longer."""
    from dlrun.launch import resuming

    jobs = resuming.list_fit_jobs(plan)
    started = resuming.find_started_jobs(run, jobs, config)
    resuming.check_allowed_changes(changes, started, jobs, alternative)
    results = [result for result in run.read_results() if result.split != "test"]
    is_finished = plan(results) is None
    train_longer = is_finished and resuming.can_train_longer(changes, started, config)
    # A finished run can still be tested, with test=true.
    if is_finished and not train_longer and "test" not in changes:
        raise UserError(
            f"{run.folder} is finished, and nothing is left to train with these settings; "
            f"{alternative}"
        )
    return started, train_longer


@contextmanager
def replace_config_file(run: RunFolder, config: dict[str, Any]) -> Iterator[None]:
    """Write a changed config; where the run is refused, restore the one before."""
    from dlrun.core.files import write_text
    from dlrun.core.run_folder import RunFile

    path = run.path(RunFile.CONFIG)
    old_text = path.read_text(encoding="utf-8")
    run.write_config(config)
    try:
        yield
    except UserError:
        write_text(path, old_text)
        raise


def is_workflow_finished(folder: Path) -> bool:
    """Return whether a workflow has come to its end."""
    from dlrun.core.run_folder import RunFile, RunFolder

    return any(
        entry["step"] == 7 or entry["stopped"]
        for entry in RunFolder(folder).read_json(RunFile.WORKFLOW) or []
    )


def rerun_command(words: list[str]) -> int:
    """Repeat a run in a new folder: exactly, or with overrides on top of its own.

    Args:
        words: The run folder, and overrides.

    Returns:
        The exit code.
    """
    folder, config, overrides = parse_run_argument(words, "rerun")
    plugins = load_plugin_packages(overrides)
    check_same_location(config, folder, overrides)
    old_overrides = read_run_overrides(folder)
    # The stored command of a workflow begins with that word, see workflow_command.
    if old_overrides[:1] == ["workflow"]:
        from dlrun.cli.workflow import workflow_command

        return workflow_command(
            [*remove_overridden(old_overrides[1:], overrides), *overrides],
            lambda config: check_same_location(config, folder, overrides),
        )
    if overrides:
        folders, config_overrides = split_config_folders(overrides)
        config = configure(
            [*remove_overridden(old_overrides, config_overrides), *config_overrides],
            folders,
            plugins,
        )
        # The stored overrides may name another output than the stored config.
        check_same_location(config, folder, overrides)
    validate_config(config, plugins)
    new_folder = make_run_folder(config)
    code = start_run(
        config, [*remove_overridden(old_overrides, overrides), *overrides], new_folder, plugins
    )
    # Only an unchanged repetition is expected to have the same scores.
    if code == 0 and all(word.startswith(("plugins=", "output=")) for word in overrides):
        print(compare_rerun(folder, new_folder))
    return code


def check_same_location(config: dict[str, Any], folder: Path, words: list[str]) -> None:
    """Refuse to repeat a run in a place that only its folder names.

    Args:
        config: The config of the run.
        folder: Its folder.
        words: The overrides of the command line.

    Raises:
        UserError: Where the config's output lies elsewhere, and no override names it.
    """
    output = Path(str(config.get("output")))
    is_given = any(word.startswith("output=") for word in words)
    is_inside = not output.is_absolute() and ".." not in output.parts
    if not is_given and not is_inside and output.absolute() not in folder.parents:
        raise UserError(
            f"{folder} says output={output}, and does not lie there: say where the new run goes: "
            "output=…"
        )


def read_run_overrides(folder: Path) -> list[str]:
    """Read the overrides that a run began with.

    Raises:
        UserError: Where they are not stored, or damaged.
    """
    from dlrun.core.run_folder import RunFolder

    words = RunFolder(folder).read_command_words()
    if has_old_names(" ".join(words)):
        from dlrun.config.old_words import to_current_overrides

        # Compared with those that are typed, which are in today's words.
        words = to_current_overrides(words, split_config_folders([])[0], quiet=True)
    return remove_plugin_overrides(words, folder)


def remove_plugin_overrides(words: list[str], folder: Path) -> list[str]:
    """Remove `plugins=` from stored overrides, with a warning: only the command line may run
    code.
    """
    # A run folder may come from somebody else.
    packages = [word for word in words if word.lstrip("+").startswith("plugins=")]
    for word in packages:
        log.warning(
            "%s: not taken from %s, for it runs code; where you trust it, type it again",
            word,
            folder,
        )
    return [word for word in words if word not in packages]


def remove_overridden(words: list[str], newer: list[str]) -> list[str]:
    """Return the overrides whose keys are not set again by newer ones."""
    overridden = {word.partition("=")[0].lstrip("+~") for word in newer}
    return [word for word in words if word.partition("=")[0].lstrip("+~") not in overridden]


def evaluate_command(words: list[str]) -> int:
    """Score the checkpoint of a finished run on its validation rows, or with test=true on test
    rows.

    Args:
        words: The run folder, checkpoint=best or last, and overrides.

    Returns:
        The exit code.

    Raises:
        UserError: For a workflow, or an unknown checkpoint.
    """
    folder, config, overrides = parse_run_argument(words, "evaluate")
    if "workflow" in config:
        raise UserError(
            f"{folder} is a workflow: its scores are in its report, and dlrun final {words[0]} "
            "tests its winner"
        )
    plugins = load_plugin_packages(overrides)
    # A reason is given for each evaluation anew.
    config["reason"] = ""
    name = next(
        (word.partition("=")[2] for word in overrides if word.startswith("checkpoint=")), ""
    )
    if name not in ("", "best", "last"):
        raise UserError(f"checkpoint={name}: it must be best or last")
    set_config_keys(
        config, [word for word in overrides if not word.startswith(("checkpoint=", "plugins="))]
    )
    validate_config(config, plugins)
    from dlrun.core.types import result_to_dict
    from dlrun.experiment.runner import Experiment
    from dlrun.launch.progress import RecordingConsole
    from dlrun.report.result_tables import make_score_tables, to_rich_table

    console = RecordingConsole()
    # An evaluation of test rows is written to the run and to the ledger.
    with lock_folder(folder) if config["test"] else nullcontext(), log_to_folder(folder, console):
        results = Experiment(config, folder, plugins).evaluate(name)
        console.print(
            *map(
                to_rich_table,
                make_score_tables([result_to_dict(result) for result in results], config),
            )
        )
    return 0
