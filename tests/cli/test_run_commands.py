"""Commands from words to files, in process: what a run leaves, and what can be done with it afterwards."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys

import pytest
import yaml

from dlrun.cli.main import main
from dlrun.core import stored_files
from dlrun.training import trainer as engine

SMOKE = ["task=digits", "preset=smoke", "model.units=[8]"]
FILES = {
    *(
        "config.yaml",
        "command.txt",
        "environment.json",
        "data.json",
        "fields.json",
        "log.txt",
        "history.jsonl",
    ),
    *(
        "results.jsonl",
        "report.html",
        "report.md",
        "openings.json",
        "learning-curves.png",
        "preparation/fit.json",
        "predictions/fit-val.npz",
    ),
    *("checkpoints/fit/last.pt", "checkpoints/fit/best.pt"),
}
OWN = '''
from torch import nn

class Net(nn.Module):
    """Answers one number a class."""

    def __init__(self, spec, width: int):
        super().__init__()
        (self.name, field), = spec.inputs.items()
        (self.target, goal), = spec.targets.items()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.LazyLinear(goal.num_outputs))
        self.layers(__import__("torch").zeros(1, *field.shape))

    def forward(self, batch):
        return {self.target: self.layers(batch[self.name].float())}
'''


pytestmark = pytest.mark.usefixtures("elsewhere")


def new_runs(output):
    """The run folders below, in the order of their making."""
    found = [path.parent for path in output.glob("*/*/*/config.yaml")]
    return sorted(found, key=lambda run: (run / "config.yaml").stat().st_mtime_ns)


def train(output, *words):
    """A run folder."""
    assert main([*words, f"output={output}"]) == 0
    return new_runs(output)[-1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("outputs"), *SMOKE)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def content(folder):
    """What must not change: all but the log, and what is written anew from the rest."""
    kept = files(folder) - {"log.txt", "report.html", "report.md", "openings.json"}
    return {name: (folder / name).read_bytes() for name in kept if not name.endswith(".png")}


def history(folder):
    return stored_files.load_json_lines(folder / "history.jsonl")


def ended(path):
    """The last line of each job of a sweep."""
    latest = {line["job"]: line for line in stored_files.load_json_lines(path)}
    return [latest[job] for job in sorted(latest)]


def result(folder, split="val"):
    (line,) = [
        line
        for line in stored_files.load_json_lines(folder / "results.jsonl")
        if line["split"] == split
    ]
    return line


def test_a_run_leaves_all_its_files_in_its_folder_alone(run, elsewhere):
    there = files(run)
    assert there >= FILES and [
        name for name in there if "confusion" in name and name.endswith(".png")
    ]
    assert [name for name in there if "tfevents" in name]
    assert not [name for name in there if name.endswith(".new") or name.startswith("sweep")]
    assert list(elsewhere.iterdir()) == []
    assert run.parts[-3:-1] == ("digits", "dense") and re.fullmatch(
        r"\d{4}(-\d\d){2}_\d\d(-\d\d){2}", run.name
    )


def test_what_the_files_of_a_run_say(run):
    words = shlex.split((run / "command.txt").read_text())[1:]
    assert words[:3] == SMOKE and words[3].startswith("output=")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["engine"]["epochs"] == 2 and config["model"]["units"] == [8]
    assert {"python", "packages", "git"} <= json.loads(
        (run / "environment.json").read_text()
    ).keys()
    data = json.loads((run / "data.json").read_text())
    assert data["rows"] == 1438 and len(str(data["fingerprint"])) >= 16
    fields = json.loads((run / "fields.json").read_text())
    assert (
        fields["inputs"]["image"]["shape"] == [1, 8, 8] and fields["targets"]["digit"]["size"] == 10
    )
    assert [(row["epoch"], row["split"]) for row in history(run)] == [
        (1, "train"),
        (1, "val"),
        (2, "train"),
        (2, "val"),
    ]
    line = result(run)
    assert (
        line["name"] == "fit"
        and line["epochs"] == 2
        and 0 <= line["scores"]["accuracy"]["value"] <= 1
    )
    assert line["scores"]["loss"]["value"] < line["baseline"]["loss"]["value"]


def test_no_control_characters_off_a_terminal(tmp_path, capfd):
    train(tmp_path, *SMOKE)
    out, err = capfd.readouterr()
    assert "epoch 2/2" in out and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out + err)


def test_rerun_without_words_is_the_same_run_in_a_new_folder(run, tmp_path):
    before = content(run)
    assert main(["rerun", str(run)]) == 0
    again = new_runs(run.parents[2])[-1]
    assert (
        again != run
        and history(again) == history(run)
        and result(again)["scores"] == result(run)["scores"]
    )
    assert content(run) == before


def test_rerun_with_another_model_and_key(run, tmp_path):
    words = [
        str(run),
        "model=linear",
        "~model.units",
        "engine.epochs=1",
        f"output={tmp_path / 'o'}",
    ]
    assert (
        main(["rerun", *(word for word in words if word != "~model.units")]) == 2
    )  # linear has no units
    assert (
        main(["rerun", str(run), "model.units=[4]", "engine.epochs=1", f"output={tmp_path / 'o'}"])
        == 0
    )
    config = yaml.safe_load((new_runs(tmp_path / "o")[-1] / "config.yaml").read_text())
    assert config["model"]["units"] == [4] and config["engine"] == config["engine"] | {
        "epochs": 1,
        "max_steps": 20,
    }
    plain = train(tmp_path / "p", "task=digits", "preset=smoke")
    assert main(["rerun", str(plain), "model=linear", f"output={tmp_path / 'q'}"]) == 0
    other = new_runs(tmp_path / "q")[-1]
    assert other.parts[-2] == "linear" and "model=linear" in (other / "command.txt").read_text()
    assert main(["rerun", str(other), f"output={tmp_path / 'r'}"]) == 0
    assert history(new_runs(tmp_path / "r")[-1]) == history(other)


def test_resume_of_a_finished_run_changes_nothing_and_says_so(run, capsys):
    before = content(run)
    assert main(["resume", str(run)]) == 0
    assert "nothing left to do: this run is finished" in capsys.readouterr().out
    assert content(run) == before


def test_resume_of_a_finished_run_with_nothing_left_to_train_is_told_the_way(run, capsys):
    before = content(run)
    assert main(["resume", str(run), "engine.save_every=5"]) == 2
    assert f"a new run with them: dlrun rerun {run} engine.save_every=5" in capsys.readouterr().err
    assert content(run) == before


def test_a_run_of_an_older_dlrun_is_gone_on_with(run, tmp_path):
    """Its config lacks what its engine and protocol could not be told yet."""
    older = tmp_path / "older"
    shutil.copytree(run, older)
    config = yaml.safe_load((older / "config.yaml").read_text())
    for group, key in (("engine", "devices"), ("engine", "shard"), ("protocol", "stacked")):
        del config[group][key]
    (older / "config.yaml").write_text(yaml.safe_dump(config))
    assert (
        main(["evaluate", str(older)])
        == main(["resume", str(older)])
        == main(["report", str(older)])
        == 0
    )
    assert result(older)["scores"] == result(run)["scores"]
    assert main(["rerun", str(older), f"output={tmp_path / 'o'}"]) == 0


def test_evaluate_gives_the_runs_score(run, capsys):
    before = content(run)
    assert main(["evaluate", str(run)]) == 0
    assert f"{result(run)['scores']['accuracy']['value']:.4f}" in capsys.readouterr().out
    assert {
        name: text for name, text in content(run).items() if name != "predictions/fit-val.npz"
    } == {name: text for name, text in before.items() if name != "predictions/fit-val.npz"}


def test_a_test_is_recorded_and_gives_what_the_run_itself_would_have_given(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = train(tmp_path / "a", *SMOKE)
    assert main(["evaluate", str(run), "test=true"]) == 0
    tested = train(tmp_path / "b", *SMOKE, "test=true", "reason=to compare")
    for key in ("scores", "baseline", "checkpoint", "split"):
        assert result(run, "test")[key] == result(tested, "test")[key]
    assert (run / "predictions/fit-test.npz").is_file()


def test_more_epochs_for_a_run_that_is_not_finished_are_kept_and_what_is_refused_is_not(
    tmp_path, monkeypatch, capsys
):
    visit = engine.Trainer.run_split

    def broken(trainer, split, *args, **named):
        assert trainer.epoch < 2
        visit(trainer, split, *args, **named)

    whole = ["engine.epochs=4", "engine.max_steps=null", "engine.save_every=0"]
    with monkeypatch.context() as patch:
        patch.setattr(engine.Trainer, "run_split", broken)
        with pytest.raises(AssertionError):
            main([*SMOKE, *whole, f"output={tmp_path}"])
    (run,) = new_runs(tmp_path)
    before = (run / "config.yaml").read_bytes()
    assert main(["resume", str(run), "engine.epochs=1"]) == 2
    assert (
        "fit is in epoch 2, and engine.epochs=1; a new run with them: dlrun rerun"
        in capsys.readouterr().err
    )
    assert main(["resume", str(run), "engine.device=cuda:99"]) == 2
    assert (run / "config.yaml").read_bytes() == before
    assert main(["resume", str(run), "engine.epochs=5", "optimizer.lr=1e-3"]) == 0
    assert [row["epoch"] for row in history(run)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["engine"]["epochs"] == 5 and config["optimizer"]["lr"] == 0.001


def test_a_sweep_goes_on_after_failures_and_sorts_its_table(tmp_path, capsys):
    words = [
        "-m",
        "task=digits",
        "preset=smoke",
        "model=linear,dense",
        "optimizer=sgd",
        "optimizer.lr=0.1,1e38,-1",
    ]
    assert main([*words, f"output={tmp_path}"]) == 1
    (folder,) = (path.parent for path in tmp_path.rglob("sweep.csv"))
    jobs = ended(folder / "sweep.jsonl")
    assert [job["status"] for job in jobs] == ["done", "failed", "failed"] * 2
    assert "nan or infinite" in jobs[1]["error"] and "-1" in jobs[2]["error"]
    assert all(
        (folder / job["folder"] / "error.txt").is_file() is (job["status"] == "failed")
        for job in jobs
    )
    assert (
        len(list(folder.glob("*/report.html"))) == 1
    )  # of the best; dlrun report RUN makes that of another one
    table = (folder / "sweep.md").read_text()
    assert len([line for line in table.splitlines() if "failed" in line]) == 4
    scores = [
        result(folder / jobs[number]["folder"])["scores"]["accuracy"]["value"] for number in (0, 3)
    ]
    rows = [table.index(f"{score:.4f}") for score in sorted(scores, reverse=True)]
    assert rows == sorted(rows) and max(rows) < table.index("failed")
    assert len((folder / "sweep.csv").read_text().splitlines()) == 7
    assert "job 6/6" in capsys.readouterr().out


def test_a_job_with_a_wrong_word_is_a_line_in_the_sweep(tmp_path):
    words = ["-m", "task=digits", "preset=smoke", "model=linear", "engine.epochs=0,1"]
    assert main([*words, f"output={tmp_path}"]) == 1
    (path,) = tmp_path.rglob("sweep.jsonl")
    wrong, right = ended(path)
    assert "engine.epochs=0" in wrong["error"] and right["status"] == "done"


def test_a_long_error_is_cut_on_a_terminal_and_whole_in_the_files(tmp_path, capsys):
    words = ["-m", "task=digits", "preset=smoke", "model=linear,nobody"]
    assert main([*words, f"output={tmp_path}"]) == 1
    table = " ".join(capsys.readouterr().out.partition("status")[2].split())
    assert "no model" in table and "…" in table and "vae_dense" not in table
    (path,) = tmp_path.rglob("sweep.md")
    assert (
        "vae_dense" in path.read_text()
        and "vae_dense" in (path.parent / "001" / "error.txt").read_text()
    )


def test_a_diverging_run_says_where_and_ends_with_its_own_code(tmp_path, capsys):
    assert main([*SMOKE, "optimizer=sgd", "optimizer.lr=1e30", f"output={tmp_path}"]) == 3
    assert re.search(
        r"stopped: epoch 1, .*step \d+: the loss is (nan|inf)", capsys.readouterr().out
    )


def test_the_config_can_be_seen_without_a_run(tmp_path, capsys):
    assert main(["--cfg", "job", *SMOKE, f"output={tmp_path / 'o'}"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"] == config["model"] | {
        "_target_": "dlrun.models.dense.dense",
        "units": [8],
    }
    assert not (tmp_path / "o").exists()


def test_synthetic_data_are_named_in_table_and_report_and_pictures(
    tmp_path, capsys, monkeypatch, drawn
):
    from matplotlib.figure import Figure

    titles, save = [], Figure.savefig

    def watched(figure, *args, **named):
        titles.append(
            " ".join(
                text.get_text()
                for text in figure.findobj(match=lambda one: hasattr(one, "get_text"))
            )
        )
        return save(figure, *args, **named)

    monkeypatch.setattr(Figure, "savefig", watched)
    run = train(tmp_path, "task=mnist", "preset=smoke")
    out = capsys.readouterr().out
    assert "SYNTHETIC" in out.partition("val (95 %")[0].rpartition("epoch 2/2")[2]
    assert "SYNTHETIC" in (run / "report.html").read_text() and "SYNTHETIC" in result(run)["note"]
    assert len(titles) >= 2 and all("SYNTHETIC" in title for title in titles)


def test_a_model_of_ones_own_in_the_working_folder(elsewhere, tmp_path):
    (elsewhere / "mypkg").mkdir()
    (elsewhere / "mypkg" / "__init__.py").write_text(OWN)
    mine = tmp_path / "mine" / "model"
    mine.mkdir(parents=True)
    (mine / "net.yaml").write_text("# Mine.\n_target_: mypkg.Net\nwidth: 5\n")
    words = [
        "--config-dir",
        str(tmp_path / "mine"),
        "task=digits",
        "preset=smoke",
        "model=net",
        "plugins=[mypkg]",
    ]
    try:
        run = train(tmp_path / "o", *words)
        assert run.parts[-2] == "Net" and result(run)["epochs"] == 2
        assert main(["evaluate", str(run)]) == 2  # a run folder cannot name packages
        assert main(["evaluate", str(run), "plugins=[mypkg]"]) == 0
        assert main(["resume", str(run), "plugins=[mypkg]"]) == 0
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mypkg"]:
            del sys.modules[name]


def test_a_file_of_ones_own_stands_before_the_one_that_is_there(tmp_path, capsys):
    for group, name, text in (
        ("model", "linear", "_target_: dlrun.models.dense.dense\n" + "units: [3]\n"),
        (
            "task",
            "wine",
            "# @package _global_\ndefaults: [override /data: wine]\ntask: {name: mine, inputs: null, targets: null}\n",
        ),
    ):
        (tmp_path / "mine" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / group / f"{name}.yaml").write_text(text)
    assert main(["--cfg", "job", "--config-dir", str(tmp_path / "mine"), "task=wine"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["task"]["name"] == "mine"
    assert (
        main(
            [
                "--config-dir",
                str(tmp_path / "mine"),
                "task=wine",
                "model=linear",
                f"output={tmp_path / 'o'}",
            ]
        )
        == 2
    )
    assert "dense needs a value for 'activation'" in capsys.readouterr().err  # mine, not ours
    run = train(tmp_path / "o", "--config-dir", str(tmp_path / "mine"), "task=wine", "preset=smoke")
    assert run.parts[-3] == "mine"
