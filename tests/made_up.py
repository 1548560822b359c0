"""Makes run folders and conf folders for the tests of reports and light commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

CONFIG = """\
task:
  {{name: {task}, question: "Which digit is it? <0-9>", book: "2.1", inputs: {{image: image}},
    targets: {{{target}: {kind}}}}}
data: {{_target_: dlrun.data.{task}.load}}
model: {{_target_: dlrun.models.dense.dense, units: [512]}}
optimizer: {{_target_: dlrun.training.optimizers.adam, lr: {lr}}}
engine: {{epochs: 12, batch_size: 128}}
seed: 0
"""


def score(value, low=None, high=None, n=0):
    return {"value": value, "low": low, "high": high, "n": n}


def write_lines(file, entries):
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def history(jobs, epochs=12, classes=True, seed=0):
    noise = np.random.default_rng(seed)
    rows = []
    for job in jobs:
        shift = 0.05 * noise.standard_normal()
        for epoch in range(1, epochs + 1):
            for split, gap in (("train", 0.0), ("val", 0.004 * epoch**2 / 4)):
                loss = 0.9 / epoch**0.8 + gap + abs(shift) + 0.02 * noise.random()
                values = {
                    "loss": loss,
                    **({"accuracy": 1 - loss / 3} if classes else {"mae": loss * 7}),
                }
                rows.append({"job": job, "epoch": epoch, "split": split, "values": values})
    return rows


def result(name, split="val", fold=0, folds=1, note="", classes=True, best=7, value=0.889):
    scores = {
        "loss": score(0.279, n=1000),
        "accuracy": score(value, value - 0.02, value + 0.019, 1000),
    }
    baseline = {"loss": score(2.3), "accuracy": score(0.51, 0.49, 0.53, 1000)}
    if not classes:
        scores = {"loss": score(9.1, n=100), "mae": score(2.4 + fold / 10, 2.1, 2.7, 100)}
        baseline = {"mae": score(6.6, 6.0, 7.2, 100)}
    job = {"stage": "fit", "fold": fold, "folds": folds, "repeat": 0, "patch": {}}
    checkpoint = f"best (epoch {best})"
    line = {
        "job": job,
        "name": name,
        "split": split,
        "scores": scores,
        "baseline": baseline,
        "epochs": 12,
    }
    return line | {"checkpoint": checkpoint, "seconds": 3.2, "note": note}


def run_folder(folder: Path, task="mnist", target="digit", kind="category", lr=0.001) -> Path:
    (folder / "predictions").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(task=task, target=target, kind=kind, lr=lr))
    (folder / "command.txt").write_text(f"dlrun task={task} optimizer.lr={lr}\n")
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.7", "device": "cpu"}))
    return folder


def classes_run(folder: Path, classes=10, note="", kind="category", **config) -> Path:
    """One fit on classes with its predictions."""
    run_folder(folder, kind=kind, **config)
    write_lines(folder / "history.jsonl", history(["fit"]))
    write_lines(folder / "results.jsonl", [result("fit", note=note)])
    labels = [f"topic-{number}" if classes > 12 else str(number) for number in range(classes)]
    (folder / "fields.json").write_text(
        json.dumps({"targets": {"digit": {"kind": kind, "labels": labels}}})
    )
    noise = np.random.default_rng(1)
    truth = (noise.random(2000) ** 2 * classes).astype(int)
    output = np.eye(classes)[truth] + noise.random((2000, classes)) * 1.25
    np.savez(
        folder / "predictions" / "fit-val.npz", **{"target/digit": truth, "output/digit": output}
    )
    return folder


def folds_run(folder: Path, folds=4, note="") -> Path:
    """A k-fold run on a number."""
    run_folder(folder, task="housing", target="price", kind="number")
    names = [f"fold-{fold + 1}" for fold in range(folds)]
    write_lines(folder / "history.jsonl", history(names, classes=False))
    lines = [
        result(name, fold=fold, folds=folds, classes=False, note=note)
        for fold, name in enumerate(names)
    ]
    write_lines(folder / "results.jsonl", lines)
    (folder / "fields.json").write_text(json.dumps({"targets": {"price": {"kind": "number"}}}))
    noise = np.random.default_rng(2)
    for name in names:
        truth = noise.gamma(5, 5, (100, 1))
        arrays = {
            "target/price": truth,
            "output/price": truth * 0.9 + noise.standard_normal((100, 1)) * 3,
        }
        np.savez(folder / "predictions" / f"{name}-val.npz", **arrays)
    return folder


def trained_run(place: Path, *words: str) -> Path:
    """RUN in this folder: a small run that was trained there."""
    from dlrun.cli.main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["task=digits", "preset=smoke", "model=dense", "output=made", *words]) == 0
    (run,) = place.glob("made/digits/dense/*")
    return run.rename(place / "RUN")
