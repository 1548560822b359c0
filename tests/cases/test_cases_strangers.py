"""What else strangers' folders may not do: through git, modules beside them, kept words, sweeps, checkpoints."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import trained_run

import dlrun
from dlrun.cli.main import main
from dlrun.core import checkpoint

SRC = Path(dlrun.__file__).parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run with all that it writes by default."""
    return trained_run(tmp_path_factory.mktemp("stranger"))


def git(*words):
    """One git command of the user's own."""
    who = ("-c", "user.name=n", "-c", "user.email=e")
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


def test_row_41_git_runs_no_program_that_the_folder_names(tmp_path, monkeypatch):
    from dlrun.core.environment import collect_environment

    monkeypatch.chdir(tmp_path)
    git("init", ".")
    Path(".gitattributes").write_text("* filter=a diff=a\n*.two filter=b\n")
    for name in ("one.txt", "one.two"):
        Path(name).write_text("as it was\n")
    git("add", ".")
    git("commit", "-m", "x")
    evil = f"touch {tmp_path}/PWNED; cat"
    for key in (
        "filter.a.clean",
        "filter.b.process",
        "diff.a.command",
        "diff.a.textconv",
        "core.fsmonitor",
    ):
        git("config", key, evil)
    hook = Path(".git/hooks/post-index-change")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{evil}\n")
    hook.chmod(0o755)
    Path("one.txt").write_text("as it is\n")
    os.utime("one.two", (1, 1))
    found = collect_environment()["git"]
    assert "+as it is" in found["diff"] and "one.txt" in found["status"]
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("name", ["pathlib", "re", "json", "torch"])
def test_row_41_no_module_beside_python_m_dlrun_is_imported(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("open('PWNED', 'w')\n")
    subprocess.run(
        [sys.executable, "-m", "dlrun", "--version"], cwd=tmp_path, check=True, capture_output=True
    )
    assert not (tmp_path / "PWNED").exists()


def test_row_41_no_process_that_is_started_looks_for_modules_in_the_working_folder():
    started = []
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.List)
                and node.elts
                and ast.unparse(node.elts[0]) == "sys.executable"
            ):
                started.append((path.name, ast.unparse(node.elts[1])))
    assert started and {flag for _, flag in started} == {"'-P'"}, started


def test_row_41_a_split_in_a_checkpoint_leads_nowhere_else(finished, capsys):
    for path in (finished / "checkpoints" / "fit").glob("*.pt"):
        state = checkpoint.load(path)
        first, *others = state["history"]
        checkpoint.save(
            path, state | {"history": [[first[0], "../../../../elsewhere", *first[2:]], *others]}
        )
    assert main(["resume", str(finished), "engine.epochs=5"]) == 2
    assert "is no name of a split" in capsys.readouterr().err
    assert not list(finished.parent.rglob("elsewhere"))


@pytest.mark.parametrize("begin", ["dlrun task=digits", "dlrun workflow task=digits"])
def test_row_41_kept_words_do_not_say_where_a_run_is_done_again(
    finished, capsys, tmp_path, monkeypatch, begin
):
    monkeypatch.chdir(tmp_path)
    (finished / "command.txt").write_text(f"{begin} preset=smoke output={tmp_path}/../elsewhere\n")
    assert main(["rerun", str(finished), "seed=3"]) == 2
    assert "say where the new run goes: output=" in capsys.readouterr().err
    assert not (tmp_path.parent / "elsewhere").exists()


def test_row_41_a_sweep_goes_on_with_no_folder_that_leads_elsewhere(tmp_path, capsys, monkeypatch):
    from dlrun.sweeps import sweep_folder

    monkeypatch.chdir(tmp_path)
    home = tmp_path / "outputs" / "digits" / "sweep" / "A"
    home.mkdir(parents=True)
    (tmp_path / "aside").mkdir()
    (home / "000").symlink_to(tmp_path / "aside")
    (home / "sweep.yaml").write_text("identity: x\nwords: []\n")
    monkeypatch.setattr(sweep_folder, "describe_sweep", lambda *_: {"identity": "x", "words": []})
    monkeypatch.setattr("dlrun.cli.sweep.description", sweep_folder.describe_sweep, raising=False)
    assert main(["-m", "task=digits", "preset=smoke", "seed=1,2", "output=outputs"]) == 2
    assert "is a link out of the run folder" in capsys.readouterr().err
    assert not list((tmp_path / "aside").iterdir())


@pytest.mark.parametrize("word, said", [
    ("engine.batch_size=interval(.5,.9)", "it takes whole numbers, and none lies there"),
    ("model.units=[interval(8,32)]", "model.units=[1],[2] tries several lists"),
    ("model.units=[8,choice(8,32)]", "not parts of one"),
])  # fmt: skip
def test_row_45_an_interval_that_holds_nothing_or_is_inside_a_list_is_refused(
    capsys, tmp_path, word, said
):
    words = ["task=digits", "preset=smoke", "sweep=random", "sweep.trials=2", f"output={tmp_path}"]
    assert main(["-m", *words, word]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("word", ["model.{}=1", "+{}=1", "~{}"])
def test_row_40_a_key_of_thousands_of_letters_is_no_file(capsys, word):
    assert main(["task=digits", word.format("x" * 5000), "--cfg", "job"]) == 2
    said = capsys.readouterr().err
    assert "no setting" in said and len(said) < 400 and "site-packages" not in said


def test_row_42_a_report_that_cannot_be_written_is_told_once(finished, capsys, monkeypatch):
    def full(*_):
        raise OSError(27, "File too large")

    monkeypatch.setattr("os.replace", full)
    assert main(["report", str(finished)]) == 1
    assert capsys.readouterr().err.count("cannot write") == 1
