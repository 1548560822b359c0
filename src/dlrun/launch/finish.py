"""What is said and written at the end of a run: tables, pictures, a report, and its figures beside others."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from dlrun.core.types import Result


def finish_run(
    config: dict[str, Any], folder: Path, results: list[Result], console: Console
) -> None:
    """Write pictures and report, and show the small table at the end."""
    from dlrun.core.files import optional_write
    from dlrun.report.build import write_report
    from dlrun.report.result_tables import load_result_tables

    page = folder / "report.html"
    with optional_write("the report is", page):
        record_test_evaluations(config, folder)
        with (
            console.status("drawing plots and writing the report")
            if console.is_terminal
            else nullcontext()
        ):
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
    """Which fits are not below the baseline, by the loss on rows that they have not learned from.

    Fits of that very baseline are none of them, nor are the candidates of a workflow: its verdicts say it.
    """
    from dlrun.core.run_reader import get_family
    from dlrun.evaluation.protocols.two_stages import drop_first_stages

    if "workflow" in config:
        return []

    told = [
        each
        for each in drop_first_stages(results)
        if {"loss"} <= each.scores.keys() & each.baseline.keys()
    ]
    model = lambda each: str((each.job.patch.get("model") or config["model"]).get("_target_"))  # noqa: E731
    told = [each for each in told if not model(each).startswith(BASELINE_TARGETS)]
    worse = [
        each.job.name for each in told if each.scores["loss"].value >= each.baseline["loss"].value
    ]
    names = [get_family(name) for name in dict.fromkeys(worse)]
    counted = [
        f"{name} ({names.count(name)} fits)" if names.count(name) > 1 else name
        for name in dict.fromkeys(names)
    ]
    hint = "Try dlrun lr … and dlrun explain …, with the same words"
    return (
        [f"WARNING: the loss of {', '.join(counted)} is not below the baseline's. {hint}"]
        if names
        else []
    )


def print_ensemble_members(folder: Path, console: Console) -> None:
    """Show an ensemble beside its members; nothing for other runs."""
    from dlrun.report import ensemble_members
    from dlrun.report.result_tables import to_rich_table

    if found := ensemble_members.make_members_table(folder):
        console.print(to_rich_table(found[0]))
        for line in found[1]:
            console.print(line, soft_wrap=True, markup=False)


def record_test_evaluations(config: dict[str, Any], folder: Path) -> None:
    """Keep with the run how often the test rows of its data have been opened; made-up rows are not counted."""
    from dlrun.core.run_folder import RunFolder
    from dlrun.evaluation import test_ledger

    run = RunFolder(folder)
    data = run.read_json("data.json")
    if "SYNTHETIC" not in data["note"]:
        found = test_ledger.find_previous_entries(
            config["task"]["name"], data["fingerprint"], data.get("test", "")
        )
        told = [
            {"date": entry.date, "score": entry.score, "reason": entry.reason} for entry in found
        ]
        run.write_json("openings.json", {"count": len(found), "entries": told})


def compare_with_reference(config: dict[str, Any], results: list[Result]) -> list[str]:
    """Ours beside the book's figure, where the run is one of the book's and the data are the real ones."""
    book = config.get("book")
    if not book:
        return []
    from dlrun.evaluation.protocols.two_stages import drop_first_stages

    split, _, name = book["measure"].partition("/")
    found = [result for result in drop_first_stages(results) if result.split == split]
    values = [result.scores[name].value for result in found if name in result.scores]
    if not values or any(
        word in result.note for result in results for word in ("SYNTHETIC", "not the book's")
    ):
        return [
            f"book §{book['section']}: {book['measure']} {book['figure']}; nothing here to compare with it"
        ]
    mean = sum(values) / len(values)
    reached = "inside" if book["low"] <= mean <= book["high"] else "OUTSIDE"
    return [
        f"book §{book['section']}: {book['measure']} {book['figure']}; here {mean:.4f}, "
        f"{reached} the accepted range {book['low']} to {book['high']}"
    ]
