"""A run folder can be trusted: what ends a fit, damages a file, fills the disk or comes twice at once loses nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest

from dlrun import callbacks, checkpoint, engine, learner, rundir, stack
from dlrun.cli import main
from dlrun.objectives import supervised

pytestmark = pytest.mark.usefixtures("elsewhere")

TINY = ["task=digits", "preset=smoke", "model.units=[8]", "engine.max_steps=null", "engine.save_every=1000"]
NAN = ["optimizer=sgd", "optimizer.lr=0.1", "scheduler=step", "scheduler.every=0.5", "scheduler.factor=1e37"]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """No picture is looked at here."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, *_, **__: open(file, "wb").close())


def only_run(output):
    """The one run folder below."""
    (config,) = output.glob("*/*/*/config.yaml")
    return config.parent


def history(run):
    return rundir.lines(run / "history.jsonl")


def best_epochs(run):
    """Job → the epoch of its lowest validation loss that is written down."""
    found = {}
    for row in history(run):
        if row["split"] == "val" and row["values"]["loss"] <= found.get(row["job"], (1e9,))[0]:
            found[row["job"]] = (row["values"]["loss"], row["epoch"])
    return {job: epoch for job, (_, epoch) in found.items()}


def kept_epochs(run):
    """Job → the epoch of its best.pt."""
    return {path.parent.name: checkpoint.load(path)["epoch"] for path in run.glob("checkpoints/*/best.pt")}


def test_row_04_the_best_epoch_outlives_a_loss_that_is_nan(tmp_path, capsys):
    assert main([*TINY, *NAN, "engine.epochs=4", f"output={tmp_path}"]) == 3
    run = only_run(tmp_path)
    assert kept_epochs(run) == best_epochs(run) == {"fit": 2}
    told = capsys.readouterr().out
    assert "resume" not in told and f"dlrun rerun {run} optimizer.lr=" in told
    assert main(["evaluate", str(run)]) == 0
    assert "fit has no result" in (told := capsys.readouterr().out) and "the loss is nan" in told
    assert not rundir.lines(run / "results.jsonl")
    assert main(["report", str(run)]) == 0 and "fit has no result" in (run / "report.md").read_text()
    assert main(["visualize", str(run)]) == 0


def test_row_04_folds_trained_as_one_keep_their_best_epochs(tmp_path):
    words = [*TINY, *NAN, "protocol=kfold", "protocol.folds=2", "protocol.stacked=true", "engine.epochs=4"]
    assert main([*words, f"output={tmp_path}"]) == 3
    assert set(kept_epochs(only_run(tmp_path)).values()) == {2}


class Broken(Exception):
    """What is put in."""


PLACES = {
    "callback": (callbacks.TensorBoard, "__call__", Broken),
    "loss": (supervised.Supervised, "steps", MemoryError),
    "optimizer": (learner.Learner, "_apply", Broken),
    "evaluation": (engine.Trainer, "visit", MemoryError),
    "history": (rundir.RunDir, "append_history", OSError),
    "keeping": (engine.Trainer, "state", MemoryError),
    "writing": (engine.Trainer, "save", OSError),
}


@pytest.mark.parametrize("place", PLACES)
def test_row_04_no_exception_loses_the_best_epoch(tmp_path, monkeypatch, place):
    home, name, error = PLACES[place]
    whole, fired = getattr(home, name), []

    def broken(self, *args, **named):
        if list(tmp_path.glob("*/*/*/history.jsonl")) and len(history(only_run(tmp_path))) >= 4:
            fired.append(place)
            raise error("put in")
        return whole(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(home, name, broken)
        with suppress(Broken, MemoryError, OSError):
            assert main([*TINY, "engine.epochs=3", f"output={tmp_path}"]) in (1, 2)
    run = only_run(tmp_path)
    assert fired and kept_epochs(run) == {"fit": max(best_epochs(run)["fit"], kept_epochs(run)["fit"])}
    assert main(["evaluate", str(run)]) == 0 and main(["resume", str(run)]) == 0
    assert kept_epochs(run) == best_epochs(run) == {"fit": 3}


def test_row_04_folds_trained_as_one_lose_no_best_epoch_to_another_ones_error(tmp_path, monkeypatch):
    whole = stack.Stack.epoch

    def broken(stacked):
        if stacked.members[0].epoch == 2:
            raise Broken("put in")
        return whole(stacked)

    monkeypatch.setattr(stack.Stack, "epoch", broken)
    words = [*TINY, "protocol=kfold", "protocol.folds=2", "protocol.stacked=true", "engine.epochs=4"]
    with pytest.raises(Broken):
        main([*words, f"output={tmp_path}"])
    assert kept_epochs(only_run(tmp_path)) == best_epochs(only_run(tmp_path)) == {"fold-1": 2, "fold-2": 2}
