"""Runs that answer together: what comes out of a mean, of found weights, and who may not take part."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from laboratory import node
from test_models import TARGETS, values

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.config.validation import find_member_errors
from dlrun.core.errors import UserError
from dlrun.core.stored_files import load_json_lines
from dlrun.evaluation.bootstrap import Interval
from dlrun.models.ensemble.admission import check_member
from dlrun.models.ensemble.ensemble import average_outputs, optimize_weights
from dlrun.models.pretrained.earlier_run import load_run_model
from dlrun.objectives.losses import auto
from dlrun.report import ensemble_members

DIGITS = (
    "task=digits",
    "engine.epochs=8",
    "engine.batch_size=64",
    "callback=[keep_best]",
    "optimizer.lr=0.005",
)
MEMBERS = {
    "wide": ("model.units=[32]",),
    "bent": ("model.units=[24]", "model.activation=tanh"),
    "linear": ("model=linear",),
}


def run(output, *words):
    """A new run folder."""
    before = set(output.rglob("config.yaml"))
    assert main([*words, f"output={output}"]) == 0
    (file,) = set(output.rglob("config.yaml")) - before
    return file.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs on the same rows, by name."""
    output = tmp_path_factory.mktemp("members")
    return {name: run(output, *DIGITS, *words) for name, words in MEMBERS.items()}


@pytest.fixture(scope="module")
def mean(runs, tmp_path_factory):
    return together(tmp_path_factory.mktemp("mean"), runs.values())


@pytest.fixture(scope="module")
def weighted(runs, tmp_path_factory):
    return together(tmp_path_factory.mktemp("weighted"), runs.values(), "model.combine=weighted")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A run on a table."""
    return run(
        tmp_path_factory.mktemp("table"),
        "task=breast_cancer",
        "model=linear_solved",
        "callback=none",
    )


def together(output, members, *words):
    """An ensemble's run folder."""
    return run(
        output,
        "task=digits",
        "model=ensemble",
        f"model.members=[{','.join(map(str, members))}]",
        *words,
    )


def answers(folder):
    with np.load(folder / "predictions" / "fit-val.npz") as arrays:
        return arrays["output/digit"]


def loss(folder):
    (line,) = load_json_lines(folder / "results.jsonl")
    return line["scores"]["loss"]["value"]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_ensemble_of_one_is_its_member_bit_for_bit_and_may_itself_be_one(weighted, tmp_path):
    alone = together(tmp_path, [weighted])
    assert np.array_equal(answers(alone), answers(weighted))
    (line,), (other,) = (load_json_lines(folder / "results.jsonl") for folder in (alone, weighted))
    assert line["scores"] == other["scores"] and line["epochs"] == 1


def test_an_ensemble_of_equals_is_each_of_them(runs, tmp_path):
    same = together(tmp_path, [runs["wide"]] * 2, "model.combine=weighted")
    np.testing.assert_allclose(answers(same), answers(runs["wide"]), atol=1e-6)


def test_the_mean_is_that_of_what_the_members_had_answered(runs, mean):
    np.testing.assert_allclose(
        answers(mean), np.mean([answers(run) for run in runs.values()], 0), atol=1e-6
    )
    assert loss(mean) <= np.mean([loss(run) for run in runs.values()]) + 1e-6


def test_found_weights_are_convex_and_never_worse_on_the_rows_they_were_found_on(
    runs, mean, weighted
):
    account = json.loads((weighted / "members.json").read_text())
    weights = [member["weight"] for member in account["members"]]
    assert (
        sum(weights) == pytest.approx(1, abs=1e-6) and min(weights) >= 0 and len(set(weights)) > 1
    )
    assert loss(weighted) <= min(loss(mean), *map(loss, runs.values())) + 1e-6
    np.testing.assert_allclose(
        answers(weighted), np.average([answers(m) for m in runs.values()], 0, weights), atol=1e-6
    )


def test_nothing_of_the_members_changes_and_the_report_sets_them_beside(
    runs, mean, weighted, capsys
):
    before = [content(folder) for folder in runs.values()]
    assert (
        main(["evaluate", str(weighted)]) == 0
        and main(["compare", str(runs["wide"]), str(weighted)]) == 0
    )
    assert main(["report", str(weighted)]) == 0
    assert [content(folder) for folder in runs.values()] == before
    pages = [" ".join((folder / "report.md").read_text().split()) for folder in (mean, weighted)]
    assert all("Against its members" in page and runs["wide"].name in page for page in pages)
    assert all("best member" in page and "validation rows: " in page for page in pages)
    assert ["weights were found on these validation rows" in page for page in pages] == [
        False,
        True,
    ]


def test_what_is_said_of_the_best_member():
    def beside(name, value, low, high):
        return ensemble_members.MemberScore(
            name, "dense", 0.5, value, Interval(low + (high - low) / 2, low, high, 100)
        )

    worse, better = beside("a", 0.8, 0.05, 0.15), beside("b", 0.9, -0.02, 0.02)
    assert (
        "cannot be told from its best member, b:"
        in ensemble_members._describe_best_member([worse, better], "accuracy", {})[0]
    )
    assert (
        "is better than its best member, a:"
        in ensemble_members._describe_best_member([worse], "accuracy", {})[0]
    )
    assert (
        "is worse than its best member, a:"
        in ensemble_members._describe_best_member([worse, better], "mae", {})[0]
    )
    fault = ensemble_members.MemberScore("c", "dense", 0.5, fault="other rows")
    assert ensemble_members._describe_best_member([fault], "mae", {}) == [
        "No member can be compared with it row by row."
    ]


def test_members_stay_frozen_and_in_evaluation_mode(weighted):
    model = load_run_model(weighted).model.train()
    assert len(model.members) == 3 and not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", TARGETS)
def test_probabilities_are_averaged_and_numbers_too(kind):
    torch.manual_seed(1)
    field, weights = TARGETS[kind], torch.tensor([0.5, 0.2, 0.3])
    raw = torch.randn(3, 7, *field.output_shape) * 4
    wanted = torch.einsum("m,m...->...", weights, field.apply_activation(raw))
    torch.testing.assert_close(field.apply_activation(average_outputs(field, raw, weights)), wanted)
    alone = average_outputs(field, raw, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(field.apply_activation(alone), field.apply_activation(raw[1]))


@pytest.mark.parametrize("kind", TARGETS)
def test_sure_members_give_finite_losses(kind):
    field = TARGETS[kind]
    raw = torch.stack([torch.full((6, *field.output_shape), sure) for sure in (300.0, -300.0)])
    raw[0, ..., 0] = -300
    found = auto(field)(average_outputs(field, raw, torch.tensor([0.5, 0.5])), values(field))
    assert torch.isfinite(found)


def test_weights_are_found_where_the_least_lies():
    goal = torch.tensor([0.6, 0.0, 0.4], dtype=torch.double)
    found = optimize_weights(lambda weights: ((weights - goal) ** 2).sum(), 3)
    np.testing.assert_allclose(found, goal, atol=1e-4)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_array_equal(
        optimize_weights(lambda weights: -(weights[1] ** 2), 3), [0, 1, 0]
    )


def test_a_wrong_setting_is_told_before_torch_is_needed(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("{}\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "results.jsonl").write_text("")
    told = {
        name: list(find_member_errors([str(tmp_path / name)]))
        for name in ("gone", "other", "begun")
    }
    assert (
        [len(said) for said in told.values()] == [1, 1, 1]
        and list(find_member_errors([]))
        and not list(find_member_errors([1]))
    )
    assert (
        "no folder" in told["gone"][0]
        and "no run folder" in told["other"][0]
        and "resume" in told["begun"][0]
    )


def refused(capsys, *words):
    assert main([*words]) == 2
    return capsys.readouterr().err


def test_members_that_do_not_belong_are_refused_by_name(runs, table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ensemble = ("task=digits", "model=ensemble")
    assert "model.members is empty" in refused(capsys, *ensemble)
    assert "there is no folder nowhere" in refused(capsys, *ensemble, "model.members=[nowhere]")
    one = f"model.members=[{runs['wide']}]"
    assert f"{runs['wide']} cannot be a member" in (
        said := refused(capsys, *ensemble, one, "seed=1")
    )
    assert "validation rows" in said and "the same protocol, seed and sizes" in said
    assert "other data" in refused(capsys, *ensemble, f"model.members=[{runs['wide']},{table}]")
    assert "validation rows" in refused(
        capsys, *ensemble, one, "model.combine=weighted", "protocol=kfold"
    )
    assert "protocol=holdout" in refused(
        capsys, *ensemble, one, "model.combine=weighted", "protocol=whole"
    )
    assert "must be one of mean, weighted" in refused(
        capsys, *ensemble, one, "model.combine=median"
    )
    assert not list((tmp_path / "outputs").rglob("config.yaml"))


def test_folds_and_runs_that_may_have_seen_all_rows_are_refused(runs, tmp_path, capsys):
    folds, whole = (tmp_path / name for name in ("folds", "whole"))
    for copy in (folds, whole):
        shutil.copytree(runs["linear"], copy)
    (folds / "results.jsonl").write_text(
        (folds / "results.jsonl").read_text().replace('"folds": 1', '"folds": 2')
    )
    (whole / "predictions" / "fit-val.npz").unlink()
    for copy, told in ((folds, "2 folds"), (whole, "no predictions/fit-val.npz")):
        said = refused(
            capsys, "task=digits", "model=ensemble", f"model.members=[{copy}]", f"output={tmp_path}"
        )
        assert str(copy) in said and told in said


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("data.json", lambda found: found.update(fingerprint="0"), "other data"),
        (
            "fields.json",
            lambda found: found["targets"].update(more={"kind": "number"}),
            "its targets are diagnosis, more",
        ),
        (
            "fields.json",
            lambda found: found["inputs"]["features"].update(shape=[29]),
            "shape of 'features' is [29]",
        ),
        (
            "preparation/fit.json",
            lambda found: found["features"][0]["mean"].reverse(),
            "preparation of features",
        ),
    ],
)
def test_what_differs_is_named(table, tmp_path, file, change, told):
    copy = tmp_path / "copy"
    shutil.copytree(table, copy)
    found = json.loads((copy / file).read_text())
    change(found)
    (copy / file).write_text(json.dumps(found))
    with pytest.raises(UserError, match=re.escape(told)) as error:
        check_member(copy, "fit", table, "fit", None)
    assert str(copy) in str(error.value)


def test_the_shipped_setting_is_the_mean(runs):
    found = load_run_model(runs["wide"])
    built = build_part(node("model", "ensemble", members=[str(runs["wide"])]), found.spec)
    batch = {"image": torch.rand(3, *found.spec.inputs["image"].shape)}
    assert built.combine == "mean" and torch.equal(
        built(batch)["digit"], found.model(batch)["digit"]
    )
