"""Reads what a run folder holds, as plain dicts, and locks it for one writer. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlrun.core.errors import UserError
from dlrun.core.formatting import make_direction_map
from dlrun.core.run_folder import JsonLines, RunFile, RunFolder, split_messages


def read_history(folder: Path) -> JsonLines:
    """The rows of history.jsonl.

    Of an epoch that was trained again after a resume, only the later row.
    """
    rows = RunFolder(folder).read_history()
    latest = {(row["job"], row["split"], row["epoch"]): row for row in rows}
    return list(latest.values())


def read_results(folder: Path) -> JsonLines:
    """The results of results.jsonl in order; one that was written twice counts once."""
    lines = RunFolder(folder).read_result_lines()
    latest = {(line["name"], line["split"]): line for line in lines}
    return list(latest.values())


def read_verdicts(folder: Path) -> JsonLines:
    """The steps of workflow.json that were taken; none where the run is no workflow."""
    return RunFolder(folder).read_json(RunFile.WORKFLOW) or []


def read_failures(folder: Path, results: JsonLines) -> dict[str, str]:
    """Fits that ended in an error and have no result → the error."""
    failures = RunFolder(folder).read_json(RunFile.UNFINISHED) or {}
    finished = {line["name"] for line in results}
    return {name: str(entry["why"]) for name, entry in failures.items() if name not in finished}


def flatten_config(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one: {'optimizer': {'lr': .1}} → {'optimizer.lr': .1}."""
    if not isinstance(node, dict) or not node:
        return {prefix: node} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten_config(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def read_targets(folder: Path) -> dict[str, dict[str, Any]]:
    """Target → its kind and labels, from fields.json; empty where there is none."""
    fields = RunFolder(folder).read_fields() or {"targets": {}}
    targets: dict[str, dict[str, Any]] = fields["targets"]
    return targets


def read_command_or_empty(folder: Path) -> str:
    """The command line of a run; "" where it was not kept."""
    run = RunFolder(folder)
    return run.read_command() if run.exists(RunFile.COMMAND) else ""


def drop_previous_stages(results: JsonLines) -> JsonLines:
    """Without the fits from whose weights others started: the last stage counts."""
    start_names = {(line.get("job") or {}).get("start") for line in results}
    return [line for line in results if line.get("name") not in start_names]


def read_direction_map(results: JsonLines) -> dict[str, str]:
    """Metric → 'min' or 'max', as far as the run has recorded it."""
    return make_direction_map(line.get("scores") or {} for line in results)


def collect_messages(results: JsonLines) -> list[str]:
    """The distinct remarks that stand beside results, in order."""
    return _collect_messages(results, "note")


def collect_data_warnings(results: JsonLines) -> list[str]:
    """The remarks among them that say that data or weights are made up (SYNTHETIC …)."""
    return _collect_messages(results, "synthetic")


def get_data_warning(results: JsonLines) -> str:
    """The first remark that data or weights are made up, or ""."""
    return next(iter(collect_data_warnings(results)), "")


def _collect_messages(results: JsonLines, field: str) -> list[str]:
    messages = (
        message for line in results for message in split_messages(str(line.get(field) or ""))
    )
    return list(dict.fromkeys(messages))


def get_family(job: str) -> str:
    """What the fits of one stage share.

    Returns:
        'wider' for 'wider-fold-2' and 'wider-repeat-3'; of a run without stages 'folds' for its
        folds and 'fit' for its seeds.
    """
    import re

    match = re.fullmatch(r"(?:(.+?)-)??(repeat-\d+)?-?(fold-\d+)?", job)
    if not match or not (match[2] or match[3]):
        return job
    return match[1] or ("folds" if match[3] else "fit")


def select_splits(splits: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Which results a table shows.

    Args:
        splits: (family, split) of results.

    Returns:
        Without training rows of families that were measured on others too; test rows last.
    """
    # An iterator can be read once, and it is needed twice.
    keys = list(splits)
    measured = {family for family, split in keys if split != "train"}
    selected = [
        (family, split) for family, split in keys if split != "train" or family not in measured
    ]
    return sorted(selected, key=lambda key: key[1] == "test")


def find_changed_keys(
    configs: list[dict[str, Any]], private: tuple[str, ...] = ("output", "note")
) -> list[str]:
    """The dotted keys whose values differ between configs.

    Args:
        configs: Configs of runs.
        private: Beginnings of keys that are left out.
    """
    flats = [flatten_config(config) for config in configs]
    keys = [
        key
        for key in dict.fromkeys(key for flat in flats for key in flat)
        if not key.startswith(private)
    ]
    return [key for key in keys if any(flat.get(key) != flats[0].get(key) for flat in flats)]


log = logging.getLogger("dlrun")
# Locked by this process. The lock is not reentrant, and a command may call another one.
_held: set[Path] = set()


@contextmanager
def lock_folder(folder: Path, instead: str = "") -> Iterator[None]:
    """Inside, no other dlrun changes this folder.

    Args:
        folder: An existing folder.
        instead: What else the user can do, for the message.

    Raises:
        UserError: Another process holds it, or nothing can be written there.
    """
    from filelock import FileLock, Timeout

    if (resolved := folder.resolve()) in _held:
        yield
        return
    # The operating system frees the lock of a process that dies.
    lock = FileLock(RunFolder(resolved).path(RunFile.LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another dlrun is at work on {folder}{instead and f'; {instead}'}"
        ) from None
    except NotImplementedError:  # a file system without locks
        log.warning("%s cannot be locked: see to it that no other dlrun is at work on it", folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    _held.add(resolved)
    try:
        yield
    finally:
        _held.discard(resolved)
        lock.release()
