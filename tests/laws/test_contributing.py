"""CONTRIBUTING.md is true: its parts run, in a copy of the repository and as a plugin outside it. So are the front
door's links, and the rooms of docs/ARCHITECTURE.md."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_architecture import ROOMS, SRC

from dlrun.cli.main import main

ROOT = Path(__file__).parents[2]
QUICK = ("engine.epochs=2", "engine.device=cpu")
BLOCK = re.compile(r"(?:`([^`\n]+)`(?:,[^`]*)?:\n\n)?```(\w*)\n(.*?)```", re.S)
EXAMPLES = ("A model", "A metric", "A dataset", "A callback")
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/ARCHITECTURE.md",
    *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
STRANGE = (
    "RUN",
    "NAME",
    "…",
    "|lstm",
    "my_package",
)  # in lines that are not to be typed as they stand
AFTER_A_RUN = ("--help", "completion", "compare", "final", "ls", "predict", "resume", "show")
RUN_ALL = """
import json, sys
from dlrun.cli.main import main
from dlrun.report import build
build.write_report = lambda folder: []  # drawing is half of a small run, and nobody looks
for words in json.load(sys.stdin):
    assert main(words) == 0, words
"""


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(where):
    """(file, code) of what the examples write, and the words of their commands; where: 'In the repository', …"""
    text = page("CONTRIBUTING.md")
    sections = [text.partition(f"\n## {name}\n")[2].partition("\n## ")[0] for name in EXAMPLES]
    parts = [section.partition(f"### {where}\n")[2].partition("\n### ")[0] for section in sections]
    found = [BLOCK.findall(part) for part in parts]
    files = [[(file, code) for file, language, code in each if file] for each in found]
    commands = [
        shlex.split(code)[1:] for each in found for file, language, code in each if not language
    ]
    assert len(commands) == len(files) == len(EXAMPLES) and all(len(each) == 2 for each in files)
    return [pair for each in files for pair in each], commands


def write(top, files):
    for file, code in files:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") + "\n\n" if path.exists() else ""
        path.write_text(before + code, encoding="utf-8")


def kind_blocks():
    """The changes that a kind of target takes, the files that it adds, and the words that use it."""
    found = BLOCK.findall(page("CONTRIBUTING.md").partition("\n## A kind of target\n")[2])
    diffs = [(file, code) for file, language, code in found if language == "diff"]
    files = [(file, code) for file, language, code in found if file and language != "diff"]
    (command,) = [shlex.split(code)[1:] for _, language, code in found if not language]
    return diffs, files, command


def patched(text, diff):
    """A text with the hunks of a diff, which blank lines part and whose old lines stand there once."""
    for hunk in re.split(r"\n(?=\n)", diff):
        lines = hunk.strip("\n").split("\n")
        old, new = ("\n".join(each[1:] for each in lines if each[:1] != sign) for sign in "+-")
        assert text.count(f"{old}\n") == 1, f"to be changed in CONTRIBUTING.md's diff:\n{old}"
        text = text.replace(f"{old}\n", f"{new}\n")
    return text


def with_output(commands, top):
    return [
        [*words, f"output={top / str(number)}", *QUICK] for number, words in enumerate(commands)
    ]


def results(top):
    """The result of each command's run on validation rows, in order."""
    files = [
        next((top / str(number)).glob("*/*/*/results.jsonl")) for number in range(len(EXAMPLES))
    ]
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [next(line for line in each if line["split"] == "val") for each in lines], lines


def look_at(found):
    model, metric, dataset, callback = found
    assert model["parameters"] == 3 * (13 * 13 + 13) + 13 * 3 + 3
    assert set(metric["scores"]) >= {"accuracy"}
    (named,) = set(metric["scores"]) - {"accuracy", "loss"}
    assert metric["scores"][named]["value"] >= metric["scores"]["accuracy"]["value"]
    assert metric["scores"][named]["goal"] == "max"
    assert dataset["scores"]["accuracy"]["n"] >= 40
    assert (callback["epochs"], model["epochs"]) == (1, 2)


def test_the_examples_run_in_the_repository(tmp_path):
    """A copy of it with the files of the page; in a process whose dlrun is that copy."""
    copy, (files, commands) = tmp_path / "copy", blocks("In the repository")
    for folder in ("src/dlrun", "conf"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    write(copy, files)
    diffs, more, command = kind_blocks()
    for file, diff in diffs:
        (copy / file).write_text(
            patched((copy / file).read_text(encoding="utf-8"), diff), encoding="utf-8"
        )
    for file, code in more:
        write(copy if file.startswith("conf/") else tmp_path, [(file, code)])
    said = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(with_output([*commands, command], tmp_path)),
        env={**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    found, lines = results(tmp_path)
    look_at(found)
    tested = [line for line in lines[2] if line["split"] == "test"]
    assert [line["scores"]["accuracy"]["n"] for line in tested] == [100]
    (file,) = (tmp_path / str(len(commands))).glob("*/*/*/results.jsonl")
    counted = json.loads(file.read_text())
    assert counted["baseline"]["loss"]["value"] < 0 < counted["scores"]["mse"]["low"]


def test_the_examples_run_as_a_plugin(elsewhere, tmp_path):
    files, commands = blocks("As a plugin")
    start = [
        (file, code)
        for file, _, code in BLOCK.findall(page("CONTRIBUTING.md"))
        if code.startswith("import torch")
    ]
    try:
        write(elsewhere, [*start, *files])
        for words in with_output(commands, tmp_path / "out"):
            assert main(words) == 0, words
        look_at(results(tmp_path / "out")[0])
    finally:
        sys.modules.pop("my_package", None)


def test_each_example_is_two_files():
    for where, tops in (
        ("In the repository", ("src/dlrun/", "conf/")),
        ("As a plugin", ("my_package/", "conf/")),
    ):
        files = [file for file, _ in blocks(where)[0]]
        assert all(
            file.startswith(top) for file, top in zip(files, tops * len(EXAMPLES), strict=True)
        )


def test_a_kind_of_target_is_five_files():
    diffs, files, _ = kind_blocks()
    ours = {file for file, _ in (*diffs, *files) if not file.startswith("my_package/")}
    assert len(ours) == 5 and all((ROOT / file).is_file() for file, _ in diffs)


def test_the_front_door_is_short():
    assert len(page("README.md").splitlines()) <= 180


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md"])
def test_lines_of_pages_are_short(name):
    assert not [line for line in page(name).splitlines() if len(line) > 100]


@pytest.mark.parametrize("name", sorted(set(PAGES)))
def test_links_between_pages_lead_somewhere(name):
    links = re.findall(r"\]\(([^)#:]+)\)", page(name))
    assert not [link for link in links if not (ROOT / name).parent.joinpath(link).exists()]


def test_the_rooms_are_told_in_their_order():
    told = re.findall(r"^\| `(\w+)/` \|", page("docs/ARCHITECTURE.md"), re.M)
    assert tuple(told) == ROOMS


def test_contracts_are_written_where_the_page_says():
    table = page("docs/ARCHITECTURE.md").partition("\n## Contracts\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    for names, _, files in rows:
        places = [SRC / file for file in re.findall(r"`([^`]+)`", files)]
        code = "\n".join(place.read_text(encoding="utf-8") for place in places)
        for name in re.findall(r"`([^`]+)`", names):
            assert re.search(rf"^(class )?{name}\b", code, re.M), name
    assert len(rows) >= 8


def test_files_that_architecture_and_contributing_name_are_there():
    for name in ("docs/ARCHITECTURE.md", "CONTRIBUTING.md"):
        files = set(re.findall(r"`([\w/]+/[\w/]+\.(?:py|md|yaml))`", page(name)))
        made = {
            file for where in ("In the repository", "As a plugin") for file, _ in blocks(where)[0]
        }
        made |= {"conf/task/rings.yaml", "conf/loss/poisson.yaml"}
        places = (ROOT, ROOT / "src" / "dlrun")
        assert files and not [
            f for f in files - made if not any((place / f).is_file() for place in places)
        ]


def typed():
    """The words of each command of the pages that begins a run, without those that sweep."""
    for name in sorted(set(PAGES) - {"CONTRIBUTING.md"}):
        for file, language, code in BLOCK.findall(page(name)):
            for line in code.replace("\\\n", " ").splitlines() if not (file or language) else ():
                if not line.startswith("dlrun ") or any(each in line for each in STRANGE):
                    continue
                words = shlex.split(line, comments=True)[1:]
                if not words or words[0] in AFTER_A_RUN or "-m" in words:
                    continue
                words = words[1:] if words[0] in ("explain", "lr", "workflow") else words
                yield tuple(word for word in words if word not in ("--cfg", "job"))


def test_the_commands_of_the_pages_make_sense(elsewhere, capsys):
    commands = sorted(set(typed()))
    assert len(commands) > 30
    wrong = [words for words in commands if main([*words, "--cfg", "job"])]
    assert not wrong, capsys.readouterr().err
