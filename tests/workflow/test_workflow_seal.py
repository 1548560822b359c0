"""What a review found: verdicts that a kill loses, test rows that open unseen, and settings changed half-way."""

import json
import os

import pytest
from test_workflow import HOLD, Cut, folder, results, told

from dlrun.cli.main import main
from dlrun.core import run_folder, stored_files
from dlrun.core.formatting import get_known_direction
from dlrun.evaluation import test_ledger, worst_errors
from dlrun.experiment.runner import Experiment
from dlrun.workflow.workflow import Workflow


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dlrun.report.build.write_report", lambda folder: [folder / "report.html"])


def finished(*words):
    assert main(["workflow", "task=wine", *HOLD, *words]) == 0
    return folder()


def openings():
    return [(entry.reason, bool(entry.score)) for entry in test_ledger.read_entries()[0]]


def test_a_kill_before_the_last_verdict_loses_nothing(monkeypatch):
    run = finished()
    whole, tell = told(), Workflow.record_verdicts
    os.rename("outputs", "whole")

    def cut(self, found):
        if any(verdict.step == 7 for verdict in found):
            raise Cut
        tell(self, found)

    monkeypatch.setattr(Workflow, "record_verdicts", cut)
    with pytest.raises(Cut):
        finished()
    monkeypatch.setattr(Workflow, "record_verdicts", tell)
    assert 7 not in told()
    assert main(["resume", folder()]) == 0
    assert told() == whole
    assert run.split("/")[1] == "wine"


def test_an_opening_is_entered_before_a_row_is_read(monkeypatch):
    run = finished()
    write = worst_errors.write_largest_errors

    def cut(folder, name, split, *rest):
        if split == "test":
            raise Cut
        return write(folder, name, split, *rest)

    monkeypatch.setattr(worst_errors, "write_largest_errors", cut)
    with pytest.raises(Cut):
        main(["final", run])
    assert openings() == [("", False)]
    monkeypatch.setattr(worst_errors, "write_largest_errors", write)
    assert main(["final", run]) == 0  # the same opening goes on
    assert openings() == [("", True)] and 8 in told()


def test_a_kill_while_the_results_of_the_test_are_written_opens_nothing_twice(monkeypatch):
    run = finished("workflow.measure=accuracy")
    complete = test_ledger.add_score
    monkeypatch.setattr(test_ledger, "add_score", lambda *_: (_ for _ in ()).throw(Cut))
    with pytest.raises(Cut):
        main(["final", run])
    monkeypatch.setattr(test_ledger, "add_score", complete)
    tests = [line for line in results() if line["split"] == "test"]
    assert tests and main(["final", run]) == 0
    assert [line for line in results() if line["split"] == "test"] == tests
    assert len(openings()) == 1


def test_more_seeds_are_another_opening():
    assert main(["task=wine", "repeat=2", "test=true", "engine.epochs=1"]) == 0
    (run,) = [path.path for path in os.scandir("outputs/wine/dense")]
    lines = stored_files.load_json_lines(run_folder.Path(run) / "results.jsonl")
    kept = [line for line in lines if line["name"] != "repeat-2" or line["split"] != "test"]
    with open(f"{run}/results.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in kept)
    assert main(["resume", run]) == 2
    assert len(openings()) == 1


def test_two_runs_at_once_open_the_rows_once(monkeypatch):
    """The reason is asked for again at the moment of opening: a run that began earlier may have opened them."""
    run, check = finished(), Experiment._check_test_allowed
    monkeypatch.setattr(Experiment, "_check_test_allowed", lambda self: None)
    assert main(["task=wine", "test=true", "engine.epochs=1"]) == 0
    assert main(["final", run]) == 2  # found out when it would open them, under the ledger's lock
    assert len(openings()) == 1
    monkeypatch.setattr(Experiment, "_check_test_allowed", check)
    assert main(["final", run, 'reason="the other was first"']) == 0


@pytest.mark.parametrize(
    "word", ["optimizer.lr=0.9", "seed=7", "workflow.seeds=9", "model.units=[1]", "test=false"]
)
def test_final_takes_no_settings(word, capsys):
    run = finished()
    before = results()
    assert main(["final", run, word]) == 2
    assert "reason" in capsys.readouterr().err and results() == before and not openings()


@pytest.mark.parametrize(
    "word", ["optimizer.lr=0.9", "seed=7", "workflow.search=0", "workflow.measure=f1"]
)
def test_a_workflow_is_resumed_as_it_began(word, monkeypatch, capsys):
    train = Experiment.train

    def cut(self, fit, watch=None):
        if fit.job.stage == "configured":
            raise Cut
        return train(self, fit, watch)

    monkeypatch.setattr(Experiment, "train", cut)
    with pytest.raises(Cut):
        finished()
    monkeypatch.setattr(Experiment, "train", train)
    assert main(["resume", folder(), word]) == 2
    assert "workflow.budget" in capsys.readouterr().err
    assert main(["resume", folder(), "workflow.budget=5"]) == 0


def test_a_config_that_was_edited_between_is_noticed(capsys):
    run = finished()
    path = run_folder.Path(run) / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 0.002"))
    assert main(["resume", run]) == 2
    assert "was changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["scheduler=plateau"], "watches val/loss"),
        (["protocol=whole"], "holds no rows out"),
        (["preset=overfit"], "engine.overfit"),
        (["+workflow.study.other={protocol.folds: 3}"], "nothing is called 'protocol.folds'"),
        (["+workflow.study.other={data.test: 0.5}"], "nothing is called 'data.test'"),
        (["workflow.study={other: {rate: 2}}"], "+workflow.study.NAME"),
    ],
)
def test_what_a_workflow_cannot_do_is_refused_at_once(words, message, capsys):
    assert (
        main(
            [
                "workflow",
                "task=wine",
                *HOLD[:-1],
                *([] if "protocol=whole" in words else HOLD[-1:]),
                *words,
            ]
        )
        == 2
    )
    assert message in capsys.readouterr().err
    assert not os.path.exists("outputs/wine/workflow") or not os.listdir("outputs/wine/workflow")


def test_a_candidate_that_is_impossible_is_a_line_and_no_end():
    run = finished("+workflow.study.other={model.dropout: 2}", "workflow.budget=20")
    assert any("other" in line and "failed" in line for line in told()[7]["evidence"])
    assert main(["final", run]) == 0


def test_no_two_candidates_are_the_same():
    finished("workflow.search=8", "workflow.budget=40")
    patches = [json.dumps(line["job"]["patch"], sort_keys=True) for line in results()]
    assert len(patches) == len(set(patches)) > 10


def test_the_epochs_are_those_of_the_weights_that_were_scored():
    finished("callback.keep_best.monitor=val/accuracy")
    kept = {line["name"]: line["checkpoint"] for line in results()}
    for name, *_, epoch, _ in told()[7]["tables"][0]["rows"]:
        if epoch:
            assert kept[name.partition(" (")[0]] == f"best (epoch {epoch})"


def test_a_verdict_and_the_table_have_one_interval():
    finished()
    for name, _, text, *_ in told()[7]["tables"][0]["rows"]:
        score = next(line for line in results() if line["name"] == name.partition(" (")[0])[
            "scores"
        ]["accuracy"]
        assert text == f"{score['value']:.4f} [{score['low']:.4f}, {score['high']:.4f}]"


@pytest.mark.parametrize(
    "measure, lower",
    [("error_accuracy", False), ("loss_roc_auc", False), ("loss", True), ("loss_generator", True), ("price_mae", True),
     ("error_f1", False), ("top_k", False), ("y_r2", False), ("rmse", True), ("exact_match", False)],
)  # fmt: skip
def test_the_measure_says_which_way_is_better_and_not_its_target(measure, lower):
    assert (get_known_direction(measure) == "min") is lower
