"""Runs whose fits are trained as one: folds, repeats and members of a sweep, from words to results."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager

import pytest
import yaml

from dlrun.cli.main import main
from dlrun.config import parallel_fits
from dlrun.config.compose import configure
from dlrun.config.instantiate import apply_patch
from dlrun.core.errors import TrainingDiverged, TrainingInterrupted, UserError
from dlrun.core.run_folder import RunFolder
from dlrun.experiment.parallel_sweep import run_parallel
from dlrun.experiment.runner import Experiment

WORDS = [
    "task=wine",
    "optimizer=sgd",
    "engine.device=cpu",
    "engine.epochs=3",
    "engine.batch_size=16",
    "model.units=[8]",
]
FOLDS = ["protocol=kfold", "protocol.folds=4"]


def config(*words):
    return configure([*WORDS, *words], [])


def carried_out(folder, *words, watch=None):
    folder.mkdir()
    found = Experiment(config(*words), folder).results(watch)
    return found, [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def told(results):
    return {
        r.job.name: {name: pytest.approx(s.value, abs=1e-5) for name, s in r.scores.items()}
        for r in results
    }


def plain(results):
    return {r.job.name: {name: s.value for name, s in r.scores.items()} for r in results}


def by_job(history):
    return {(line["job"], line["epoch"], line["split"]): line["values"] for line in history}


class Watched:
    """Notes what was shown: the name of each fit, or of several, and its epochs."""

    def __init__(self, stop=0):
        self.shown, self.stop = [], stop

    @contextmanager
    def __call__(self, trainer, job, baseline):
        self.shown.append([job.name, 0, baseline])
        trainer.callbacks.append(self.after)
        yield

    def after(self, trainer):
        self.shown[-1][1] += 1
        if trainer.epoch == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "words", [FOLDS, [*FOLDS, "loss_weights={grower: 0.5}"], ["repeat=3", "model.dropout=0.3"]]
)
def test_a_stacked_run_is_the_run(tmp_path, words):
    one, alone = carried_out(tmp_path / "alone", *words, "protocol.stacked=false")
    watch = Watched()
    other, stacked = carried_out(tmp_path / "stacked", *words, "protocol.stacked=true", watch=watch)
    assert [(r.job, r.split, r.epochs, r.checkpoint) for r in one] == [
        (r.job, r.split, r.epochs, r.checkpoint) for r in other
    ]
    assert plain(other) == told(one)
    assert {key: pytest.approx(value, abs=1e-5) for key, value in by_job(alone).items()} == by_job(
        stacked
    )
    assert [r.baseline for r in one] == [r.baseline for r in other]
    assert watch.shown == [[f"{len(one)} fits", 3, watch.shown[0][2]]] and watch.shown[0][2]
    for result in other:
        for name in ("checkpoints/{}/best.pt", "predictions/{}-val.npz", "preparation/{}.json"):
            assert (tmp_path / "stacked" / name.format(result.job.name)).exists()
    assert 0 < sum(result.seconds for result in other) < 60


def test_auto_stacks_what_is_small_and_nothing_else(tmp_path):
    small, large = Watched(), Watched()
    carried_out(tmp_path / "small", *FOLDS, watch=small)
    assert [shown[0] for shown in small.shown] == ["4 fits"]
    carried_out(
        tmp_path / "large", *FOLDS, "model.units=[2000, 50]", "engine.epochs=1", watch=large
    )
    assert [shown[0] for shown in large.shown] == ["fold-1", "fold-2", "fold-3", "fold-4"]
    other = Watched()
    carried_out(tmp_path / "other", *FOLDS, "optimizer=nadam", watch=other)
    assert len(other.shown) == 4


@pytest.mark.parametrize("then", ["true", "false"])
def test_a_stacked_run_that_is_stopped_goes_on_together_or_alone(tmp_path, then):
    whole, _ = carried_out(tmp_path / "whole", *FOLDS, "protocol.stacked=true")
    with pytest.raises(TrainingInterrupted):
        carried_out(tmp_path / "cut", *FOLDS, "protocol.stacked=true", watch=Watched(stop=2))
    assert not RunFolder(tmp_path / "cut").read_results()
    assert len(list((tmp_path / "cut" / "checkpoints").glob("*/last.pt"))) == 4
    again = Experiment(config(*FOLDS, f"protocol.stacked={then}"), tmp_path / "cut").results()
    assert plain(again) == (plain(whole) if then == "true" else told(whole))
    history = [
        json.loads(line) for line in (tmp_path / "cut" / "history.jsonl").read_text().splitlines()
    ]
    assert len(history) == len(by_job(history)) == 4 * 3 * 2


def test_a_run_that_was_stopped_between_folds_goes_on_with_the_others_together(tmp_path):
    class AfterTwo(Watched):
        def after(self, trainer):
            super().after(trainer)
            if len(self.shown) == 2 and trainer.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    whole, _ = carried_out(tmp_path / "whole", *FOLDS, "protocol.stacked=false")
    with pytest.raises(TrainingInterrupted):
        carried_out(tmp_path / "cut", *FOLDS, "protocol.stacked=false", watch=AfterTwo())
    watch = Watched()
    again = Experiment(config(*FOLDS, "protocol.stacked=true"), tmp_path / "cut").results(watch)
    assert sorted(shown[0] for shown in watch.shown) == ["2 fits", "fold-2"]
    assert plain(again) == told(whole) and [r.job.fold for r in again] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["optimizer=nadam"], "optimizer is none of SGD, RMSprop, Adam, AdamW"),
        (["engine.clip_norm=1"], "engine.clip_norm bounds the gradient of one model"),
        (["engine.accumulate=2"], "engine.accumulate is above 1"),
        (["scheduler=plateau"], "scheduler=plateau watches each fit by itself"),
        (["model=convnet"], "model convnet has layers that cannot be stacked"),
    ],
)
def test_what_cannot_be_stacked_is_refused_by_name_before_it_is_trained(tmp_path, words, reason):
    task = ["task=digits"] if "model=convnet" in words else WORDS
    with pytest.raises(UserError, match=f"protocol.stacked=true: .*{reason}"):
        Experiment(
            configure([*task, *FOLDS, "protocol.stacked=true", *words], []), tmp_path
        ).results()
    assert not (tmp_path / "history.jsonl").exists()


def test_stacked_is_checked_and_older_runs_say_nothing_of_it(tmp_path, capsys):
    assert main([*WORDS, "protocol.stacked=maybe"]) == 2
    assert "protocol.stacked='maybe': it must be true, false or auto" in capsys.readouterr().err
    older = config(*FOLDS)
    del older["protocol"]["stacked"]
    watch = Watched()
    assert len(Experiment(older, tmp_path).results(watch)) == 4
    assert len(watch.shown) == 4


def test_members_of_a_sweep_are_as_each_alone(tmp_path):
    own = [
        ["optimizer.lr=0.01"],
        ["optimizer.lr=0.1", "optimizer.weight_decay=0.01", "model.dropout=0.4"],
        ["seed=3", "optimizer.momentum=0.9"],
        ["optimizer.lr=1e30"],
    ]
    words = ["protocol.stacked=true", *FOLDS]
    alone = [
        carried_out(tmp_path / f"alone-{n}", *words, *mine)[0] for n, mine in enumerate(own[:3])
    ]
    configs = [config(*words, *mine) for mine in own]
    folders = [tmp_path / f"{number:03}" for number in range(4)]
    for folder in folders:
        folder.mkdir()
    watch = Watched()
    outcomes = run_parallel(configs, folders, (), watch)
    for outcome, mine, folder in zip(outcomes, alone, folders, strict=False):
        assert outcome.error is None and plain(outcome.results) == told(mine)
        assert plain(RunFolder(folder).read_results()) == plain(outcome.results)
    assert isinstance(outcomes[3].error, TrainingDiverged) and not outcomes[3].results
    assert [shown[0] for shown in watch.shown] == ["16 fits"]


def test_configs_are_grouped_by_what_they_have_in_common():
    base = config(*FOLDS)
    own = {
        "optimizer.lr": 1.0,
        "optimizer.momentum": 0.5,
        "model.dropout": 0.1,
        "seed": 4,
        "output": "elsewhere",
    }
    alike_ones = [apply_patch(base, {key: value}) for key, value in own.items()]
    others = [apply_patch(base, {"model.units": [9]}), apply_patch(base, {"engine.epochs": 9})]
    apart = [
        apply_patch(base, {"protocol.stacked": False}),
        apply_patch(base, {"engine.clip_norm": 1.0}),
    ]
    before = yaml.safe_dump(base)
    groups = parallel_fits.group_compatible(
        [base, others[0], *alike_ones, *apart, others[1], *apart]
    )
    assert groups == [[0, 2, 3, 4, 5, 6], [1], [7], [8], [9], [10], [11]]
    assert yaml.safe_dump(base) == before


def test_what_a_job_costs_may_be_asked_of_jobs_that_are_trained_as_one(tmp_path):
    """The table is drawn after the first has ended, when nothing is known of the others' costs yet."""
    words = ["-m", "task=wine", "optimizer.lr=0.1,0.01", "engine.epochs=1", "protocol.stacked=true"]
    assert main([*words, "sweep.measure=[val/accuracy,parameters]", f"output={tmp_path}"]) == 0
