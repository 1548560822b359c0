"""Laws of all that makes something: it runs offline, resumes exactly, sweeps, and has its section in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dlrun.cli.main import main
from dlrun.config.parts import get_builtin_conf, list_group_options
from dlrun.core import checkpoint
from dlrun.core.formatting import get_known_direction
from dlrun.core.run_folder import RunFolder
from dlrun.experiment.inference import load_fit
from dlrun.training.monitors import get_direction_by_metric
from dlrun.training.trainer import Trainer

CASES: dict[str, list[str]] = {  # one for each option of conf/objective that makes something
    "language": ["task=nietzsche", "model.units=16", "data.length=40", "objective.length=30"],
    "variational": ["task=digits", "objective=variational", "model=vae_dense", "model.dense=[16]"],
    "autoencoder": [
        "task=digits",
        "objective=autoencoder",
        "model=autoencoder",
        "objective.noise=mask",
    ],
    "adversarial": [
        *(
            "task=digits",
            "objective=adversarial",
            "model=dcgan",
            "model.generator=[8,4]",
            "model.discriminator=[8,16]",
        ),
        *("model.spectral_norm=true", "objective.label_noise=0.05", "engine.ema=0.9"),
    ],
    "dream": ["task=deepdream"],
    "style": ["task=style", "objective.ticks=8"],
    "policy": ["task=cartpole", "model.units=[8]", "data.episodes=120", "objective.world.limit=50"],
}
KINDS: dict[str, list[list[str]]] = {  # what `dlrun generate` is asked for: every kind
    "language": [
        ["kind=text", "prompt=the plot", "temperature=0,1.2", "length=20", "top_k=3", "top_p=0.9"]
    ],
    "variational": [
        *(
            ["kind=samples", "count=4"],
            ["kind=grid", "side=3"],
            ["kind=reconstructions"],
            ["kind=latent"],
        ),
        *(["kind=interpolation", "steps=4"], ["kind=concept", "label=3"]),
    ],
    "autoencoder": [
        ["kind=reconstructions"],
        ["kind=codes"],
        ["kind=clusters", "k=3"],
        ["kind=interpolation"],
    ],
    "adversarial": [
        *(["kind=samples", "count=4", "columns=2"], ["kind=interpolation", "rows=2", "steps=4"]),
        *(["kind=nearest", "count=3"], ["kind=followed"]),
    ],
    "dream": [["kind=picture"], ["kind=frames", "count=3", "zoom=2"]],
    "style": [["kind=picture"], ["kind=frames", "count=3"]],
    "policy": [["kind=episode", "number=1", "steps=30"], ["kind=choices", "across=0", "up=1"]],
}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path, request):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path / "no data here"))
    if "policy" in request.node.name:
        pytest.importorskip("gymnasium", reason="needs the extra dlrun[control]")


def run(words, folder):
    """The run folders that these words leave under `folder`, in smoke size."""
    assert main([*words, "preset=smoke", f"output={folder}"]) == 0
    return sorted(path.parent for path in folder.rglob("results.jsonl"))


def test_every_objective_is_a_case():
    assert (
        set(CASES)
        == set(list_group_options(get_builtin_conf(), "objective")) - {"supervised"}
        == set(KINDS)
    )


@pytest.mark.parametrize("name", CASES)
def test_it_runs_shows_what_it_makes_and_generates_every_kind(name, tmp_path, capsys):
    (folder,) = run(CASES[name], tmp_path)
    note = json.loads((folder / "data.json").read_text())["note"]
    samples = [file for file in (folder / "samples").rglob("*") if file.is_file()]
    report = (folder / "report.html").read_text()
    told = report.partition("Environment</h2>")[0]  # where a git diff may hold any word
    assert samples and ">Samples<" in told and ("SYNTHETIC" in told) == ("SYNTHETIC" in note)
    for words in KINDS[name]:
        assert main(["generate", str(folder), *words]) == 0
    made = list((folder / "generated").iterdir())
    assert len(made) >= len(KINDS[name]) and ">Generated<" in (folder / "report.html").read_text()
    asked = {
        word.partition("=")[2]
        for words in KINDS[name]
        for word in words
        if word.startswith("kind=")
    }
    capsys.readouterr()
    assert main(["generate", str(folder), "kind=nothing"]) == 2
    there = capsys.readouterr().err.partition("there are: ")[2].strip().split(", ")
    assert asked == set(there)


@pytest.mark.parametrize("name", CASES)
def test_reports_know_which_way_its_measures_are_better_and_commands_about_answers_refuse(
    name, tmp_path, capsys
):
    (folder,) = run([*CASES[name], "engine.max_steps=1", "callback=none"], tmp_path)
    _, fit = load_fit(folder, ())
    goals = get_direction_by_metric(fit.trainer)
    assert (
        goals and {measure: get_known_direction(measure) for measure in goals} == goals
    )  # as runs of before 0.1.1 are read
    scores = [
        score for result in RunFolder(folder).read_results() for score in result.scores.items()
    ]
    assert scores and all(score.goal == goals.get(name, "min") for name, score in scores)
    capsys.readouterr()
    code = main(["explain", *CASES[name], "preset=smoke"])
    assert code == (0 if fit.trainer.objective.losses else 2), capsys.readouterr()


@pytest.mark.parametrize("name", CASES)
def test_it_resumes_exactly(name, tmp_path, monkeypatch):
    """Stopped in the middle of its second epoch and taken up again, it ends with the same weights and rows."""
    (whole,) = run(CASES[name], tmp_path / "whole")
    taken = {"steps": 0}
    pause = Trainer._should_stop
    counted = checkpoint.load(next((whole / "checkpoints").rglob("last.pt")))["learner"]["taken"]
    half = max(1, max(counted.values()) * 3 // 4)

    def cut(trainer, learn):
        taken["steps"] += learn
        if taken["steps"] == half:
            trainer.interrupted = 15
        return pause(trainer, learn)

    monkeypatch.setattr(Trainer, "_should_stop", cut)
    assert main([*CASES[name], "preset=smoke", f"output={tmp_path / 'cut'}"]) == 143
    monkeypatch.setattr(Trainer, "_should_stop", pause)
    (config,) = (tmp_path / "cut").rglob("config.yaml")
    assert main(["resume", str(config.parent)]) == 0
    assert alike(whole, config.parent)


def alike(one: Path, other: Path) -> bool:
    """Whether two runs have the same rows, weights and samples, bit for bit."""
    files = sorted(path.relative_to(one) for path in one.rglob("last.pt"))
    assert files == sorted(path.relative_to(other) for path in other.rglob("last.pt")) and files
    for file in files:
        ours, theirs = (checkpoint.load(folder / file)["objective"] for folder in (one, other))
        assert ours.keys() == theirs.keys()
        assert all(
            torch.equal(ours[key], theirs[key])
            for key in ours
            if isinstance(ours[key], torch.Tensor)
        )
    rows = [(folder / "history.jsonl").read_text() for folder in (one, other)]
    made = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in (folder / "samples").rglob("*")
            if path.is_file()
        }
        for folder in (one, other)
    ]
    return rows[0] == rows[1] and made[0] == made[1]


@pytest.mark.parametrize("name", CASES)
def test_it_works_in_a_sweep(name, tmp_path):
    assert (
        main(
            [
                "-m",
                *CASES[name],
                "preset=smoke",
                "engine.max_steps=2",
                "seed=1,2",
                f"output={tmp_path}",
            ]
        )
        == 0
    )
    (table,) = tmp_path.rglob("sweep.csv")
    assert len(table.read_text().splitlines()) == 3
    shutil.rmtree(tmp_path)
