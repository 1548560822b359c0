"""`dlrun lr task=… model=…`: which learning rate to use, from a few steps with a rising one (an LR range test)."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.explain import build_first_fit, check_has_predictions
from dlrun.config.compose import parse_override_value
from dlrun.config.constraints import POSITIVE, Range
from dlrun.core.errors import UserError
from dlrun.core.formatting import format_number
from dlrun.report.result_tables import TextTable, to_rich_table

if TYPE_CHECKING:
    from dlrun.experiment.builder import BuiltFit, ExperimentBuilder


STEPS = Range(int, 20, float("inf"), "a whole number from 20 up")
OWN: dict[str, tuple[Range, Any]] = {
    "low": (POSITIVE, 1e-7),
    "high": (POSITIVE, 10.0),
    "steps": (STEPS, 100),
}


def lr_command(words: list[str]) -> int:
    """Raise the rate from `low` to `high` over `steps` steps, and say what to set. Answers with the exit code."""
    from rich.console import Console

    from dlrun.core.run_folder import create_run_folder

    own, rest = split_lr_overrides(words)
    console = Console(highlight=False)
    with build_first_fit(rest, console) as (assembly, fit):
        check_has_predictions(assembly, fit)
        record = run_lr_test(assembly, fit, rest, **own)
        folder = create_run_folder(
            Path(assembly.config["output"]), assembly.config["task"]["name"], "lr"
        )
        save_lr_test(record, assembly.config, folder)
    console.print(to_rich_table(build_lr_table(record)))
    for line in describe_lr_suggestion(record):
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"curve: {folder / 'lr.png'}", soft_wrap=True, markup=False)
    return 0


def split_lr_overrides(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """This command's settings, and the words that are for the config. Raises UserError."""
    own = {name: usual for name, (_, usual) in OWN.items()}
    rest, faults = [], []
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in OWN or not equals:
            rest.append(word)
            continue
        own[name] = parse_override_value(word)
        if not OWN[name][0].contains(own[name]):
            faults.append(f"{word}: it must be {OWN[name][0].text}")
    if not faults and own["low"] >= own["high"]:
        faults.append(f"low={own['low']:g} high={own['high']:g}: the rate rises from low to high")
    if faults:
        raise UserError("\n".join(faults))
    return own, rest


def run_lr_test(
    assembly: ExperimentBuilder,
    fit: BuiltFit,
    words: list[str],
    low: float,
    high: float,
    steps: int,
) -> dict[str, Any]:
    """The test as plain values, as lr.json holds it."""
    from dlrun.interpret.lr_finder import choose_lr, run_range_test

    curve = run_range_test(fit.trainer, low, high, steps)
    found = asdict(choose_lr(curve))
    kept = [word for word in words if not word.startswith("optimizer.lr=")]
    use = (
        shlex.join(["dlrun", *kept, f"optimizer.lr={found['rate']:.2g}"]) if found["rate"] else None
    )
    return {
        "command": shlex.join(
            ["dlrun", "lr", *words, f"low={low:g}", f"high={high:g}", f"steps={steps}"]
        ),
        "note": assembly.dataset.note,
        **found,
        "use": use,
        "stopped": curve.stopped,
        **{name: getattr(curve, name).tolist() for name in ("rates", "losses", "smoothed")},
    }


def save_lr_test(record: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Keep the numbers and their picture: lr.json and lr.png."""
    from dlrun.core.run_folder import RunFolder
    from dlrun.report.lr_plot import draw_lr_plot

    RunFolder(folder).write_json("lr.json", record)
    draw_lr_plot(record, config, folder / "lr.png")


def build_lr_table(record: dict[str, Any]) -> TextTable:
    """The places of the curve that matter."""
    rates, smoothed = record["rates"], record["smoothed"]
    places = {
        "first": rates[0],
        "steepest fall": record["steepest"],
        "lowest": record["lowest"],
        "last": rates[-1],
    }
    rows = [
        [name, f"{rate:.2g}", format_number(smoothed[rates.index(rate)])]
        for name, rate in places.items()
        if rate is not None
    ]
    return TextTable("learning rates", ["", "rate", "smoothed loss"], rows, right=frozenset({1, 2}))


def describe_lr_suggestion(record: dict[str, Any]) -> list[str]:
    """How far it came, the suggestion with its reason, and the command that uses it."""
    end = f", ended early: {record['stopped']}" if record["stopped"] else ""
    steps = f"{len(record['rates'])} steps{end}"
    if record["rate"] is None:
        return [steps, f"no suggestion: {record['why']}"]
    return [
        steps,
        f"suggestion: {record['rate']:.2g}: {record['why']}",
        f"to use it: {record['use']}",
    ]
