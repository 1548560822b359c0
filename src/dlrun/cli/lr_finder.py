"""`dlrun lr task=… model=…`: suggests a learning rate, by an LR range test of a few steps."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.explain import build_first_fit, check_has_predictions
from dlrun.config.annotations import POSITIVE, Range
from dlrun.config.compose import parse_override_value
from dlrun.core.errors import UserError
from dlrun.core.formatting import format_number
from dlrun.report.result_tables import TextTable, to_rich_table

if TYPE_CHECKING:
    from dlrun.experiment.builder import BuiltFit, ExperimentBuilder


STEPS = Range(int, 20, float("inf"), "a whole number from 20 up")
# Setting → its range, its default. Below 20 steps the curve is too coarse to choose from.
SETTINGS: dict[str, tuple[Range, Any]] = {
    "low": (POSITIVE, 1e-7),
    "high": (POSITIVE, 10.0),
    "steps": (STEPS, 100),
}


def lr_command(words: list[str]) -> int:
    """Raise the learning rate from `low` to `high` over `steps` steps, and suggest one.

    Args:
        words: Overrides as for training, and this command's own settings.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from dlrun.core.files import create_run_folder
    from dlrun.core.run_folder import RunFile, RunFolder

    settings, overrides = split_lr_overrides(words)
    console = Console(highlight=False)
    with build_first_fit(overrides, console) as (builder, fit):
        check_has_predictions(builder, fit)
        record = run_lr_test(builder, fit, overrides, **settings)
        # Only now: a test that fails leaves no folder behind.
        folder = create_run_folder(
            Path(builder.config["output"]), builder.config["task"]["name"], "lr"
        )
        save_lr_test(record, builder.config, folder)
    console.print(to_rich_table(build_lr_table(record)))
    for line in describe_lr_suggestion(record):
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"curve: {RunFolder(folder).path(RunFile.LR_PLOT)}", soft_wrap=True, markup=False)
    return 0


def split_lr_overrides(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Separate this command's settings from the overrides of the config.

    Returns:
        The settings with their defaults, and the overrides.

    Raises:
        UserError: For values out of range.
    """
    settings = {name: default for name, (_, default) in SETTINGS.items()}
    overrides, errors = [], []
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in SETTINGS or not equals:
            overrides.append(word)
            continue
        settings[name] = parse_override_value(word)
        if not SETTINGS[name][0].contains(settings[name]):
            errors.append(f"{word}: it must be {SETTINGS[name][0].text}")
    # Values that are wrong in themselves have been reported.
    if not errors and settings["low"] >= settings["high"]:
        errors.append(
            f"low={settings['low']:g} high={settings['high']:g}: the rate rises from low to high"
        )
    if errors:
        raise UserError("\n".join(errors))
    return settings, overrides


def run_lr_test(
    builder: ExperimentBuilder,
    fit: BuiltFit,
    words: list[str],
    low: float,
    high: float,
    steps: int,
) -> dict[str, Any]:
    """Run the test.

    Args:
        builder: The builder of the experiment.
        fit: The fit whose model is tested.
        words: The overrides, for the commands that are shown.
        low: The first rate.
        high: The last rate.
        steps: The number of steps.

    Returns:
        The values that lr.json holds.
    """
    from dlrun.interpret.lr_finder import choose_lr, run_range_test

    curve = run_range_test(fit.trainer, low, high, steps)
    choice = asdict(choose_lr(curve))
    # The suggested rate replaces the one on the command line.
    overrides = [word for word in words if not word.startswith("optimizer.lr=")]
    command = None
    if choice["rate"]:
        command = shlex.join(["dlrun", *overrides, f"optimizer.lr={choice['rate']:.2g}"])
    settings = [f"low={low:g}", f"high={high:g}", f"steps={steps}"]
    return {
        "command": shlex.join(["dlrun", "lr", *words, *settings]),
        "note": builder.dataset.note,
        "synthetic": builder.dataset.synthetic,
        **choice,
        "use": command,
        "stopped": curve.stopped,
        **{name: getattr(curve, name).tolist() for name in ("rates", "losses", "smoothed")},
    }


def save_lr_test(record: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Write lr.json and lr.png."""
    from dlrun.core.run_folder import RunFile, RunFolder
    from dlrun.report.lr_plot import draw_lr_plot

    run = RunFolder(folder)
    run.write_json(RunFile.LR_TEST, record)
    draw_lr_plot(record, config, run.path(RunFile.LR_PLOT))


def build_lr_table(record: dict[str, Any]) -> TextTable:
    """Build the table of the points of the curve that matter."""
    rates, smoothed = record["rates"], record["smoothed"]
    points = {
        "first": rates[0],
        "steepest fall": record["steepest"],
        "lowest": record["lowest"],
        "last": rates[-1],
    }
    rows = [
        [name, f"{rate:.2g}", format_number(smoothed[rates.index(rate)])]
        for name, rate in points.items()
        if rate is not None
    ]
    return TextTable("learning rates", ["", "rate", "smoothed loss"], rows, right=frozenset({1, 2}))


def describe_lr_suggestion(record: dict[str, Any]) -> list[str]:
    """Describe how far the test came, the suggestion with its reason, and the command that uses
    it.
    """
    end = f", ended early: {record['stopped']}" if record["stopped"] else ""
    steps = f"{len(record['rates'])} steps{end}"
    if record["rate"] is None:
        return [steps, f"no suggestion: {record['why']}"]
    return [
        steps,
        f"suggestion: {record['rate']:.2g}: {record['why']}",
        f"to use it: {record['use']}",
    ]
