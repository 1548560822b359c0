"""A run folder has a format number, and a dlrun that meets a newer one refuses it in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlrun.cli.main import main
from dlrun.core.environment import collect_environment
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RUN_FORMAT, RunFolder


def write_run(folder: Path, environment: object) -> Path:
    """The two files of a run that decide whether it is read."""
    (folder / "config.yaml").write_text("engine: {}\n")
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def test_a_new_run_writes_down_the_format_of_its_folder():
    assert collect_environment()["format"] == RUN_FORMAT


@pytest.mark.parametrize(
    "environment",
    [None, {}, {"python": "3.11"}, {"format": 1}, {"format": RUN_FORMAT}, {"format": "odd"}],
)
def test_folders_of_this_format_and_of_earlier_ones_are_read(tmp_path, environment):
    assert RunFolder(write_run(tmp_path, environment)).read_config() == {"engine": {}}


@pytest.mark.parametrize("text", ["", "{", "[]", "\0"])
def test_a_damaged_environment_is_no_newer_format(tmp_path, text):
    (write_run(tmp_path, None) / "environment.json").write_text(text)
    assert RunFolder(tmp_path).read_config() == {"engine": {}}


@pytest.mark.parametrize(
    ("writer", "version"), [({"dlrun": {"version": "7.0"}}, "7.0"), ({}, "?"), ({"dlrun": 7}, "?")]
)
def test_a_newer_format_is_refused_with_both_numbers_and_what_to_do(tmp_path, writer, version):
    newer = RUN_FORMAT + 1
    run = write_run(tmp_path, {"format": newer, **writer})
    with pytest.raises(UserError) as refusal:
        RunFolder(run).check_format()
    text = str(refusal.value)
    assert f"format {newer}" in text and f"up to {RUN_FORMAT}" in text
    assert "update dlrun" in text and f"dlrun {version} has made" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "words",
    [
        ("resume",),
        ("rerun",),
        ("evaluate",),
        ("predict", "new.csv"),
        ("generate",),
        ("report",),
        ("compare", "."),
        ("visualize",),
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_a_newer_folder(tmp_path, capsys, words):
    run = write_run(tmp_path, {"format": RUN_FORMAT + 1})
    result = {"name": "fit", "split": "val", "job": {"stage": "fit"}, "scores": {}}
    (run / "results.jsonl").write_text(json.dumps(result) + "\n")  # without it nothing is compared
    command, *others = words
    assert main([command, str(run), *others]) == 2
    message = capsys.readouterr().err
    assert f"reads formats up to {RUN_FORMAT}: update dlrun" in " ".join(message.split())
