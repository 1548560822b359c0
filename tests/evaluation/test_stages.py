"""Fits in two stages: the second begins where the first was best, and each is one fit of the plan."""

from __future__ import annotations

import json

import pytest
import torch

from dlrun.cli.compare import get_compared_results
from dlrun.cli.main import main
from dlrun.config.instantiate import to_dotted_keys
from dlrun.core import checkpoint
from dlrun.core.types import Result
from dlrun.evaluation.protocols.plans import HoldOutPlan, KFoldPlan
from dlrun.evaluation.protocols.two_stages import FIRST_STAGE, StageSettings, TwoStagePlan

STAGES = ["+stages.first.engine.epochs=3", "+stages.then.engine.epochs=2"]
WORDS = [
    "task=digits",
    "model.units=[16]",
    "engine.epochs=9",
    "engine.device=cpu",
    "callback=keep_best",
]


def run(folder, *words):
    assert main([*WORDS, *words, f"output={folder}"]) == 0
    (found,) = [path.parent for path in folder.rglob("results.jsonl")]
    return found, [json.loads(line) for line in (found / "results.jsonl").read_text().splitlines()]


def names(plan):
    results = []
    while (job := plan(results)) is not None:
        results.append(Result(job, "val", {}))
    return [(r.job.name, r.job.start) for r in results]


def test_each_fold_has_its_head_and_starts_from_it():
    stages = StageSettings({"a": 1}, {"b": 2})
    assert names(TwoStagePlan(HoldOutPlan(0.2, "class"), stages)) == [("head", ""), ("fit", "head")]
    folds = names(TwoStagePlan(KFoldPlan(2, 1, "random", True), stages))
    assert folds == [
        ("head-fold-1", ""), ("fold-1", "head-fold-1"), ("head-fold-2", ""), ("fold-2", "head-fold-2"),
    ]  # fmt: skip


def test_nested_settings_become_dotted_keys_and_parts_stay_whole():
    node = {"optimizer": {"lr": 1, "other": {"x": 2}}, "loss": {"_target_": "t", "a": 1}}
    assert to_dotted_keys(node) == {
        "optimizer.lr": 1,
        "optimizer.other.x": 2,
        "loss": {"_target_": "t", "a": 1},
    }


def test_the_second_stage_begins_with_the_best_weights_of_the_first(tmp_path):
    words = [
        "+stages.first.engine.epochs=3",
        "+stages.then.engine.epochs=1",
        "+stages.then.optimizer.lr=0.0",
    ]
    folder, results = run(tmp_path, *words)
    assert [result["name"] for result in results] == [FIRST_STAGE, "fit"]
    assert [result["job"]["start"] for result in results] == ["", FIRST_STAGE]
    head, fit = (
        checkpoint.load_best(folder / "checkpoints" / name)["objective"]
        for name in (FIRST_STAGE, "fit")
    )
    assert head.keys() == fit.keys() and all(torch.equal(head[key], fit[key]) for key in head)
    assert results[0]["scores"] == results[1]["scores"]


def test_a_run_cut_between_its_stages_goes_on_to_the_same_end(tmp_path):
    _, whole = run(tmp_path / "whole", *STAGES)
    folder, cut = run(tmp_path / "cut", *STAGES)
    (folder / "results.jsonl").write_text(json.dumps(cut[0]) + "\n")
    (folder / "checkpoints" / "fit" / "last.pt").unlink()
    for path in (folder / "checkpoints" / "fit").iterdir():
        path.unlink()
    assert main(["resume", str(folder)]) == 0
    again = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [r["scores"] for r in again] == [r["scores"] for r in whole] and len(again) == 2


def test_the_test_rows_are_for_the_second_stage_alone(tmp_path):
    _, results = run(tmp_path, *STAGES, "test=true", "reason=a test of the stages")
    assert [(r["name"], r["split"]) for r in results] == [
        (FIRST_STAGE, "val"),
        ("fit", "val"),
        ("fit", "test"),
    ]


def test_the_second_stage_alone_stands_for_the_run(tmp_path):
    folder, _ = run(tmp_path, *STAGES)
    assert [line["name"] for line in get_compared_results(folder)] == ["fit"]
    assert main(["evaluate", str(folder), "test=true", "reason=a test of the stages"]) == 0
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [(r["name"], r["split"]) for r in results] == [
        (FIRST_STAGE, "val"),
        ("fit", "val"),
        ("fit", "test"),
    ]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["stages=fine_tune"], ["model.unfreeze", "units"]),
        (["+stages.then.engine.epoch=2"], ["engine.epoch", "epochs"]),
        (["+stages.then.engine.epochs=many"], ["stages.then.engine.epochs='many'"]),
    ],
)
def test_a_setting_that_is_not_there_or_does_not_fit_is_named(words, named, tmp_path, capsys):
    assert main([*WORDS, *words, f"output={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert all(name in said.err + said.out for name in named) and not list(
        tmp_path.rglob("results.jsonl")
    )


def test_a_workflow_has_stages_of_its_own(tmp_path, capsys):
    assert main(["workflow", "task=digits", *STAGES, f"output={tmp_path}"]) == 2
    assert "stages" in capsys.readouterr().err
