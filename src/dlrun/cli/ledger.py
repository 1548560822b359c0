"""`dlrun ledger [TASK]`: which test sets have been evaluated, how often, and with what score."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.config.overrides import split_config_folders
from dlrun.config.parts import get_conf_folders, list_all_groups
from dlrun.core.errors import UserError, format_names
from dlrun.evaluation import test_ledger

if TYPE_CHECKING:
    from rich.table import Table


COLUMNS = ("date", "task", "data", "evaluation", "score", "reason", "run")
SHORT = 8  # characters of a fingerprint that tell datasets apart


def ledger_command(words: list[str]) -> int:
    """Print the ledger, of one task or of all.

    Raises:
        UserError: For an unknown task.
    """
    from rich.console import Console

    folders, overrides = split_config_folders(words)
    Console(highlight=False).print(format_ledger(overrides, folders))
    return 0


def format_ledger(words: Sequence[str], folders: Sequence[Path] = ()) -> Table | str:
    """Format the test-set evaluations as a table, newest last, with counts.

    Args:
        words: The name of a task, or nothing for all.
        folders: The user's config folders, strongest first.

    Returns:
        The table; a sentence where there is no evaluation.

    Raises:
        UserError: For an unknown task.
    """
    entries, damaged = test_ledger.read_entries()
    task = find_task(words, {entry.task for entry in entries}, folders)
    selected = [entry for entry in entries if task in (None, entry.task)]
    path = test_ledger.get_ledger_path()
    warnings = []
    if damaged:
        numbers = ", ".join(map(str, damaged))
        warnings.append(f"line {numbers} of {path} is damaged and is not shown")
    if not selected:
        subject = f"the test split of {task} has never" if task else "no test split has"
        return "\n".join([f"{subject} been evaluated: {path}", *warnings])
    return _format_table(selected, [*count_test_evaluations(selected), *warnings])


def find_task(words: Sequence[str], entered: set[str], folders: Sequence[Path]) -> str | None:
    """Return the one task that is meant, or None for all.

    Raises:
        UserError: For an unknown task, or several.
    """
    if not words:
        return None
    if len(words) > 1:
        raise UserError(f"dlrun ledger takes one task, or none for all; got {' '.join(words)}")
    # The ledger may hold tasks whose files have gone, and a new task has no entries.
    tasks = sorted({*entered, *list_all_groups(get_conf_folders(folders)).get("task", [])})
    word = words[0].removeprefix("task=")
    if word not in tasks:
        matches = difflib.get_close_matches(word, tasks, 1)
        hint = f": did you mean '{matches[0]}'?" if matches else "."
        raise UserError(f"no task '{word}'{hint} There are: {format_names(tasks, word)}")
    return word


def count_test_evaluations(entries: Sequence[test_ledger.LedgerEntry]) -> list[str]:
    """Describe, a line a task, how often its test rows were evaluated, and of how many datasets."""
    lines = []
    for task, count in Counter(entry.task for entry in entries).items():
        data = len({get_data_key(entry) for entry in entries if entry.task == task})
        datasets = "" if data == 1 else f" of {data} datasets"
        lines.append(f"{task}: {count} {'evaluation' if count == 1 else 'evaluations'}{datasets}")
    return lines


def get_data_key(entry: test_ledger.LedgerEntry) -> str:
    """Return what identifies the test rows of an entry."""
    # Entries of earlier versions have no fingerprint of the test rows alone.
    return entry.test or entry.fingerprint


def build_ledger_rows(entries: Sequence[test_ledger.LedgerEntry]) -> list[list[str]]:
    """Build the cells in the order of COLUMNS; `evaluation` counts those of a task and its data."""
    counts: Counter[tuple[str, str]] = Counter()
    rows = []
    for entry in entries:
        counts[entry.task, get_data_key(entry)] += 1
        number = str(counts[entry.task, get_data_key(entry)])
        rows.append(
            [
                entry.date[:10],
                entry.task,
                get_data_key(entry)[:SHORT],
                number,
                entry.formatted_score,
                entry.reason,
                _relative_path(entry.run),
            ]
        )
    return rows


def _relative_path(run: str) -> str:
    """Return the folder relative to the current one, where it lies below."""
    current = Path.cwd()
    return str(Path(run).relative_to(current)) if Path(run).is_relative_to(current) else run


def _format_table(
    entries: Sequence[test_ledger.LedgerEntry], caption_lines: Sequence[str]
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        caption=Text("\n".join(caption_lines)), caption_justify="left", box=box.SIMPLE_HEAD
    )
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for cells in build_ledger_rows(entries):
        table.add_row(*map(Text, cells))
    return table
