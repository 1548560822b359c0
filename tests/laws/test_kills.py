"""A run that is stopped, killed or damaged goes on, and ends with the very bits of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import threading
from datetime import datetime

import pytest
import torch
from beside import dlrun

from dlrun.cli.main import main
from dlrun.core import checkpoint, files, stored_files
from dlrun.training import trainer as engine

# dropout, batch norm, a schedule with warm-up, accumulation, a running average, and the best epoch kept: all have state
CONFIG = [
    *(
        "task=digits",
        "engine.device=cpu",
        "engine.save_every=0",
        "engine.accumulate=2",
        "engine.ema=0.9",
    ),
    *(
        "model.units=[32]",
        "model.dropout=0.3",
        "model.batch_norm=true",
        "scheduler=cosine",
        "scheduler.warmup=0.1",
    ),
    *(
        "optimizer=adam",
        "callback=[keep_best,early_stopping,tensorboard]",
        "callback.early_stopping.patience=1000",
    ),
]


def words(*more):
    """CONFIG with other values for some of its keys."""
    keys = {word.partition("=")[0] for word in more}
    return [*(word for word in CONFIG if word.partition("=")[0] not in keys), *more]


def end(process, code=0):
    """What it said until it ended by itself."""
    found, said = process.end()
    assert found == code, (found, said[-4000:])
    return said


def only_run(output):
    """The one run folder below."""
    (found,) = output.glob("*/*/*")
    return found


def outcome(run):
    """All that a run ends with: tensors of its checkpoints, rows, scores and answers. Times and places are left out."""
    states = {}
    for name in ("last.pt", "best.pt"):
        for path in run.glob(f"checkpoints/*/{name}"):
            state = checkpoint.load(path)
            states[path.parent.name, name] = state["objective"], state["learner"], state["history"]
    results = stored_files.load_json_lines(run / "results.jsonl")
    scores = [{key: value for key, value in line.items() if key != "seconds"} for line in results]
    answers = {path.name: path.read_bytes() for path in sorted((run / "predictions").iterdir())}
    return states, stored_files.load_json_lines(run / "history.jsonl"), scores, answers


def same(one, other):
    """Whether two structures are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def check_same(run, whole):
    """Compare two runs part by part, so that a failure says which part differs."""
    for part, one, other in zip(
        ("checkpoints", "history", "results", "answers"), outcome(run), outcome(whole), strict=True
    ):
        assert one and same(one, other), part


def whole_run(output, *words):
    """A run that was left alone."""
    assert main([*words, f"output={output}"]) == 0
    return only_run(output)


def kill_again_and_again(output, kills, chance, *words):
    """Begin a run, kill it at random moments while it trains, and resume it each time; answers with how many hit."""
    process, hits = dlrun(*words, f"output={output}"), 0
    for _ in range(kills):
        process.until("  epoch ", chance.randint(1, 4))
        hits += process.kill()
        process = dlrun("resume", only_run(output))
    end(process)
    return hits


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_like_one_that_was_left_alone(tmp_path):
    chosen = words("engine.epochs=60", "engine.batch_size=32")
    whole = end(dlrun(*chosen, f"output={tmp_path / 'whole'}")) and only_run(tmp_path / "whole")
    hits = kill_again_and_again(tmp_path / "killed", 20, random.Random(0), *chosen)
    assert hits >= 15
    check_same(only_run(tmp_path / "killed"), whole)


@pytest.mark.slow
def test_folds_killed_between_and_inside_them_end_like_folds_left_alone(tmp_path):
    chosen = words("protocol=kfold", "engine.epochs=15", "engine.batch_size=32")
    whole = end(dlrun(*chosen, f"output={tmp_path / 'whole'}")) and only_run(tmp_path / "whole")
    output, chance = tmp_path / "killed", random.Random(1)
    process = dlrun(*chosen, f"output={output}")
    for fold in range(4):  # as soon as this fold begins, and once more a little later
        for more in (0, chance.randint(1, 10)):
            process.until(f"fold-{fold + 1}  ")
            process.until("  epoch ", more)
            process.kill()
            process = dlrun("resume", only_run(output))
    end(process)
    check_same(only_run(output), whole)
    assert [
        line["name"] for line in stored_files.load_json_lines(only_run(output) / "results.jsonl")
    ] == [line["name"] for line in stored_files.load_json_lines(whole / "results.jsonl")]


def cut(monkeypatch, batch, act):
    """Do something once when so many batches have been learned from, in all epochs together."""
    inner, seen = engine.Trainer._should_stop, []

    def pause(trainer, learn):
        seen.append(learn)
        if sum(seen) == batch and learn:
            act(trainer)
        return inner(trainer, learn)

    monkeypatch.setattr(engine.Trainer, "_should_stop", pause)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def kill(trainer):
    raise Killed


SHORT = words("engine.epochs=4", "callback=[keep_best,early_stopping]")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("whole"), *SHORT)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("batch", [1, 24])
def test_a_signal_stops_and_saves_and_the_run_goes_on(
    tmp_path, monkeypatch, capsys, whole, number, code, batch
):
    with monkeypatch.context() as patch:
        cut(patch, batch, lambda trainer: os.kill(os.getpid(), number))
        assert main([*SHORT, f"output={tmp_path}"]) == code
    run = only_run(tmp_path)
    assert f"to go on: dlrun resume {run}" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # put back
    assert main(["resume", str(run)]) == 0
    check_same(run, whole)


def test_a_signal_during_validation_writes_no_row_twice(tmp_path, monkeypatch, whole):
    inner = engine.Trainer._should_stop

    def pause(trainer, learn):
        if trainer.split == "val" and trainer.history and not trainer.interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(trainer, learn)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Trainer, "_should_stop", pause)
        assert main([*SHORT, f"output={tmp_path}"]) == 143
    assert main(["resume", str(only_run(tmp_path))]) == 0
    check_same(only_run(tmp_path), whole)


def test_a_signal_from_outside_stops_a_process_and_the_run_goes_on(tmp_path, whole):
    process = dlrun(
        *words("engine.epochs=4000", "callback=[keep_best,early_stopping]"), f"output={tmp_path}"
    )
    assert process.until("  epoch 2/"), process.said
    process.process.send_signal(signal.SIGTERM)
    assert "dlrun resume" in end(process, 143)
    state = checkpoint.load(next(only_run(tmp_path).glob("checkpoints/*/last.pt")))
    assert 0 < state["epoch"] * 12 + state["position"] < 4000 * 12


def test_a_second_signal_stops_at_once(tmp_path, monkeypatch):
    def twice(trainer):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    cut(monkeypatch, 5, twice)
    assert main([*SHORT, f"output={tmp_path}"]) == 130


@pytest.mark.parametrize("batch", [2, 13, 30])
def test_a_kill_loses_nothing_that_matters(tmp_path, monkeypatch, whole, batch):
    with monkeypatch.context() as patch:
        cut(patch, batch, kill)
        with pytest.raises(Killed):
            main([*SHORT, f"output={tmp_path}"])
    run = only_run(tmp_path)
    assert main(["resume", str(run)]) == 0
    check_same(run, whole)


def test_a_kill_before_the_first_checkpoint_begins_anew(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        cut(patch, 1, kill)
        with pytest.raises(Killed):
            main([*SHORT, f"output={tmp_path}"])
    run = only_run(tmp_path)
    assert not list(run.glob("checkpoints/*/*"))
    assert main(["resume", str(run)]) == 0
    check_same(run, whole)


def test_a_kill_between_folds_does_not_train_a_finished_fold_again(tmp_path, monkeypatch):
    chosen = words("protocol=kfold", "protocol.folds=3", "engine.epochs=2")
    left_alone = whole_run(tmp_path / "whole", *chosen)
    trained, fit = [], engine.Trainer.fit

    def counted(trainer):
        trained.append(trainer.folder.name)
        if len(trained) == 2:
            raise Killed
        fit(trainer)

    monkeypatch.setattr(engine.Trainer, "fit", counted)
    with pytest.raises(Killed):
        main([*chosen, f"output={tmp_path / 'killed'}"])
    run = only_run(tmp_path / "killed")
    assert main(["resume", str(run)]) == 0
    assert len(trained) == 4 and trained[1] == trained[2] and len(set(trained)) == 3
    check_same(run, left_alone)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, empty])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path, monkeypatch, capsys, whole, damage, both
):
    with monkeypatch.context() as patch:
        cut(patch, 30, kill)
        with pytest.raises(Killed):
            main([*SHORT, f"output={tmp_path}"])
    run = only_run(tmp_path)
    (last,) = run.glob("checkpoints/*/last.pt")
    for path in (last, checkpoint.previous_path(last)) if both else (last,):
        damage(path)
    capsys.readouterr()
    assert main(["resume", str(run)]) == 0
    log = (run / "log.txt").read_text()
    assert f"checkpoint {last} is damaged" in log and ("goes on at epoch" in log) is not both
    assert "is damaged" in capsys.readouterr().out
    check_same(run, whole)


def test_three_runs_in_one_second_have_three_folders(tmp_path, monkeypatch):
    class Still(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 1, 2, 3, 4, 5)

    monkeypatch.setattr(files, "datetime", Still)
    made = []
    threads = [
        threading.Thread(
            target=lambda: made.append(files.create_run_folder(tmp_path, "task", "model"))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stamp = "2024-01-02_03-04-05"
    assert sorted(path.name for path in made) == [stamp, f"{stamp}-2", f"{stamp}-3"]


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    run = whole_run(tmp_path, *words("engine.epochs=1"))
    before = outcome(run)
    capsys.readouterr()
    assert main(["resume", str(run)]) == 0
    assert "nothing left to do: this run is finished" in capsys.readouterr().out
    assert same(outcome(run), before) and (run / "command.txt").read_text().startswith("dlrun ")


@pytest.mark.slow
def test_a_workflow_that_is_killed_comes_to_the_same_verdicts(tmp_path):
    """kill -9 at a random moment after every second fit: the same fits, scores and verdicts as one left alone."""
    chosen = random.Random(3)
    quick = [
        "workflow.budget=12",
        "workflow.search=2",
        "engine.epochs=8",
        "engine.save_every=0",
        "protocol=holdout",
    ]
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["workflow", "task=breast_cancer", *quick]
    end(dlrun(*words, f"output={first}"))
    process, kills = dlrun(*words, f"output={second}"), 0
    while process.until("  baseline to beat", chosen.randint(1, 3)):
        kills += process.kill()
        process = dlrun("resume", only_run(second))
    end(process)
    assert kills >= 5
    for one, other in zip(outcome(only_run(first)), outcome(only_run(second)), strict=True):
        assert same(one, other)
    assert (only_run(first) / "workflow.json").read_text() == (
        only_run(second) / "workflow.json"
    ).read_text()
