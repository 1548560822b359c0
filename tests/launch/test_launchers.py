"""Jobs handed to published Hydra launchers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from beside import LIMIT

from dlrun.cli.main import main
from dlrun.core import stored_files
from dlrun.core.errors import UserError
from dlrun.launch import hydra_launchers
from dlrun.sweeps.job import JobResult

JOBS = [
    "-m",
    "task=digits",
    "preset=smoke",
    "model=linear",
    "optimizer=sgd",
    "optimizer.lr=0.1,1e38,0.01",
]
JOBS += ["protocol.stacked=false"]  # as one they come out the same but for rounding


def entries(output):
    """The last line of each job of the one sweep below, and its folder."""
    (folder,) = (path.parent for path in output.rglob("sweep.jsonl"))
    found = {line["job"]: line for line in stored_files.load_json_lines(folder / "sweep.jsonl")}
    return folder, [found[number] for number in sorted(found)]


class Half:
    """A launcher that runs all jobs but one, and then says that it lost its process."""

    def __init__(self, task, lost):
        self.task, self.lost, self.launches = task, lost, []

    def launch(self, overrides, first):
        from hydra.conf import HydraConf
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        self.launches.append([list(words) for words in overrides])
        for place in range(len(overrides)):
            if first + place != self.lost:
                config = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)})
                config.hydra.job.num = first + place
                HydraConfig.instance().set_config(config)
                self.task(None)
        raise RuntimeError("a worker was terminated")


@pytest.fixture
def half(monkeypatch):
    made = []

    def instead(words, folders, folder, task):
        made.append(Half(task, 2))
        return made[-1]

    monkeypatch.setattr(hydra_launchers, "instantiate_launcher", instead)
    return made


def test_whose_words_are_whose():
    words = [
        "model=linear",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "+hydra.launcher.verbose=1",
    ]
    assert hydra_launchers.split_launcher_overrides(words) == (words[:1], words[1:])
    assert hydra_launchers.split_launcher_overrides(
        ["hydra/launcher=dlrun", "hydra.launcher.jobs=2"]
    ) == (
        ["sweep.jobs=2"],
        [],
    )
    mixed = ["hydra/sweeper=dlrun", "hydra.sweeper.trials=9", "hydra/launcher=ray"]
    assert hydra_launchers.split_launcher_overrides(mixed) == (
        ["sweep.trials=9"],
        ["hydra/launcher=ray"],
    )
    with pytest.raises(UserError, match="sweep=grid, random, tpe"):
        hydra_launchers.split_launcher_overrides(["hydra/sweeper=optuna"])


def test_a_job_whose_process_was_lost_is_one_failed_row(half, tmp_path, capsys):
    assert main([*JOBS, "hydra/launcher=joblib", f"output={tmp_path}"]) == 1
    folder, jobs = entries(tmp_path)
    assert [job["status"] for job in jobs] == ["done", "failed", "failed"]
    assert "nan or infinite" in jobs[1]["error"]
    assert "joblib lost its process: RuntimeError: a worker was terminated" in jobs[2]["error"]
    assert half[0].launches == [
        [["optimizer.lr=0.1"], ["optimizer.lr=1e+38"], ["optimizer.lr=0.01"]]
    ]
    assert (
        "best: dlrun" in capsys.readouterr().out
        and "epoch" in (folder / "000" / "console.txt").read_text()
    )
    before = (folder / "000" / "results.jsonl").read_bytes()
    assert main([*JOBS, "sweep.retry=true", "hydra/launcher=joblib", f"output={tmp_path}"]) == 1
    folder, jobs = entries(tmp_path)
    assert [job["status"] for job in jobs] == [
        "done",
        "failed",
        "done",
    ]  # now its place is the second
    assert half[1].launches == [[["optimizer.lr=1e+38"], ["optimizer.lr=0.01"]]]
    assert (folder / "000" / "results.jsonl").read_bytes() == before


def test_a_search_hands_over_as_many_at_once_as_it_tries_at_once(half, tmp_path):
    pytest.importorskip("optuna")
    words = [
        "-m",
        "task=digits",
        "preset=smoke",
        "model=linear",
        "optimizer.lr=tag(log,interval(1e-3,1e-1))",
    ]
    more = [
        "sweep=random",
        "sweep.trials=5",
        "sweep.jobs=2",
        "hydra/launcher=joblib",
        f"output={tmp_path}",
    ]
    assert main([*words, *more]) == 1
    assert [len(batch) for batch in half[0].launches] == [2, 2, 1]
    assert [job["status"] for job in entries(tmp_path)[1]] == [
        "done",
        "done",
        "failed",
        "done",
        "done",
    ]


def test_a_job_that_was_told_to_stop_has_failed_and_says_the_way_on(tmp_path):
    hydra_launchers.write_job_file(
        tmp_path, "ended", 4, {"number": 4, "status": "cut", "code": 143}
    )
    found = hydra_launchers.read_job_result(tmp_path, 4, "lost")
    assert (
        found.status == "failed"
        and "signal 15" in found.error
        and "sweep.retry=true" in found.error
    )
    assert hydra_launchers.read_job_result(tmp_path, 5, "lost") == JobResult(5, "failed", "lost", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra/launcher=nope"], "Could not find 'hydra/launcher/nope'; there are: dlrun, basic"),
        (
            ["hydra/launcher=basic", "hydra.launcher.nope=1"],
            "Could not override 'hydra.launcher.nope'",
        ),
        (["hydra/launcher=basic", "sweep.limit=3"], "sweep.limit is kept by dlrun's own processes"),
        (["hydra.sweep.dir=s"], "hydra.sweep.dir=s: without another launcher"),
        (["hydra/launcher=dlrun", "hydra.sweep.dir=s"], "output=FOLDER says where sweeps are kept"),
        (["hydra/sweeper=basic"], "dlrun -m searches by itself"),
    ],
)
def test_what_cannot_be_is_refused(words, said, tmp_path, capsys):
    assert main([*JOBS, *words, f"output={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pruning_needs_our_own_processes(tmp_path, capsys):
    pytest.importorskip("optuna")
    assert main([*JOBS, "sweep=halving", "hydra/launcher=basic", f"output={tmp_path}"]) == 2
    assert "sweep.prune=halving needs dlrun's own processes" in capsys.readouterr().err


def test_hydras_own_launcher_runs_jobs_too(tmp_path):
    assert main([*JOBS, "hydra/launcher=basic", f"output={tmp_path}"]) == 1
    folder, jobs = entries(tmp_path)
    assert [job["status"] for job in jobs] == ["done", "failed", "done"]
    assert not list(folder.rglob(".hydra"))


def same(output, words):
    """Jobs through a launcher come out as they do here, but for the one that cannot be finished."""
    assert main([*JOBS, *words, f"output={output / 'there'}"]) == 1
    assert main([*JOBS, f"output={output / 'here'}"]) == 1
    (there, jobs), (here, _) = entries(output / "there"), entries(output / "here")
    assert [job["status"] for job in jobs] == [
        "done",
        "failed",
        "done",
    ] and "nan or infinite" in jobs[1]["error"]
    for name in ("000", "002"):
        assert stored_files.load_json_lines(
            there / name / "history.jsonl"
        ) == stored_files.load_json_lines(here / name / "history.jsonl")
        assert len(stored_files.load_json_lines(there / name / "results.jsonl")) == 1
    assert (there / "sweep.md").is_file()
    return there


def killing(folder):
    """A package whose model ends the process that makes it, and the words that choose it in one job of three."""
    (folder / "deadly").mkdir()
    text = "import os, signal\n\n\ndef model(spec, *, sure: bool):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    (folder / "deadly" / "__init__.py").write_text(text)
    place = folder / "mine" / "model"
    place.mkdir(parents=True)
    (place / "deadly.yaml").write_text("# Ends its process.\n_target_: deadly.model\nsure: true\n")
    words = [
        "--config-dir",
        str(folder / "mine"),
        "-m",
        "task=digits",
        "preset=smoke",
        "plugins=[deadly]",
    ]
    return [*words, "model=linear,deadly,constant"]


def one_is_killed(folder, monkeypatch, words):
    """A job that kills its process is a failed row, and at most what ran in that pool is lost with it."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main([*killing(folder), *words, f"output={folder / 'o'}"]) == 1
    jobs = entries(folder / "o")[1]
    assert jobs[1]["status"] == "failed" and "lost its process" in jobs[1]["error"]
    own = [
        "sweep.jobs=2",
        "sweep.retry=true",
    ]  # dlrun's own processes lose nothing but the job itself
    assert main([*killing_again(folder), *own, f"output={folder / 'o'}"]) == 1
    assert [job["status"] for job in entries(folder / "o")[1]] == ["done", "failed", "done"]


def killing_again(folder):
    shutil.rmtree(folder / "deadly")
    shutil.rmtree(folder / "mine")
    return killing(folder)


@pytest.mark.slow
def test_joblib(tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed"
    )
    same(tmp_path, ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])


@pytest.mark.slow
def test_slurms_way_through_submitits_local_executor(tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed"
    )
    folder = same(tmp_path, ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60"])
    assert len(list((folder / ".submitit").rglob("*_submitted.pkl"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("joblib", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("submitit", ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60"]),
    ],
)
def test_a_job_that_kills_its_process_is_a_failed_row(tmp_path, monkeypatch, plugin, words):
    pytest.importorskip(
        f"hydra_plugins.hydra_{plugin}_launcher", reason=f"hydra-{plugin}-launcher is not installed"
    )
    one_is_killed(tmp_path, monkeypatch, words)


@pytest.mark.slow
def test_ray(tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_ray_launcher", reason="hydra-ray-launcher is not installed"
    )
    home = tmp_path / "home"  # Ray writes a token there
    home.mkdir()
    code = (
        "import sys; from test_launchers import same, Path; same(Path(sys.argv[1]), sys.argv[2:])"
    )
    words = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
