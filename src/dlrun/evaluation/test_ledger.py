"""The ledger of test-set evaluations: which test rows, when, with what score, and why again."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dlrun.core import files
from dlrun.core.errors import UserError
from dlrun.core.files import user_cache
from dlrun.core.formatting import choose_metric
from dlrun.core.renamed_parts import to_original_names

log = logging.getLogger("dlrun")

IGNORED_KEYS = ("output", "plugins")
LOCK_TIMEOUT = 60.0  # seconds for the ledger to be free
MAX_LISTED_ENTRIES = 5  # earlier evaluations that a message names


@dataclass(frozen=True)
class LedgerEntry:
    """One evaluation on test rows.

    Attributes:
        date: When it began, ISO 8601 with the time zone.
        task: The name of the task.
        fingerprint: Of the training and validation rows.
        config: The sha256 of the config.
        score: Metric → value; empty until the evaluation is complete.
        run: The run folder.
        reason: Why these rows are evaluated again; '' the first time.
        test: Identifies the test rows and their targets, whichever inputs are read; '' in entries
            of before 0.1.1, which the fingerprint identifies.
    """

    date: str
    task: str
    fingerprint: str
    config: str
    score: dict[str, float]
    run: str
    reason: str
    test: str = ""

    @property
    def formatted_score(self) -> str:
        """'accuracy 0.8821': the first metric that is no loss."""
        name = choose_metric(self.score)
        return f"{name} {self.score[name]:.4f}" if name else "no score"


def get_ledger_path() -> Path:
    """Where the ledger lies: beside the data in the user's cache folder."""
    return user_cache() / "ledger.jsonl"


def read_entries() -> tuple[list[LedgerEntry], list[int]]:
    """Read the ledger.

    Returns:
        Every evaluation in the order of entry, and the numbers of the lines that cannot be read.

    Raises:
        UserError: The file is there and cannot be read: not knowing is not the same as none.
    """
    try:
        content = get_ledger_path().read_bytes() if get_ledger_path().exists() else b""
    except OSError as error:
        raise UserError(
            f"the ledger of test-set evaluations, {get_ledger_path()}, cannot be read: "
            f"{error.strerror}"
        ) from error
    entries, damaged = list[LedgerEntry](), []
    # Split by bytes: a line cut within a character must not hide the ones after it.
    for number, line in enumerate(content.split(b"\n"), 1):
        entry = _parse_entry(line)
        if entry is not None:
            started = replace(entry, score={})
            # A line with a score completes the line without.
            entries = [previous for previous in entries if previous != started] + [entry]
        elif line.strip():
            damaged.append(number)
    return entries, damaged


def find_previous_entries(task: str, fingerprint: str, test: str = "") -> list[LedgerEntry]:
    """The earlier evaluations of the test rows of these data for this task.

    Damaged lines are reported in the log.

    Args:
        task: The name of the task.
        fingerprint: Of the training and validation rows.
        test: Identifies the test rows; where an entry has it too, it decides, else the fingerprint.
    """
    entries, damaged = read_entries()
    if damaged:
        log.warning(
            "%s: line %s is damaged and was not counted",
            get_ledger_path(),
            ", ".join(map(str, damaged)),
        )

    def matches(entry: LedgerEntry) -> bool:
        if entry.test and test:
            return entry.test == test
        return entry.fingerprint == fingerprint

    return [entry for entry in entries if entry.task == task and matches(entry)]


def require_reason(
    task: str, fingerprint: str, reason: str | None, run: Path | None = None, test: str = ""
) -> None:
    """Refuse another evaluation of the same test rows without a reason.

    Args:
        task: The name of the task.
        fingerprint: Of the training and validation rows.
        reason: The reason that was given, if any.
        run: The run folder, whose own incomplete evaluation does not count as an earlier one.
        test: Identifies the test rows; see `find_previous_entries`.

    Raises:
        UserError: There are earlier ones, which it names.
    """
    earlier = [
        entry
        for entry in find_previous_entries(task, fingerprint, test)
        if entry.score or entry.run != str(run)
    ]
    if not earlier or (reason or "").strip():
        return
    recent = [
        f"{entry.date[:10]}, {entry.formatted_score}, {entry.run}"
        for entry in earlier[-MAX_LISTED_ENTRIES:]
    ]
    times = "1 time" if len(earlier) == 1 else f"{len(earlier)} times"
    hint = "the last ones: " if len(earlier) > MAX_LISTED_ENTRIES else ""
    raise UserError(
        f"the test split of {task} has been evaluated {times} before ({hint}{'; '.join(recent)}): "
        "each look makes the score "
        f'less believable. Say why it is evaluated again: reason="…"'
    )


def check_writable() -> None:
    """Raise UserError when nothing could be entered. Call it before any test row is read."""
    with _open_ledger():
        pass


def add_entry(
    *,
    task: str,
    fingerprint: str,
    config: Mapping[str, Any],
    run: Path,
    reason: str,
    test: str = "",
) -> LedgerEntry:
    """Enter one evaluation, dated now and without a score yet. Call it before any test row is read.

    An incomplete evaluation of the same run goes on instead. Whether a reason is required is
    decided under the ledger's lock: of two runs at once only one is the first.

    Raises:
        UserError: A reason is required, or the ledger cannot be written.
    """
    with _open_ledger() as file:
        started = [
            entry
            for entry in find_previous_entries(task, fingerprint, test)
            if entry.run == str(run) and not entry.score
        ]
        if started:
            return started[-1]
        require_reason(task, fingerprint, reason, test=test)
        # With the offset: local time alone is ambiguous once a year.
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        entry = LedgerEntry(
            date, task, fingerprint, compute_config_hash(config), {}, str(run), reason.strip(), test
        )
        _append_entry(file, entry)
    return entry


def add_score(entry: LedgerEntry, score: Mapping[str, float]) -> LedgerEntry:
    """Complete an entry with its score (metric → value)."""
    completed = replace(entry, score=dict(score))
    with _open_ledger() as file:
        _append_entry(file, completed)
    return completed


def _append_entry(file: io.FileIO, entry: LedgerEntry) -> None:
    line = files.to_json(asdict(entry)).encode() + b"\n"
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    # A kill may have cut the last line short: it must not swallow this one.
    truncated = file.read(1) not in (b"", b"\n")
    file.write(b"\n" + line if truncated else line)
    # An evaluation must be on disk before the first test row is read.
    os.fsync(file.fileno())


def compute_config_hash(config: Mapping[str, Any]) -> str:
    """The sha256 of a config as canonical JSON, without the keys that only say where things are."""
    settings = {key: value for key, value in config.items() if key not in IGNORED_KEYS}
    text = files.to_canonical_json(
        to_original_names(settings), separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _open_ledger() -> Iterator[io.FileIO]:
    """The ledger, locked for reading and appending; raises UserError when that fails."""
    from filelock import FileLock

    try:
        get_ledger_path().parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(get_ledger_path().with_name(".ledger.lock"), timeout=LOCK_TIMEOUT),
            get_ledger_path().open("a+b", buffering=0) as file,
        ):
            yield file
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"the test-set evaluation cannot be entered in {get_ledger_path()} ({error}), and "
            "what cannot be entered must not happen. Make that folder writable, or choose "
            "another cache folder"
        ) from error


def _parse_entry(line: bytes) -> LedgerEntry | None:
    try:
        record = json.loads(line)
        entry = LedgerEntry(
            **{
                field.name: record[field.name]
                for field in fields(LedgerEntry)
                if field.name != "test"
            }
        )
        # Entries of before 0.1.1 lack it.
        entry = replace(entry, test=record.get("test", ""))
        texts = (
            entry.date,
            entry.task,
            entry.fingerprint,
            entry.config,
            entry.run,
            entry.reason,
            entry.test,
        )
        scores = {name: files.number_from_json(value) for name, value in entry.score.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return replace(entry, score=scores) if all(isinstance(text, str) for text in texts) else None
