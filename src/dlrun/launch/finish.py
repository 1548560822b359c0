"""The end of a run: tables, plots, report, test ledger, and the comparison with the book."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.core.run_folder import RunFile, RunFolder

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
