"""Makes the folders of workflow runs for the tests of reports, and the reports of several kinds of runs, once."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from made_up import classes_run, folds_run, result, run_folder, score, write_lines

from dlrun.report.build import write_comparison, write_report

SQUARE = base64.b64decode(  # a gray PNG of 4 by 4
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAAAAACMmsGiAAAAEElEQVR4nGOsYGBgYGJAIQAJTACAlkF+CQAAAABJRU5ErkJggg=="
)
STAGES = {  # stage → (patch, how fast it learns, how fast it overfits, its best accuracy)
    "constant": (
        {"model": {"_target_": "dlrun.models.baselines.constant"}, "callback": {}},
        0,
        0,
        0.51,
    ),
    "linear": (
        {"model": {"_target_": "dlrun.models.closed_form.solved"}, "callback": {}},
        0,
        0,
        0.868,
    ),
    "small": ({"model.units": [4, 4]}, 0.35, 0.002, 0.879),
    "configured": ({}, 0.6, 0.014, 0.884),
    "wider": ({"model.units": [64, 64]}, 0.8, 0.03, 0.885),
    "deeper": ({"model.units": [64, 64, 64]}, 1.0, 0.05, 0.881),
    "smaller": ({"model.units": [16, 16, 16]}, 0.6, 0.02, 0.886),
    "l1": ({"model.units": [64, 64, 64], "model.l1": 0.001}, 0.5, 0.004, 0.876),
    "l2": ({"model.units": [64, 64, 64], "model.l2": 0.001}, 0.6, 0.006, 0.887),
    "dropout": ({"model.units": [64, 64, 64], "model.dropout": 0.5}, 0.6, 0.012, 0.889),
    "slower": ({"model.units": [64, 64, 64], "optimizer.lr": 0.0003}, 0.4, 0.02, 0.885),
    "faster": ({"model.units": [64, 64, 64], "optimizer.lr": 0.003}, 1.2, 0.08, 0.874),
    "search-1": ({"model.units": [32, 32], "model.dropout": 0.2}, 0.6, 0.01, 0.891),
    "search-2": (
        {"model.units": [64, 64], "model.dropout": 0.5, "model.l2": 0.0001},
        0.5,
        0.004,
        0.893,
    ),
    "search-3": ({"model.units": [16, 16], "optimizer.lr": 0.003}, 0.9, 0.03, 0.882),
    "search-4": ({"model.units": [32, 32], "model.l2": 0.001}, 0.5, 0.005, 0.888),
}
WINNER = "search-2"
TITLES = (
    "Problem and data",
    "Measure of success",
    "Evaluation protocol",
    "Preparation",
    "Beat the baseline",
)
TITLES += ("Overfit", "Regularise and tune", "Final evaluation")
WORKFLOW = """\
workflow:
  budget: 20m
  ladder: {wider: {scale: 4}, deeper: {layers: 1}, longer: {epochs: 4}}
  study: {smaller: {scale: 0.25}, l1: {}, l2: {}, dropout: {}, slower: {rate: 0.3}, faster: {rate: 3}}
"""
REVIEW = (
    "a <b>bold</b> film with <script>alert(1)</script> nothing to say | and says it for two hours "
    * 4
)


def workflow_run(folder: Path, folds=1, stopped=False, note="", opened=0) -> Path:
    """A workflow's folder: binary answers on texts in one fit a stage, or over folds a number on rows."""
    kind = "binary" if folds == 1 else "number"
    run_folder(folder, task="reviews", target="answer", kind=kind)
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + WORKFLOW)
    stages = list(STAGES)[:4] if stopped else list(STAGES)
    jobs = [(stage, fold) for stage in stages for fold in range(folds)]
    write_lines(
        folder / "history.jsonl", [row for job in jobs for row in stage_history(*job, folds)]
    )
    lines = [stage_result(*job, folds, note, stopped) for job in jobs]
    lines += [final_result(repeat, note, folds == 1) for repeat in range(3 if opened else 0)]
    write_lines(folder / "results.jsonl", lines)
    write_json(folder / "data.json", {"fingerprint": "cd64faab" * 8, "rows": 25000, "note": note})
    labels = ["negative", "positive"] if folds == 1 else []
    inputs = {"review": {"kind": "bag", "shape": [10000], "size": 10000}}
    write_json(
        folder / "fields.json",
        {"inputs": inputs, "targets": {"answer": {"kind": kind, "labels": labels}}},
    )
    write_json(folder / "audit.json", findings())
    write_json(folder / "workflow.json", steps(stopped, bool(opened)))
    for job in [f"{stage_name(WINNER, fold, folds)}-val" for fold in range(folds)] + [
        "final-test"
    ] * bool(opened):
        write_answers(folder, job, kind)
        write_errors(folder, job, kind)
    entry = {"date": "2026-11-24T05:40:30", "score": {"loss": 0.29, "accuracy": 0.884}}
    reasons = ["", "a new network"] * opened
    entries = [entry | {"reason": reason} for reason in reasons[:opened]]
    write_json(folder / "openings.json", {"count": opened, "entries": entries})
    return folder


def write_json(file, value):
    file.write_text(json.dumps(value))


def stage_name(stage, fold=0, folds=1):
    return f"{stage}-fold-{fold + 1}" if folds > 1 else stage


def stage_history(stage, fold, folds):
    _, speed, rise, _ = STAGES[stage]
    noise = np.random.default_rng(fold + 10 * list(STAGES).index(stage))
    size = 1 if folds == 1 else 30
    rows = []
    for epoch in range(1, 21 if speed else 2):
        learnt = 0.7 * np.exp(-speed * epoch * 0.45)
        train, val = (
            learnt + 0.005 * noise.random(),
            0.27 + learnt + (rise * max(0, epoch - 2 / speed) if speed else 0),
        )
        for split, loss in (("train", train), ("val", val + 0.008 * noise.random())):
            values = {
                "loss": size * loss,
                **({"accuracy": 1 - loss / 3} if folds == 1 else {"mae": 6 * loss}),
            }
            rows.append(
                {
                    "job": stage_name(stage, fold, folds),
                    "epoch": epoch,
                    "split": split,
                    "values": values,
                }
            )
    return rows


def stage_result(stage, fold, folds, note, stopped=False):
    patch, _, _, value = STAGES[stage]
    value = 0.51 + (value - 0.88) / 2 if stopped and value > 0.6 else value
    line = result(
        stage_name(stage, fold, folds),
        fold=fold,
        folds=folds,
        note=note,
        classes=folds == 1,
        value=value,
    )
    if folds == 1:
        line["scores"]["accuracy"] = score(value, value - 0.006, value + 0.006, 10000)
    else:
        line["scores"]["mae"] = score(4 * (1.5 - value) + 0.1 * fold, 2.1, 2.7, 100)
    stop = {"callback.early_stopping": {"patience": 5}} if "model.l" in str(patch) else {}
    line["job"] |= {"stage": stage, "patch": patch | stop}
    return line


def final_result(repeat, note, classes):
    name = f"final-repeat-{repeat + 1}" if repeat else "final"
    line = result(name, split="test", note=note, classes=classes, value=0.884 + repeat / 1000)
    line["job"] |= {
        "stage": "final",
        "repeat": repeat,
        "patch": STAGES[WINNER][0] | {"engine.epochs": 6},
    }
    return line


def findings():
    leak = "312 of 10,000 validation rows (3.1 %) are the same as a training row"
    return [
        {
            "severity": "leak",
            "what": "duplicates across splits",
            "text": leak,
            "columns": ["review"],
            "count": 312,
        },
        {
            "severity": "warning",
            "what": "missing values",
            "text": "age misses 12 %",
            "columns": ["age"],
            "count": 9,
        },
        {
            "severity": "note",
            "what": "classes",
            "text": "the classes are balanced",
            "columns": ["answer"],
            "count": 2,
        },
    ]


def steps(stopped=False, final=False):
    table = {
        "title": "Paired on the same rows",
        "columns": ["stage", "better by"],
        "rows": [["small", ".37 <.36>"]],
    }
    count = 5 if stopped else 8 if final else 7
    found = []
    for number, title in enumerate(TITLES[:count], 1):
        verdict = (
            "Nothing beats the constant answer."
            if stopped and number == 5
            else f"{title} is settled."
        )
        step = {
            "step": number,
            "title": title,
            "verdict": verdict,
            "evidence": ["one line", "another, <i>odd</i> | one"],
        }
        found.append(
            step | {"tables": [table] if number == 5 else [], "stopped": stopped and number == 5}
        )
    if not stopped:
        found[6]["winner"] = WINNER
    return found


def write_answers(folder, job, kind):
    noise = np.random.default_rng(len(job))
    truth = (
        noise.integers(0, 2, (1000, 1)).astype(float)
        if kind == "binary"
        else noise.gamma(5, 5, (1000, 1))
    )
    shift = noise.standard_normal((1000, 1))
    output = 1 / (1 + np.exp(-4 * (truth - 0.5) - shift)) if kind == "binary" else truth + 3 * shift
    arrays = {
        "target/answer": truth,
        "output/answer": output,
        "row": np.arange(1000),
        "value/loss": shift[:, 0],
    }
    np.savez(folder / "predictions" / f"{job}.npz", **arrays)


def write_errors(folder, job, kind):
    (folder / "errors").mkdir(exist_ok=True)
    if kind == "number":
        shown = {"kind": "row", "cells": {"age": "37", "rooms <big>": "6.2", "town": "(missing)"}}
        about = {"truth": "50", "answer": "21.3"}
    elif job.endswith("test"):
        (folder / "errors" / f"{job}-1.png").write_bytes(SQUARE)
        shown, about = (
            {"kind": "image", "image": f"{job}-1.png"},
            {"truth": "negative", "answer": "positive 0.98"},
        )
    else:
        shown, about = (
            {"kind": "text", "text": REVIEW},
            {"truth": "positive", "answer": "negative 0.99"},
        )
    found = [
        about | {"row": 17 * place, "loss": 9.0 - place / 3, "shown": shown} for place in range(8)
    ]
    write_json(folder / "errors" / f"{job}.json", found)


ROOM = TemporaryDirectory(prefix="dlrun-reports-")  # goes when the tests end


@cache
def reports() -> dict[str, list[Path]]:
    """The files that `dlrun report` writes, for each kind of run; written once for all tests that only read them."""
    room = Path(ROOM.name)
    return {
        "binary": write_report(workflow_run(room / "binary", opened=2)),
        "folds": write_report(workflow_run(room / "folds", folds=4, note="SYNTHETIC: made up")),
        "stopped": write_report(workflow_run(room / "stopped", stopped=True)),
        "plain": write_report(folds_run(room / "plain")),
        "compared": write_comparison([classes_run(room / "compared"), room / "binary"], room),
    }
