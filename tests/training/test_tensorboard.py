"""TensorBoard reads back what the history says."""

from dataclasses import dataclass, field

import pytest

from dlrun.training import tensorboard_events


@dataclass(frozen=True)
class Row:
    epoch: int
    split: str
    values: dict
    rates: dict = field(default_factory=dict)


def rows(epochs):
    return [
        Row(e, split, {"loss": 1 / e, "accuracy": e / 10})
        for e in epochs
        for split in ("train", "val")
    ]


def scalars(folder, job, split, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard" / job / split))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_appended_epochs_are_one_curve_in_one_file_for_each_split(tmp_path):
    for epoch in (1, 2, 3):
        tensorboard_events.append_events(tmp_path, rows([epoch]), "fold-1")
    assert scalars(tmp_path, "fold-1", "val", "loss") == [
        (e, pytest.approx(1 / e)) for e in (1, 2, 3)
    ]
    assert scalars(tmp_path, "fold-1", "train", "accuracy") == [
        (e, pytest.approx(e / 10)) for e in (1, 2, 3)
    ]
    content = tensorboard_events.get_events_file(tmp_path, "fold-1", "val").read_bytes()
    assert content.count(b"brain.Event:2") == 1
    files = sorted(
        file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()
    )
    assert files == [
        f"tensorboard/fold-1/{split}/events.out.tfevents.0.dlrun" for split in ("train", "val")
    ]


def test_rewriting_leaves_nothing_of_what_was_there(tmp_path):
    tensorboard_events.append_events(tmp_path, rows([1, 2, 3]), "fit")
    with tensorboard_events.get_events_file(tmp_path, "fit", "val").open("ab") as stream:
        stream.write(b"a torn record")
    tensorboard_events.append_events(tmp_path, rows([1]), "other")
    tensorboard_events.rewrite_events(
        tmp_path, [row for row in rows([1, 2]) if row.split == "val"], "fit"
    )
    assert [step for step, _ in scalars(tmp_path, "fit", "val", "loss")] == [1, 2]
    assert not tensorboard_events.get_events_file(tmp_path, "fit", "train").exists()
    assert tensorboard_events.get_events_file(tmp_path, "other", "train").exists()
    tensorboard_events.append_events(tmp_path, rows([3]), "fit")
    assert [step for step, _ in scalars(tmp_path, "fit", "val", "loss")] == [1, 2, 3]
