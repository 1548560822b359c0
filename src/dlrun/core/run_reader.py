"""Reads what a run folder holds, as plain dicts. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dlrun.core import stored_files
from dlrun.core.measure_names import make_direction_map
from dlrun.core.stored_files import load_json_lines
from dlrun.core.stored_files import load_json_or_none as plain

JsonLines = list[dict[str, Any]]


def read_history(folder: Path) -> JsonLines:
    """The rows of history.jsonl; where an epoch was trained anew after a resume, its later row."""
    latest = {
        (row["job"], row["split"], row["epoch"]): row
        for row in load_json_lines(folder / "history.jsonl")
    }
    return list(latest.values())


def read_results(folder: Path) -> JsonLines:
    """The results of results.jsonl, in the order in which they came; a result written twice counts once."""
    latest = {
        (line["name"], line["split"]): line for line in load_json_lines(folder / "results.jsonl")
    }
    return list(latest.values())


def read_failures(folder: Path, results: JsonLines) -> dict[str, str]:
    """The fits that an error has ended and that have no result → the error."""
    known, done = plain(folder / "unfinished.json") or {}, {line["name"] for line in results}
    return {name: str(about["why"]) for name, about in known.items() if name not in done}


def flatten_config(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict: {'optimizer': {'lr': .1}} → {'optimizer.lr': .1}."""
    if not isinstance(node, dict) or not node:
        return {prefix: node} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flatten_config(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def read_targets(folder: Path) -> dict[str, dict[str, Any]]:
    """Target name → its kind and labels, from fields.json; empty when there is none."""
    found: dict[str, dict[str, Any]] = (plain(folder / "fields.json") or {"targets": {}})["targets"]
    return found


def read_text_or_empty(file: Path) -> str:
    """The text of a small file, or nothing when it is not there."""
    return stored_files.load_text(file).strip() if file.is_file() else ""


def read_command_or_empty(folder: Path) -> str:
    """The words that a run began with, or nothing when they are not kept."""
    return stored_files.load_command(folder) if (folder / "command.txt").is_file() else ""


def drop_previous_stages(results: JsonLines) -> JsonLines:
    """Without the fits from which others have begun: of stages, the last one counts."""
    passed = {(line.get("job") or {}).get("start") for line in results}
    return [line for line in results if line.get("name") not in passed]


def read_direction_map(results: JsonLines) -> dict[str, str]:
    """Measure → 'min' or 'max', as the run has written it down; without those of which it says nothing."""
    return make_direction_map(line.get("scores") or {} for line in results)


def collect_messages(results: JsonLines) -> list[str]:
    """The different remarks that stand beside results, in their order."""
    parts = [part.strip() for line in results for part in str(line.get("note") or "").split("; ")]
    return list(dict.fromkeys(filter(None, parts)))


def get_data_warning(results: JsonLines) -> str:
    """The remark that must stand beside every score, because its data is made up (SYNTHETIC …), or nothing."""
    return next((note for note in collect_messages(results) if "SYNTHETIC" in note), "")


def get_family(job: str) -> str:
    """What the fits of one stage share: 'wider' for 'wider-fold-2' and 'wider-repeat-3'; of a plain run 'folds' for
    all its folds and 'fit' for all its seeds."""
    import re

    found = re.fullmatch(r"(?:(.+?)-)??(repeat-\d+)?-?(fold-\d+)?", job)
    if not found or not (found[2] or found[3]):
        return job
    return found[1] or ("folds" if found[3] else "fit")


def select_splits(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of (family, split): not the training rows where the family was measured on others too; test rows last."""
    keys = list(found)
    measured = {family for family, split in keys if split != "train"}
    kept = [(family, split) for family, split in keys if split != "train" or family not in measured]
    return sorted(kept, key=lambda key: key[1] == "test")


def find_changed_keys(
    configs: list[dict[str, Any]], private: tuple[str, ...] = ("output", "note")
) -> list[str]:
    """The flat keys whose values are not the same in all configs, without the private ones."""
    flats = [flatten_config(config) for config in configs]
    keys = [
        key
        for key in dict.fromkeys(key for one in flats for key in one)
        if not key.startswith(private)
    ]
    return [key for key in keys if any(one.get(key) != flats[0].get(key) for one in flats)]
