"""TensorBoard event files, written without torch.utils.tensorboard.

Training and validation are two runs with the same tags, so that TensorBoard lays their curves over
each other. Histograms, graphs and images have a run of their own and a file for each epoch: an
epoch that is done again is not there twice.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dlrun.core.files import atomic_write, make_file_names, write_text
from dlrun.core.run_folder import RunFile, RunFolder

if TYPE_CHECKING:
    import numpy as np

    from dlrun.core.types import EpochRecord


HISTORY_FILE = "events.out.tfevents.0.dlrun"
EPOCH_FILE = "events.out.tfevents.{:06}.dlrun"
BINS = 30


def append_events(folder: Path, rows: Iterable[EpochRecord], job: str) -> None:
    """Append a job's rows to <folder>/tensorboard/<job>/<split>/.

    Each value is a scalar at its epoch.
    """
    for split, split_rows in _group_by_split(rows).items():
        file = get_events_file(folder, job, split)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream:
            _write_events(stream, split_rows, opening=stream.tell() == 0)


def rewrite_events(folder: Path, rows: Iterable[EpochRecord], job: str) -> None:
    """Start a job's files anew from its whole history, as after a resume.

    Splits it no longer has lose theirs.
    """
    by_split = _group_by_split(rows)
    for stale in (get_job_folder(folder, job)).glob(f"*/{HISTORY_FILE}"):
        # Else TensorBoard would go on showing a curve that no longer exists.
        if stale.parent.name not in by_split:
            stale.unlink()
    for split, split_rows in by_split.items():
        file = get_events_file(folder, job, split)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{os.getpid()}")  # no name that TensorBoard would read
        with temporary.open("wb") as stream:
            _write_events(stream, split_rows, opening=True)
        os.replace(temporary, file)


def get_job_folder(folder: Path, job: str) -> Path:
    """Where the event files of one job are."""
    return RunFolder(folder).path(RunFile.TENSORBOARD) / job


def get_events_file(folder: Path, job: str, split: str) -> Path:
    """Where the events of one job and split are."""
    return get_job_folder(folder, job) / split / HISTORY_FILE


def write_epoch_events(folder: Path, job: str, epoch: int, event_fields: Mapping[str, Any]) -> None:
    """Write the event file of one epoch in <folder>/tensorboard/<job>/model/, in the place of one
    that is there.

    parts: what an Event holds: `summary` from `build_histogram_summary` or `build_image_summary`,
        `graph_def` from `encode_graph`.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    with (
        atomic_write(get_job_folder(folder, job) / "model" / EPOCH_FILE.format(epoch)) as fresh,
        fresh.open("wb") as stream,
    ):
        writer, wall_time = RecordWriter(stream), time.time()
        writer.write(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
        for name, value in event_fields.items():
            writer.write(
                Event(wall_time=wall_time, step=epoch, **{name: value}).SerializeToString()
            )
        writer.flush()


def remove_later_events(folder: Path, job: str, epoch: int) -> None:
    """Take away the files of epochs after this one."""
    for file in (get_job_folder(folder, job) / "model").glob(EPOCH_FILE.replace("{:06}", "*")):
        if int(file.suffixes[-2][1:]) > epoch:
            file.unlink()


def build_histogram_summary(values: Mapping[str, np.ndarray]) -> Any:
    """A Summary with a histogram of each array's finite numbers."""
    import numpy as np
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    entries = []
    for tag, array in values.items():
        # A histogram of nan or inf cannot be drawn.
        numbers = array[np.isfinite(array)].astype(np.float64)
        if len(numbers):
            counts, edges = np.histogram(numbers, BINS)
            ends = {"min": numbers.min(), "max": numbers.max(), "num": len(numbers)}
            sums = {"sum": numbers.sum(), "sum_squares": np.square(numbers).sum()}
            shape = HistogramProto(
                **ends, **sums, bucket_limit=edges[1:].tolist(), bucket=counts.tolist()
            )
            entries.append(Summary.Value(tag=tag, histo=shape))
    return Summary(value=entries)


def build_image_summary(values: Mapping[str, np.ndarray]) -> Any:
    """A Summary of images, uint8 (H, W) or (H, W, 3)."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    entries = []
    for tag, array in values.items():
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        size = {
            "height": array.shape[0],
            "width": array.shape[1],
            "colorspace": 3 if array.ndim == 3 else 1,
        }
        entries.append(
            Summary.Value(
                tag=tag, image=Summary.Image(**size, encoded_image_string=file.getvalue())
            )
        )
    return Summary(value=entries)


def encode_graph(nodes: Iterable[tuple[str, str, Sequence[str]]]) -> bytes:
    """A network's graph from (name, kind, names of the nodes that it reads).

    Dots in names become levels.
    """
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.node_def_pb2 import NodeDef

    level = lambda name: name.replace(".", "/")  # noqa: E731
    definitions = [
        NodeDef(name=level(name), op=kind, input=map(level, reads)) for name, kind, reads in nodes
    ]
    return bytes(GraphDef(node=definitions).SerializeToString())


def write_projector(
    folder: Path, job: str, words: Mapping[str, tuple[np.ndarray, Sequence[str]]]
) -> None:
    """Write vectors (size, width) and their words for TensorBoard's projector, in the place of
    those that are there.
    """
    model_folder, config, file_names = (
        get_job_folder(folder, job) / "model",
        [],
        make_file_names(words),
    )
    for layer, (vectors, labels) in words.items():
        name = file_names[layer]
        lines = ("\t".join(f"{value:.6g}" for value in row) for row in vectors.tolist())
        write_text(model_folder / f"{name}-vectors.tsv", "".join(f"{line}\n" for line in lines))
        word_lines = [
            " ".join(label.split()) or f"({number})" for number, label in enumerate(labels)
        ]
        word_lines = word_lines or [f"({number})" for number in range(len(vectors))]
        write_text(model_folder / f"{name}-words.tsv", "".join(f"{line}\n" for line in word_lines))
        paths = f'  tensor_path: "{name}-vectors.tsv"\n  metadata_path: "{name}-words.tsv"\n'
        config.append(f'embeddings {{\n  tensor_name: "{name}"\n{paths}}}\n')
    write_text(model_folder / "projector_config.pbtxt", "".join(config))


def _group_by_split(rows: Iterable[EpochRecord]) -> dict[str, list[EpochRecord]]:
    by_split: dict[str, list[EpochRecord]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(row)
    return by_split


def _write_events(stream: IO[bytes], rows: list[EpochRecord], opening: bool) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    writer = RecordWriter(stream)
    wall_time = time.time()
    if opening:
        writer.write(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
    for row in rows:
        rates = {
            "learning_rate" + (f"/{name}" if name != "lr" else ""): rate
            for name, rate in row.rates.items()
        }
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in (row.values | rates).items()
        ]
        writer.write(
            Event(
                wall_time=wall_time, step=row.epoch, summary=Summary(value=values)
            ).SerializeToString()
        )
    writer.flush()
