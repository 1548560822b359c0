"""What a study is told of jobs: of those that have just ended, and of those that earlier starts have left."""

from __future__ import annotations

from pathlib import Path

from dlrun.core.stored_files import lines
from dlrun.sweeps.folder import OVER, SweepFolder
from dlrun.sweeps.study import Outcome, Recalled

Scored = tuple[dict[str, float], dict[str, str]]  # measure → its mean; measure → which way it is better
NOTHING: Scored = ({}, {})


def told_of(folder: SweepFolder, number: int, scored: Scored) -> Outcome | None:
    """What came of a job with these scores; None where it has not ended."""
    entry = folder.entries[number]
    if entry["status"] not in OVER:
        return None
    costs = {name: float(entry.get(name, 0)) for name in ("parameters", "seconds")}
    scores, goals = scored
    told = {**scores, **costs} if entry["status"] != "failed" else {}
    return Outcome(entry["status"], told, entry["error"], len(epochs(folder.place(number))), goals)


def recalled(folder: SweepFolder, number: int, scored: Scored) -> Recalled:
    """A job of an earlier start, as a study takes it in; scored: of the job that it is, or is the same as."""
    entry = folder.entries[number]
    of = entry["of"] if entry["status"] == "same" else number
    return Recalled(number, entry["own"], told_of(folder, of, scored), epochs(folder.place(of)))


def epochs(place: Path) -> list[tuple[int, dict[str, float]]]:
    """(epoch, 'split/measure' → value) of each epoch of the run in this folder, counted on from fit to fit."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in lines(place / "history.jsonl"):
        values = {f"{row['split']}/{name}": value for name, value in row["values"].items()}
        found.setdefault((row["job"], row["epoch"]), {}).update(values)
    return list(enumerate(found.values(), 1))
