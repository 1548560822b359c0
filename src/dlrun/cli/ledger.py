"""`dlrun ledger [TASK]`: which test rows have been opened, how often, and with what score."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.config.groups import get_conf_folders, list_all_groups
from dlrun.config.overrides import split_config_folders
from dlrun.core.errors import UserError, format_names
from dlrun.evaluation import test_ledger

if TYPE_CHECKING:
    from rich.table import Table


COLUMNS = ("date", "task", "data", "opening", "score", "reason", "run")
SHORT = 8  # letters of a fingerprint that tell datasets apart


def ledger_command(words: list[str]) -> int:
    """Print the ledger, of one task or of all. Raises UserError for a word that names no task."""
    from rich.console import Console

    folders, rest = split_config_folders(words)
    Console(highlight=False).print(format_ledger(rest, folders))
    return 0


def format_ledger(words: Sequence[str], folders: Sequence[Path] = ()) -> Table | str:
    """The openings as a table, newest last, with counts; a sentence where there is none.

    folders: the user's conf folders, strongest first. Raises UserError for a word that names no task.
    """
    found, damaged = test_ledger.read_entries()
    task = find_task(words, {entry.task for entry in found}, folders)
    chosen = [entry for entry in found if task in (None, entry.task)]
    marks = (
        [
            f"line {', '.join(map(str, damaged))} of {test_ledger.get_ledger_path()} is damaged and is not shown"
        ]
        if damaged
        else []
    )
    if not chosen:
        whose = f"the test rows of {task} have" if task else "no test rows have"
        return "\n".join(
            [
                f"{whose} {'never ' if task else ''}been opened: {test_ledger.get_ledger_path()}",
                *marks,
            ]
        )
    return _format_table(chosen, [*count_test_evaluations(chosen), *marks])


def find_task(words: Sequence[str], entered: set[str], folders: Sequence[Path]) -> str | None:
    """The one task that is meant, or None for all. Raises UserError for anything else."""
    if not words:
        return None
    if len(words) > 1:
        raise UserError(f"dlrun ledger takes one task, or none for all; got {' '.join(words)}")
    there = sorted({*entered, *list_all_groups(get_conf_folders(folders)).get("task", [])})
    word = words[0].removeprefix("task=")
    if word not in there:
        near = difflib.get_close_matches(word, there, 1)
        hint = f": did you mean '{near[0]}'?" if near else "."
        raise UserError(f"no task '{word}'{hint} There are: {format_names(there, word)}")
    return word


def count_test_evaluations(entries: Sequence[test_ledger.LedgerEntry]) -> list[str]:
    """A line a task: how often its test rows were opened, and of how many datasets."""
    lines = []
    for task, times in Counter(entry.task for entry in entries).items():
        data = len({get_data_key(entry) for entry in entries if entry.task == task})
        of = "" if data == 1 else f" of {data} datasets"
        lines.append(f"{task}: {times} {'opening' if times == 1 else 'openings'}{of}")
    return lines


def get_data_key(entry: test_ledger.LedgerEntry) -> str:
    """What the test rows of an opening are known by."""
    return entry.test or entry.fingerprint


def build_ledger_rows(entries: Sequence[test_ledger.LedgerEntry]) -> list[list[str]]:
    """The cells of the table, in the order of COLUMNS; `opening` counts those of the same task and data."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for entry in entries:
        seen[entry.task, get_data_key(entry)] += 1
        number = str(seen[entry.task, get_data_key(entry)])
        found.append(
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
    return found


def _relative_path(run: str) -> str:
    """The folder as seen from here, where it lies below."""
    here = Path.cwd()
    return str(Path(run).relative_to(here)) if Path(run).is_relative_to(here) else run


def _format_table(entries: Sequence[test_ledger.LedgerEntry], below: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=Text("\n".join(below)), caption_justify="left", box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for cells in build_ledger_rows(entries):
        table.add_row(*map(Text, cells))
    return table
