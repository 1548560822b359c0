"""The commands that must answer at once: what they say, and that they import nothing heavy."""

import io
import os
import re
import subprocess
import sys

import pytest
from made_up import classes_run, folds_run, result, write_lines
from rich.console import Console

from dlrun.cli.compare import build_comparison
from dlrun.cli.completion import complete_command_line, get_completion_script
from dlrun.cli.list import format_listing
from dlrun.cli.usage import format_help
from dlrun.config import parts
from dlrun.config.command_names import COMMANDS
from dlrun.core import files
from dlrun.core.errors import UserError
from dlrun.core.files import PACKAGE

HERE = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
FILES = {
    "config.yaml": "defaults:\n  - _self_\n  - model: dense\n  - optimizer: sgd # plain\n  - task: toy\nseed: 0\n",
    "task/toy.yaml": "# @package _global_\n# A toy.\ndefaults:\n  - override /model: dense\n",
    "task/words.yaml": "# @package _global_\n# Words.\ndefaults:\n  - override /optimizer: adam\n",
    "experiment/best.yaml": "# @package _global_\ndefaults:\n  - override /task: words\n  - override /model: deep\n",
    "model/dense.yaml": "# Fully connected layers.\n_target_: a.b\nunits: [64]\n",
    "model/deep.yaml": "# Many of them.\ndefaults: [dense, _self_]\n_target_: a.b\ndepth: 9\nblock: {width: 3}\n",
    "loss/mse.yaml": "# Mean squared error.\n_target_: a.b\n",
    "optimizer/sgd.yaml": "_target_: a.b\nlr: 0.1\n",
    "optimizer/adam.yaml": "# Adam.\n_target_: a.b\nlr: 0.1\nbetas: [0.9, 0.999]\n",
    "hydra/inside.yaml": "{}\n",
}


@pytest.fixture
def conf(tmp_path, monkeypatch):
    top = tmp_path / "conf"
    for name, text in FILES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    monkeypatch.setattr(parts, "get_builtin_conf", lambda: top)
    monkeypatch.chdir(tmp_path)
    return top


def test_the_real_conf_folder_has_tasks_and_its_groups():
    found = parts.list_groups(parts.get_builtin_conf())
    assert len(found["task"]) >= 5 and {"data", "model", "loss", "optimizer", "protocol"} <= set(
        found
    )


@pytest.mark.parametrize("group", ["task", "model", "experiment"])
def test_every_real_option_says_what_it_is_for(group):
    lines = format_listing([group]).splitlines()[1:]
    assert len(lines) >= 3 and all(len(line.split()) > 1 for line in lines), lines


def test_listing_takes_singular_and_plural_and_skips_package_lines(conf):
    assert (
        format_listing(["tasks"])
        == format_listing(["task"])
        == "task=\n  toy    A toy.\n  words  Words."
    )
    assert "mse  Mean squared error." in format_listing(["losses"])
    assert re.search(
        r"^model +2 +deep, dense$", format_listing([]), re.MULTILINE
    ) and "hydra" not in format_listing([])


def test_an_unknown_group_is_refused_with_what_there_is(conf):
    with pytest.raises(UserError, match="did you mean 'model'.*There are: experiment, loss, model"):
        format_listing(["modle"])


def test_user_folders_come_first(conf, tmp_path):
    own = tmp_path / "own"
    (own / "model").mkdir(parents=True)
    (own / "model" / "dense.yaml").write_text("# Mine.\nmine: 1\n")
    (own / "model" / "net.yaml").write_text("# New.\n")
    text = format_listing(["model"], [own])
    assert "dense  Mine." in text and "net    New." in text and "deep   Many" in text
    assert complete_command_line([], "model.", [own]) == ["model.mine="]


def test_help_fits_a_screen_even_with_many_tasks(conf):
    for number in range(60):
        (conf / "task" / f"quite_a_long_task_name_{number}.yaml").write_text("# x\n")
    for text in (format_help(), format_help([conf])):
        lines = text.split("\n")
        assert len(lines) <= 24 and max(map(len, lines)) <= 80
        assert (
            "dlrun ls task" in text and "dense" in text and all(name in text for name in COMMANDS)
        )
    assert "dlrun -m task=imdb" in format_help()


def test_real_help_fits_a_screen(monkeypatch):
    lines = format_help().split("\n")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80 and "mnist" in format_help()


@pytest.mark.parametrize(
    ("words", "last", "expected"),
    [
        ([], "ta", ["task="]),
        ([], "task=", ["task=toy", "task=words"]),
        ([], "res", ["resume"]),
        (["task=toy"], "res", []),
        (["-m"], "model=dense,de", ["model=dense,deep", "model=dense,dense"]),
        ([], "model=[de", ["model=[deep", "model=[dense"]),
        ([], "optimizer.", ["optimizer.lr="]),
        (["task=words"], "optimizer.", ["optimizer.lr=", "optimizer.betas="]),
        (["experiment=best"], "optimizer.b", ["optimizer.betas="]),
        (["experiment=best", "optimizer=sgd"], "optimizer.b", []),
        (["model=deep"], "model.", ["model.units=", "model.depth=", "model.block.width="]),
        ([], "++optimizer.l", ["++optimizer.lr="]),
        ([], "see", ["seed="]),
        (["ls"], "mo", ["model"]),
        (["completion"], "", ["bash", "zsh", "fish"]),
        ([], "nothing_like_it=", []),
    ],
)
def test_completion_offers(conf, words, last, expected):
    assert complete_command_line(words, last) == expected


def test_completion_offers_run_folders_the_newest_first(conf, tmp_path):
    for age, name in ((50, "new"), (100, "old")):
        run = tmp_path / "outputs" / "toy" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("")
        os.utime(run / "config.yaml", (1e9 - age,) * 2)
    (tmp_path / "outputs" / "toy" / "no-run").mkdir()
    assert complete_command_line(["resume"], "") == ["outputs/toy/new", "outputs/toy/old"]
    assert complete_command_line(["compare", "outputs/toy/new"], "outputs/toy/o") == [
        "outputs/toy/old"
    ]
    assert complete_command_line(["evaluate"], "con") == ["conf/"]


def test_bash_itself_completes(conf, tmp_path):
    code = "import sys; from dlrun.config import parts as places; from pathlib import Path; places.get_builtin_conf = lambda: Path('conf')"
    code += "; from dlrun.cli.completion import complete_command_line as complete"
    code += "; print(*complete(sys.argv[1:-1], sys.argv[-1]), sep=chr(10))"
    script = f"""dlrun() {{ shift; '{sys.executable}' -c "{code}" "$@"; }}
{get_completion_script(["bash"])}
for COMP_LINE in 'dlrun task=wo' 'dlrun ta' 'dlrun task=words optimizer.b'; do
    COMP_POINT=${{#COMP_LINE}}; _dlrun; printf '[%s]' "${{COMPREPLY[@]}}"
done"""
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=HERE
    )
    assert done.stdout == "[words ][task=][optimizer.betas=]", done.stderr


def test_an_unknown_shell_is_refused():
    with pytest.raises(UserError, match="no completion for 'csh'. There are: bash, zsh, fish"):
        get_completion_script(["csh"])


def test_runs_side_by_side_show_only_the_keys_that_differ(tmp_path):
    runs = [
        classes_run(tmp_path / "a"),
        classes_run(tmp_path / "b", lr=0.01, note="SYNTHETIC: made up"),
    ]
    write_lines(runs[0] / "results.jsonl", [result("fit"), result("fit", split="test", value=0.8)])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(build_comparison(runs))
    text = console.export_text()
    for piece in (
        "optimizer.lr",
        "0.01",
        "0.8890 [0.8690, 0.9080]",
        "test accuracy",
        "0.8000",
        "SYNTHETIC: made up",
    ):
        assert piece in text
    assert "optimizer._target_" not in text and "seed" not in text


def test_runs_that_differ_in_many_things_have_a_column_each(tmp_path):
    runs = [classes_run(tmp_path / "a"), folds_run(tmp_path / "b")]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(build_comparison(runs))
    text = console.export_text()
    assert re.search(r"data._target_ +dlrun.data.mnist.load +dlrun.data.housing.load", text)
    assert re.search(r"val mae", text) and "2.5500 ± 0.1291" in text


def test_folders_that_are_no_runs_are_left_out_by_name_and_refused_where_nothing_is_left(tmp_path):
    run = classes_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(build_comparison([run, tmp_path / "empty", tmp_path / "gone"]))
    text = console.export_text()
    assert (
        "empty has no config.yaml and no results.jsonl" in text
        and "left out: there is no folder" in text
    )
    with pytest.raises(
        UserError,
        match="empty has no config.yaml and no results.jsonl.*; there is no folder .*gone",
    ):
        build_comparison([tmp_path / "empty", tmp_path / "gone"])


LIGHT = [
    *("dlrun.cli.usage", "dlrun.cli.list", "dlrun.cli.completion", "dlrun.cli.compare"),
    *("dlrun.launch.progress", "dlrun.training.tensorboard_events"),
]
REPORT = [f"dlrun.report.{file.stem}" for file in files.PACKAGE.glob("report/[!_]*.py")]


def test_light_commands_import_nothing_heavy():
    code = "import sys\n" + "\n".join(
        f"from {module} import {name}"
        for module, name in (
            ("dlrun.cli.usage", "format_help"),
            ("dlrun.cli.list", "format_listing"),
            ("dlrun.cli.completion", "complete_command_line"),
        )
    )
    heavy = "{'torch', 'hydra', 'omegaconf', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)"
    for call in (
        "format_help()",
        "format_listing(['tasks'])",
        "complete_command_line([], 'optimizer.')",
        "complete_command_line([], 't')",
    ):
        code += f"\nassert {call}\nassert not {heavy}, {heavy}\n"
    subprocess.run([sys.executable, "-c", code], check=True, env=HERE)


def test_reports_and_light_commands_never_import_torch(tmp_path):
    assert len(REPORT) >= 8
    run = classes_run(tmp_path / "run")
    code = f"import sys, {', '.join(LIGHT + REPORT)}\nfrom pathlib import Path\n"
    code += (
        "assert not {'torch', 'matplotlib', 'tensorboard', 'hydra', 'numpy'} & set(sys.modules)\n"
    )
    code += f"dlrun.report.build.write_report(Path({str(run)!r}))\ndlrun.cli.compare.build_comparison([Path({str(run)!r})])\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=HERE)
