"""Writes TensorBoard event files from a run's history, without torch.utils.tensorboard: one for each job and split.

Train and val are two runs with the same tags, so that TensorBoard lays their curves over each other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from dlrun.types import Row

NAME = "events.out.tfevents.0.dlrun"


def append(folder: Path, rows: Iterable[Row], job: str) -> None:
    """Append a job's rows to <folder>/tensorboard/<job>/<split>/; each value is a scalar at its epoch."""
    for split, some in _by_split(rows).items():
        file = events_file(folder, job, split)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream:
            _write(stream, some, opening=stream.tell() == 0)


def rewrite(folder: Path, rows: Iterable[Row], job: str) -> None:
    """Start a job's files anew from its whole history, as after a resume; splits it no longer has lose theirs."""
    by_split = _by_split(rows)
    for stale in (folder / "tensorboard" / job).glob(f"*/{NAME}"):
        if stale.parent.name not in by_split:
            stale.unlink()
    for split, some in by_split.items():
        file = events_file(folder, job, split)
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{os.getpid()}")  # no name that TensorBoard would read
        with fresh.open("wb") as stream:
            _write(stream, some, opening=True)
        os.replace(fresh, file)


def events_file(folder: Path, job: str, split: str) -> Path:
    """Where the events of one job and split are."""
    return folder / "tensorboard" / job / split / NAME


def _by_split(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.split, []).append(row)
    return found


def _write(stream: IO[bytes], rows: list[Row], opening: bool) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    writer = RecordWriter(stream)
    now = time.time()
    if opening:
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for row in rows:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
        writer.write(Event(wall_time=now, step=row.epoch, summary=Summary(value=values)).SerializeToString())
    writer.flush()
