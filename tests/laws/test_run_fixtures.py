"""Run folders of earlier versions answer to every command as they did: whole ones, and ones that were cut off.

tests/fixtures/runs/VERSION has runs, the data they were made from and what they answered; scripts/make_fixtures
made it, and says how an answer that may change is stored anew.
"""

from __future__ import annotations

import json
import shutil
from copy import deepcopy

import pytest
from earlier import HERE, differences, observed

STORED = {
    (path.parents[1].name, path.stem): json.loads(path.read_text())
    for path in sorted(HERE.glob("*/answers/*.json"))
}


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A copy of everything of every version: commands write into run folders."""
    place = tmp_path_factory.mktemp("earlier")
    for version in {version for version, _ in STORED}:
        shutil.copytree(HERE / version, place / version, ignore=shutil.ignore_patterns("answers"))
    return place


@pytest.mark.parametrize(("version", "run"), STORED)
def test_a_run_of_an_earlier_version_answers_as_it_did(copies, tmp_path, monkeypatch, version, run):
    monkeypatch.chdir(copies / version)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # with a ledger in which nothing is entered
    monkeypatch.setenv("COLUMNS", "200")
    wrong = []
    for stored in STORED[version, run]:
        wrong += [
            f"{' '.join(stored['words'])} {one}"
            for one in differences(stored, observed(stored["words"]))
        ]
    assert not wrong, "\n".join(wrong)


def test_every_kind_of_run_is_there_and_cut_off_too():
    runs = {run for _, run in STORED}
    assert len(runs) >= 30 and sum(run.endswith("_cut") for run in runs) >= 15
    commands = {answer["words"][0] for answers in STORED.values() for answer in answers}
    assert commands == {
        "evaluate",
        "predict",
        "generate",
        "report",
        "compare",
        "resume",
        "final",
        "-m",
    }
    answered = [answer for answers in STORED.values() for answer in answers if answer["code"] == 0]
    assert all(answer.get("said") or answer["made"] for answer in answered)


def leaves(value, path=()):
    """Where in an answer something stands that may not change."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(value):
    """Another value of its kind."""
    return value + 0.017 * abs(value) + 0.017 if isinstance(value, int | float) else f"{value} not"


@pytest.mark.parametrize("run", ["dense", "folds_cut", "table", "workflow", "gan", "language"])
def test_an_answer_that_changes_is_noticed(run):
    version = max(version for version, _ in STORED)
    for answer in STORED[version, run]:
        for *path, last in leaves(answer):
            other = inner = deepcopy(answer)
            for key in path:
                inner = inner[key]
            inner[last] = changed(inner[last])
            once = (
                "said" not in path and "scores" not in path
            )  # of a list of numbers an equal one may stand for it
            assert list(differences(answer, other)) or not once, (path, last)
