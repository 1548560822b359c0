"""What conftest remembers of composing is what Hydra composes: a folder that it has not seen is composed anew."""

from __future__ import annotations

import pytest

from dlrun.config.compose import compose_config
from dlrun.config.override_errors import InvalidOverride

WORDS = [
    ["task=digits", "model=convnet", "model.width=3", "++extra={a: [1, 2]}", "~engine.epochs"],
    [
        "task=csv",
        "data.path=a.csv",
        "+callback=early_stopping",
        "callback.early_stopping.patience=2",
    ],
    ["task=digits", "metric=[accuracy,f1]", "hydra.job.name=x", "model={}"],
    ["task=digits", "model=nothing_such"],
    ["task=digits", "model.nothing_such=1"],
]


def answer(words, folders):
    """The config, or why there is none."""
    try:
        return compose_config(words, folders)
    except InvalidOverride as bad:
        return bad.args


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_what_is_remembered_of_composing_is_what_hydra_composes(tmp_path, words):
    (tmp_path / "new.yaml").write_text(f"# {tmp_path}")
    expected, found = answer(words, [tmp_path]), answer(words, [])
    assert found == expected and str(found) == str(expected)  # in the same order
    if isinstance(found, dict):
        found["model"].clear()
        answer([word for word in words if "model" not in word], [])
    assert answer(words, []) == expected


def test_a_changed_file_is_composed_anew(tmp_path):
    path = tmp_path / "preset" / "mine.yaml"
    path.parent.mkdir()
    for epochs in (3, 4):
        path.write_text(f"# @package _global_\nengine:\n  epochs: {epochs}\n")
        assert answer(["task=digits", "preset=mine"], [tmp_path])["engine"]["epochs"] == epochs
