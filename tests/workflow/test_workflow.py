"""The workflow as a user runs it: on real rows, on noise, cut anywhere, and with its test rows closed."""

import json
import os

import numpy as np
import pytest

from dlrun.cli.main import main
from dlrun.evaluation import test_ledger
from dlrun.experiment.builder import ExperimentBuilder
from dlrun.experiment.runner import Experiment
from dlrun.training.optimization import Optimization

QUICK = [
    "workflow.search=1",
    "workflow.budget=9",
    "engine.epochs=4",
    "engine.batch_size=32",
    "callback=[keep_best]",
    "workflow.seeds=2",
]

HOLD = [*QUICK, "protocol=holdout"]  # one fit a stage: quicker than what small tables get


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def undrawn(monkeypatch):
    """Without the report, which has tests of its own and takes as long as the fits."""
    monkeypatch.setattr("dlrun.report.build.write_report", lambda folder: [folder / "report.html"])


def folder():
    (found,) = [
        path for path in os.scandir("outputs") for path in os.scandir(path.path + "/workflow")
    ]
    return found.path


def told():
    with open(f"{folder()}/workflow.json") as file:
        return {entry["step"]: entry for entry in json.load(file)}


def results():
    with open(f"{folder()}/results.jsonl") as file:
        found = [json.loads(line) for line in file]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def table(rows=240, seed=0, noise=False, leak=False, twice=0):
    """A CSV of rows whose class depends on their numbers, or on nothing."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, 4)).round(4)
    score = (
        random.standard_normal(rows)
        if noise
        else x @ [2, -1, 1, 0] + 0.3 * random.standard_normal(rows)
    )
    y = np.where(score > 0, "yes", "no")
    head, columns = ["a", "b", "c", "d"], [*x.T.astype(str)]
    if leak:
        head, columns = [*head, "code"], [*columns, np.where(score > 0, 7.25, 3.5).astype(str)]
    lines = [
        ",".join([*cells, answer])
        for cells, answer in zip(zip(*columns, strict=True), y, strict=True)
    ]
    lines += [lines[n] for n in random.integers(0, rows, twice)]
    with open("table.csv", "w") as file:
        file.write("\n".join([",".join([*head, "answer"]), *lines]) + "\n")
    return ["task=csv", "data.path=table.csv", "data.target=answer"]


def test_the_seven_steps_and_the_test(capsys):
    assert main(["workflow", "task=breast_cancer", *QUICK]) == 0
    steps = told()
    assert list(steps) == [1, 2, 3, 4, 5, 6, 7] and not steps[5]["stopped"]
    assert {line["split"] for line in results()} == {"val"}
    assert main(["final", folder()]) == 0
    names = (
        ["final"] if steps[7]["winner"] == "linear" else ["final", "final-repeat-2", "final_linear"]
    )
    fits = len(names)  # what is solved has no luck of the seed
    assert "test rows" in told()[8]["verdict"] and ("± " in told()[8]["verdict"]) == (fits > 1)
    tests = [line for line in results() if line["split"] == "test"]
    assert [line["name"] for line in tests] == names
    (entry,) = test_ledger.read_entries()[0]
    assert entry.task == "breast_cancer" and entry.score["accuracy"] > 0.9
    said = capsys.readouterr().out
    assert all(f"{step}. {steps[step]['title']}" in said for step in steps)


def test_the_test_rows_are_opened_once(undrawn):
    assert main(["workflow", "task=wine", *HOLD]) == 0
    assert main(["final", folder()]) == 0
    assert main(["final", folder()]) == 0  # nothing left to do
    assert len(test_ledger.read_entries()[0]) == 1
    assert main(["task=wine", "test=true", "engine.epochs=1"]) == 2
    assert main(["task=wine", "test=true", "engine.epochs=1", 'reason="a test"']) == 0
    assert [entry.reason for entry in test_ledger.read_entries()[0]] == ["", "a test"]
    assert main(["evaluate", folder(), "test=true"]) == 2


def test_no_test_row_is_read_before_the_end(monkeypatch, undrawn):
    def poisoned(self):
        raise AssertionError("the test rows were read")

    monkeypatch.setattr(ExperimentBuilder, "test_rows", property(poisoned))
    before = ExperimentBuilder.__init__

    def init(self, *arguments):
        before(self, *arguments)
        assert self.dataset.test is not None
        object.__setattr__(self.dataset, "test", lambda: poisoned(self))

    monkeypatch.setattr(ExperimentBuilder, "__init__", init)
    assert main(["workflow", "task=wine", *HOLD]) == 0
    with pytest.raises(AssertionError, match="test rows were read"):
        main(["final", folder()])


def test_noise_stops_at_step_five(undrawn):
    assert main(["workflow", *table(noise=True), *HOLD]) == 0
    assert told()[5]["stopped"] and max(told()) == 5
    assert told()[5]["verdict"].startswith("Nothing beats the constant baseline")
    assert main(["final", folder()]) == 2


def test_the_config_can_be_seen_without_a_fit(capsys):
    assert main(["workflow", "task=wine", "workflow.budget=3", "--cfg", "job"]) == 0
    assert "budget: 3" in capsys.readouterr().out and not os.path.exists("outputs")


def test_a_smoke_run_can_be_ended():
    """Twenty steps at most: a solved model then has no epoch."""
    assert (
        main(["workflow", "task=wine", "preset=smoke", "workflow.budget=3", "protocol=holdout"])
        == 0
    )
    assert main(["final", folder()]) == 0
    assert "test rows" in told()[8]["verdict"]


def test_leaks_are_named(undrawn):
    assert main(["workflow", *table(leak=True, twice=40), *HOLD]) == 0
    with open(f"{folder()}/audit.json") as file:
        leaks = [finding for finding in json.load(file) if finding["severity"] == "leak"]
    assert any(finding["columns"] == ["code"] for finding in leaks)
    assert any("duplicate" in finding["what"] for finding in leaks)
    assert "LEAK" in told()[1]["verdict"]


class Cut(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    "task",
    [["task=wine", "protocol=kfold", "protocol.folds=2"], ["task=diabetes", "protocol=holdout"]],
)
def test_cut_at_every_boundary_it_comes_to_the_same(task, monkeypatch, undrawn):
    words = ["workflow", *task, *QUICK, "workflow.budget=14"]
    assert main(words) == 0
    whole, verdicts = results(), told()
    os.rename("outputs", "whole")
    train, seen = Experiment.train, []

    def cut(self, fit, watch=None):
        if fit.job.name not in seen:
            seen.append(fit.job.name)
            raise Cut
        return train(self, fit, watch)

    monkeypatch.setattr(Experiment, "train", cut)
    with pytest.raises(Cut):
        main(words)
    for _ in whole[1:]:
        with pytest.raises(Cut):
            main(["resume", folder()])
    assert main(["resume", folder()]) == 0
    assert len(seen) == len(whole) > 6
    assert results() == whole and told() == verdicts


def test_cut_in_the_middle_of_every_fit_it_comes_to_the_same(monkeypatch, undrawn):
    words = ["workflow", "task=wine", "protocol=holdout", *QUICK, "engine.save_every=0"]
    assert main(words) == 0
    whole, verdicts = results(), told()
    os.rename("outputs", "whole")
    learn, cuts, again = Optimization.step, [], []

    def cut(self, *arguments):
        learn(self, *arguments)
        if sum(self.steps_taken.values()) == 7 and not again:
            cuts.append(1)
            again.append(1)  # the same step is taken once more after the resume
            raise Cut
        if sum(self.steps_taken.values()) == 7:
            again.clear()

    monkeypatch.setattr(Optimization, "step", cut)
    code = None
    for _ in range(2 * len(whole)):
        try:
            code = main(["resume", folder()] if os.path.exists("outputs") else words)
            break
        except Cut:
            continue
    assert code == 0 and len(cuts) >= 5
    assert results() == whole and told() == verdicts


def test_a_candidate_that_diverges_is_a_line_and_no_end(undrawn):
    words = [
        "+workflow.study.afterall={optimizer.lr: 1e30}",
        "workflow.budget=20",
        "protocol=holdout",
    ]
    assert main(["workflow", "task=diabetes", *QUICK, *words]) == 0
    assert any("afterall" in line and "failed" in line for line in told()[7]["evidence"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["test=true"], "dlrun final"),
        (["repeat=3"], "no repeat"),
        (["-m", "seed=1,2"], "takes no -m"),
        (["workflow=slow"], "no workflow 'slow'"),
        (["workflow.budgett=3"], "did you mean"),
        (["workflow.measure=f2"], "f2"),
        (["workflow.search=-1"], "workflow.search=-1"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message, capsys):
    assert main(["workflow", "task=wine", *words]) == 2
    assert message in capsys.readouterr().err
    assert not os.path.exists("outputs/wine/workflow") or not os.listdir("outputs/wine/workflow")


def test_a_workflow_is_rerun_as_a_workflow(undrawn):
    assert main(["workflow", "task=wine", *HOLD]) == 0
    first, before = folder(), told()
    os.rename(first, "first")
    assert main(["rerun", "first"]) == 0
    assert told() == before


@pytest.mark.slow
def test_shuffled_labels_beat_the_baseline_about_once_in_twenty(undrawn):
    """20 seeds of noise: a nominal one-sided 2.5 % for each of three models allows one or two."""
    beaten = 0
    for seed in range(20):
        words = table(noise=True, seed=seed, rows=300)
        assert main(["workflow", *words, *QUICK, f"output=seed-{seed}"]) == 0
        (found,) = os.scandir(f"seed-{seed}/csv/workflow")
        with open(f"{found.path}/workflow.json") as file:
            beaten += not json.load(file)[4]["stopped"]
    print(f"{beaten} of 20 beat the baseline")
    assert beaten <= 3
