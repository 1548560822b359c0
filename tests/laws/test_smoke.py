"""Every task and every experiment file runs from words to report, in seconds and offline."""

from __future__ import annotations

import json
import re

import pytest

from dlrun.cli.main import main
from dlrun.config.parts import get_builtin_conf, list_group_options

NEED_A_PATH = ("csv", "images", "pictures", "series", "texts")
EXPERIMENTS = list_group_options(get_builtin_conf(), "experiment")
EMBEDDED = {"digits", "breast_cancer", "wine", "diabetes", "text_file", "rotations"}


def chosen(name, group="task"):
    """The text of a task's or an experiment's file."""
    return (get_builtin_conf() / group / f"{name}.yaml").read_text()


def objective(task):
    """The objective that a task is for."""
    return next(iter(re.findall(r"override /objective: (\w+)", chosen(task))), "supervised")


ALL = [name for name in list_group_options(get_builtin_conf(), "task") if name not in NEED_A_PATH]
TASKS = [
    name for name in ALL if objective(name) in ("supervised", "language")
]  # those that answer targets
MAKERS = [name for name in ALL if name not in TASKS]


SMALL = ["data.size=[48,48]"]  # of photographs
SEALED = ["data.test=0.1", "objective.length=20", "model.units=32"]  # of texts
WRITING = ["objective.length=20", "data.step=40"]
SHORT = ["data.lookback=480", "protocol.validation=200", "engine.max_steps=4"]  # of series
FEWER = {
    "gan_frogs": ["model.filters=8", "model.discriminator=8"],
    "gan_digits": ["model.generator=[32,16,8,8]", "model.discriminator=[8,16,32]"],
    "style_transfer": ["data.size=64"],
}
ON_VGG16 = ("cats_dogs_features", "cats_dogs_frozen", "cats_dogs_tuned")  # which takes its time


def run(words, folder):
    """Run offline in `folder`; answers with the exit code and the results."""
    code = main([*words, f"output={folder}"])
    lines = [
        line for path in folder.rglob("results.jsonl") for line in path.read_text().splitlines()
    ]
    results = [json.loads(line) for line in lines]
    # whoever ranks reads from here which way a score is better
    for result in results:
        for name, score in [*result["scores"].items(), *result["baseline"].items()]:
            assert score["goal"] in ("min", "max"), (result["name"], name)
    return code, results


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "no data here"))


def test_the_globs_are_not_quiet():
    assert len(TASKS) >= 10 and len(EXPERIMENTS) >= 14


@pytest.mark.parametrize("task", TASKS)
def test_every_task_in_smoke_size(task, tmp_path, capsys, drawn):
    words = ["preset=smoke", "test=true", "reason=a smoke run", "protocol=holdout"]
    words += {"cats_dogs": SMALL, "jena_climate": SHORT, "questions": ["data.rows=1000"]}.get(
        task, []
    )
    words += ["data.rows=200"] if task in ("social", "tickets") else []
    words += SEALED if objective(task) == "language" else []
    code, results = run([f"task={task}", *words], tmp_path)
    said = capsys.readouterr().out
    assert code == 0 and [result["split"] for result in results] == ["val", "test"]
    assert (
        ("SYNTHETIC" in said)
        == (task not in EMBEDDED)
        == all("SYNTHETIC" in r["note"] and r["synthetic"] in r["note"] for r in results)
        == all(r["synthetic"] for r in results)
    )
    beside = (
        {"bits_bigram"} if objective(task) == "language" else set()
    )  # a score that is a bar itself
    assert all(result["baseline"].keys() | beside == result["scores"].keys() for result in results)


@pytest.mark.parametrize("task", MAKERS)
def test_every_task_that_makes_something_in_smoke_size(task, tmp_path, capsys):
    if task == "cartpole":
        pytest.importorskip("gymnasium", reason="needs the extra dlrun[control]")
    code, results = run([f"task={task}", "preset=smoke"], tmp_path)
    said = capsys.readouterr().out
    assert (
        code == 0
        and results
        and {("SYNTHETIC" in result["note"]) for result in results} == {"SYNTHETIC" in said}
        and {bool(result["synthetic"]) for result in results} == {"SYNTHETIC" in said}
    )


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ON_VGG16)
def test_the_experiments_on_vgg16_in_smoke_size(experiment, tmp_path):
    code, results = run([f"experiment={experiment}", "preset=smoke", *SMALL], tmp_path)
    assert code == 0 and results


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_in_smoke_size(experiment, tmp_path, capsys):
    smaller = (
        SMALL
        if experiment.startswith("cats_dogs")
        else SHORT
        if experiment.startswith("jena")
        else []
    )
    smaller = WRITING if experiment.startswith("nietzsche") else smaller
    smaller = FEWER.get(experiment, smaller)
    if experiment in ON_VGG16:
        smaller = [*smaller, "model.architecture=squeezenet1_1"]
    if experiment == "glove_200":  # published vectors have no sample
        made = tmp_path / "glove.made.100d.txt"
        made.write_text("".join(f"word{word}{' 0.1' * 100}\n" for word in range(1, 50)))
        smaller = [f"model.encoder.vectors={made}"]
    code, results = run([f"experiment={experiment}", "preset=smoke", *smaller], tmp_path)
    assert code == 0 and results and all("SYNTHETIC" in result["note"] for result in results)
    assert ("nothing here to compare" in capsys.readouterr().out) == (
        "\nbook:" in chosen(experiment, "experiment")
    )


TABLE = "age,town,rooms,price\n" + "".join(
    f"{i % 40 + 20},{'abc'[i % 3]},{i % 5},{i % 40 * 2 + i % 5}\n" for i in range(120)
)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("price", []),
        ("town", []),
        ("[price,rooms]", ["loss_weights={price: 1, rooms: 0.5}"]),
        ("price", ["model=linear"]),
    ],
)
def test_a_table_of_ones_own(target, words, tmp_path, capsys):
    (tmp_path / "houses.csv").write_text(TABLE)
    words = [
        "task=csv",
        f"data.path={tmp_path}/houses.csv",
        f"data.target={target}",
        "engine.epochs=3",
        *words,
    ]
    code, results = run(words, tmp_path / "out")
    assert code == 0 and results[0]["scores"]["loss"]["n"] > 0
    assert "data.kind" in capsys.readouterr().out  # the kind was inferred, and stated


@pytest.mark.parametrize("protocol", ["kfold", "iterated_kfold"])
def test_folds(protocol, tmp_path):
    code, results = run(["task=wine", f"protocol={protocol}", "engine.epochs=2"], tmp_path)
    names = [result["name"] for result in results]
    assert (
        code == 0 and len(set(names)) == len(names) == {"kfold": 4, "iterated_kfold": 12}[protocol]
    )


def test_overfitting_a_few_rows_passes_or_fails(tmp_path, capsys):
    code, results = run(["task=digits", "preset=overfit"], tmp_path / "a")
    assert code == 0 and "passed" in results[0]["note"]
    code, results = run(["task=digits", "preset=overfit", "engine.epochs=1"], tmp_path / "b")
    assert code == 1 and "FAILED" in results[0]["note"] and results[0]["exit_code"] == 1


def test_whole_split_measures_and_other_parts(tmp_path):
    words = [
        "task=breast_cancer",
        "metric=[accuracy,f1,roc_auc,pr_auc]",
        "optimizer=adamw",
        "scheduler=cosine",
        "loss=focal",
    ]
    code, results = run(
        [*words, "callback=[keep_best,early_stopping]", "engine.epochs=15"], tmp_path
    )
    scores = results[0]["scores"]
    assert (
        code == 0
        and scores["roc_auc"]["value"] > 0.95
        and scores["accuracy"]["low"] < scores["accuracy"]["value"]
    )
