"""Sweeps: what is tried, what a job is, and that what has been run is never run again or overwritten."""

from __future__ import annotations

import csv
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from beside import LIMIT
from filelock import FileLock

from dlrun.cli import sweep
from dlrun.cli.main import main
from dlrun.cli.sweep import create_study, parse_sweep_settings
from dlrun.config import compose
from dlrun.config.compose import ConfigComposer, configure
from dlrun.config.parts import get_builtin_conf, list_group_options
from dlrun.core import stored_files
from dlrun.core.errors import UserError
from dlrun.data import cache
from dlrun.launch import sweep_job
from dlrun.launch import sweep_job as work
from dlrun.report import parallel_coordinates
from dlrun.report.sweep_jobs import JobRow, SweepObjective, find_best_jobs, rank_jobs
from dlrun.sweeps import sweep_folder
from dlrun.sweeps.job import compute_identity
from dlrun.sweeps.scheduler import Scheduler
from dlrun.sweeps.space import SweepOverrides, expand_search_space, format_values
from dlrun.sweeps.study import Axis, GridStudy, Outcome, PreviousJob, make_combinations

TINY = [
    "task=digits",
    "preset=smoke",
    "engine.max_steps=2",
    "model.units=[4]",
    "protocol.stacked=false",
]


pytestmark = pytest.mark.usefixtures("elsewhere")


def folder_of(output):
    (file,) = output.rglob("sweep.yaml")
    return file.parent


def table(folder):
    with (folder / "sweep.csv").open() as stream:
        return list(csv.DictReader(stream))


def files(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder
    }


def counted(monkeypatch):
    """The numbers of the jobs that are carried out from here on."""
    run, numbers = work.run_job, []

    def noted(job, *rest):
        numbers.append(job.number)
        return run(job, *rest)

    monkeypatch.setattr(sweep_job, "run_job", noted)
    return numbers


# what is tried


def test_every_combination_comes_once_the_last_key_fastest():
    axes = [Axis("a", ("1", "2")), Axis("b", ("x", "y", "z"))]
    found = make_combinations(axes)
    assert found == [
        ["a=1", "b=x"],
        ["a=1", "b=y"],
        ["a=1", "b=z"],
        ["a=2", "b=x"],
        ["a=2", "b=y"],
        ["a=2", "b=z"],
    ]
    assert make_combinations([]) == [[]]


def test_zipped_keys_move_as_one_and_the_others_multiply():
    axes = [Axis("a", ("1", "2")), Axis("b", ("x", "y")), Axis("+c", ("7", "8"))]
    assert make_combinations(axes, ["a", "c"]) == [
        ["a=1", "+c=7", "b=x"],
        ["a=1", "+c=7", "b=y"],
        ["a=2", "+c=8", "b=x"],
        ["a=2", "+c=8", "b=y"],
    ]


@pytest.mark.parametrize(
    ("axes", "zipped", "said"),
    [
        (
            [Axis("a", ("1", "2")), Axis("b", ("1",))],
            ["a", "b"],
            "lists of one length: a has 2, b has 1",
        ),
        ([Axis("a", ("1", "2"))], ["a", "b"], "no list of values for b; there are lists for: a"),
        ([Axis("a", low=0, high=1)], [], "a: a grid needs values"),
    ],
)
def test_what_cannot_be_combined_is_refused(axes, zipped, said):
    with pytest.raises(UserError, match=said):
        GridStudy(axes, zipped)


def test_a_grid_leaves_out_what_is_there_and_ends_at_its_total():
    grid = GridStudy([Axis("a", tuple("12345"))], trials=4)
    grid.restore_jobs(
        [PreviousJob(0, ["a=2"], Outcome("failed")), PreviousJob(1, ["a=5"], Outcome("done"))]
    )
    asked = [grid.ask() for _ in range(3)]
    assert asked == [["a=1"], ["a=3"], ["a=4"]] and grid.done and grid.ask() is None


def test_words_are_read_as_hydra_reads_them():
    words = [
        "model=dense,linear",
        "a=range(1,4)",
        "b=tag(log,interval(1e-3,1))",
        "+c=choice([1,2],[3])",
        "d=int(1)",
        "d=2",
    ]
    given = SweepOverrides([*words, "loss=glob(m*)", "e=interval(2,8)"], [])
    axes = {axis.key: axis for axis in given.axes}
    assert axes["model"].values == ("dense", "linear") and axes["a"].values == ("1", "2", "3")
    assert axes["b"] == Axis("b", (), 0.001, 1, log=True) and axes["+c"].values == ("[1,2]", "[3]")
    assert set(axes["loss"].values) == {"mae", "mse"} and axes["e"].is_interval
    assert given.fixed == ["d=2"]
    assert given.get_job_overrides(["a=2", "+c=[3]", "model=linear"])[:2] == ["model=linear", "a=2"]


@pytest.mark.parametrize(
    "word", ["a=interval(1,1)", "a=tag(log,interval(0,1))", "model=glob(nothing)", "a=range("]
)
def test_values_that_are_none_are_refused(word):
    with pytest.raises(UserError, match="a=|model="):
        SweepOverrides([word], [])


@pytest.mark.parametrize("name", list_group_options(get_builtin_conf(), "space"))
def test_every_shipped_space_makes_jobs_that_make_sense(name):
    words = SweepOverrides([*TINY[:-2], *expand_search_space([name], [])], [])
    composer = ConfigComposer([], ())
    assert len(words.axes) >= 2
    for axis in words.axes:
        for value in axis.values or (repr(axis.low), repr(axis.high)):
            ends = {other.key: (other.values or (repr(other.low),))[0] for other in words.axes}
            composer(
                words.get_job_overrides(
                    [f"{key}={text}" for key, text in (ends | {axis.key: value}).items()]
                )
            )


def test_a_space_of_ones_own_and_words_that_win(tmp_path, capsys):
    place = tmp_path / "mine" / "space"
    place.mkdir(parents=True)
    (place / "small.yaml").write_text(
        "# Mine.\nseed: [1, 2]\noptimizer.lr: [0.1, 0.01]\nmodel.l2: [0.0, null]\n"
    )
    assert format_values([[1, 2], None, True, 0.5]) == "[1,2],null,true,0.5"
    words = [
        "-m",
        "--config-dir",
        str(tmp_path / "mine"),
        *TINY,
        "space=small",
        "model.l2=0",
        "optimizer.lr=0.02",
    ]
    assert main([*words, f"output={tmp_path / 'o'}"]) == 0
    assert [
        row["seed"] for row in sorted(table(folder_of(tmp_path / "o")), key=lambda row: row["job"])
    ] == ["1", "2"]
    out = capsys.readouterr().out
    assert f"best: dlrun --config-dir {tmp_path / 'mine'}" in out and "job 2/2" in out
    assert main(["-m", *TINY, "space=smal"]) == 2
    assert "no space 'smal'" in capsys.readouterr().err


# what a job is


CHOICES = ("optimizer=adam", "callback=[early_stopping]", "preset=smoke")


@pytest.mark.parametrize("task", ["digits", "imdb"])
def test_configs_put_together_quickly_are_those_of_the_long_way(task, monkeypatch):
    composer, known = ConfigComposer([], ()), set()
    for words in (
        ["optimizer.lr=0.1", "seed=3"],
        ["optimizer.lr=1e-3", "seed=4", "source=sample"],
        ["optimizer=adam", "optimizer.lr=1e-3", "test=true", "reason='a b'"],
        ["optimizer=adam", "optimizer.lr=2", "++engine.clip_norm=1", "callback=[early_stopping]"],
        [
            "optimizer=adam",
            "optimizer.lr=3",
            "callback=[early_stopping]",
            "callback.early_stopping.patience=1",
        ],
        ["preset=smoke", "engine.epochs=7"],
        ["preset=smoke", "engine.epochs=8", "++engine.epochs=9", "output=elsewhere"],
    ):
        expected = configure([f"task={task}", *words], [], ())
        with monkeypatch.context() as patch:
            if (choices := tuple(word for word in words if word in CHOICES)) in known:
                patch.setattr(compose, "compose_hydra_config", None)  # files are read once
            assert composer([f"task={task}", *words]) == expected
        known.add(choices)
    assert len(composer.known) == len(known) == 4
    with pytest.raises(UserError, match="engine.epochs=0: it must be a whole number from 1 up"):
        composer([f"task={task}", "preset=smoke", "engine.epochs=0"])
    with pytest.raises(UserError, match="did you mean 'engine.epochs'"):
        composer([f"task={task}", "preset=smoke", "engine.epoch=1"])


def test_a_job_is_its_config_and_not_its_words_or_its_place():
    plain = configure(["task=digits"], [], ())
    assert "sweep" not in plain
    assert compute_identity(plain) == compute_identity(
        configure(["seed=0", "output=elsewhere", "task=digits"], [], ())
    )
    assert compute_identity(plain) != compute_identity(configure(["task=digits", "seed=1"], [], ()))


def test_two_words_for_one_config_are_one_job(tmp_path, monkeypatch):
    numbers = counted(monkeypatch)
    assert main(["-m", *TINY, "optimizer.lr=0.01,1e-2,0.02", f"output={tmp_path}"]) == 0
    assert numbers == [0, 2] and [row["job"] for row in table(folder_of(tmp_path))] in (
        ["0", "2"],
        ["2", "0"],
    )
    assert main(["-m", *TINY, "optimizer.lr=0.01,1e-2,0.02", f"output={tmp_path}"]) == 0
    assert numbers == [0, 2]


# what has been run


def test_the_same_command_again_runs_only_what_is_missing_and_overwrites_nothing(
    tmp_path, monkeypatch, capsys
):
    numbers, show = counted(monkeypatch), Scheduler._finish_job

    def stopped(self, ended):
        show(self, ended)
        if ended.number == 2:
            raise KeyboardInterrupt

    words = [
        "-m",
        *TINY,
        "seed=1,2,3,4",
        "optimizer.lr=0.01,0.02",
        f"output={tmp_path}",
        "sweep.trials=6",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "_finish_job", stopped)
        assert main(words) == 130
    folder = folder_of(tmp_path)
    before = files(folder)
    assert numbers == [0, 1, 2] and len(table(folder)) == 3
    assert main(words) == 0
    assert (
        numbers == [0, 1, 2, 3, 4, 5]
        and "this sweep is there, with 3 jobs" in capsys.readouterr().out
    )
    assert {
        path: text
        for path, text in files(folder).items()
        if path in before and path.suffix != ".md"
    } == {path: text for path, text in before.items() if path.suffix != ".md"}
    assert main(words) == 0 and len(numbers) == 6
    assert (
        main([*words[:-1], "sweep.trials=8"]) == 0
    )  # a total, and how many is not what a sweep is
    assert numbers[6:] == [6, 7] and len(table(folder)) == 8 and folder_of(tmp_path) == folder
    assert len({row["seed"] + row["optimizer.lr"] for row in table(folder)}) == 8


def test_other_words_or_fresh_make_another_sweep(tmp_path):
    words = ["-m", *TINY, "seed=1,2", f"output={tmp_path}"]
    for more in ([], ["sweep.fresh=true"], ["optimizer.lr=0.1"], ["sweep.measure=loss"]):
        assert main([*words, *more]) == 0
    assert len(list(tmp_path.rglob("sweep.yaml"))) == 4


def test_a_job_cut_in_the_middle_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    from dlrun.core.errors import TrainingInterrupted
    from dlrun.training.trainer import Trainer

    visit = Trainer.run_split

    def cut(trainer, split, *args, **named):
        if trainer.epoch == 2:
            trainer.save()
            raise TrainingInterrupted(15)
        visit(trainer, split, *args, **named)

    words = ["-m", *TINY, "engine.max_steps=null", "engine.epochs=4", "seed=1,2"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_split", cut)
        assert main([*words, f"output={tmp_path / 'a'}"]) == 143
    folder = folder_of(tmp_path / "a")
    assert [row["status"] for row in table(folder)] == ["begun"] and not (folder / "001").exists()
    assert main([*words, f"output={tmp_path / 'a'}"]) == 0
    assert main([*words, f"output={tmp_path / 'b'}"]) == 0
    assert "goes on at epoch 3" in (folder / "000" / "log.txt").read_text()
    for job in ("000", "001"):
        assert [epoch for epoch, _ in sweep_folder.read_epochs(folder / job)] == [1, 2, 3, 4]
        rows = [
            stored_files.load_json_lines(place / job / "history.jsonl")
            for place in (folder, folder_of(tmp_path / "b"))
        ]
        assert rows[0] == rows[1]


def test_failed_jobs_are_run_again_only_where_that_is_asked_for(tmp_path, monkeypatch):
    numbers = counted(monkeypatch)
    words = ["-m", *TINY, "optimizer=sgd", "optimizer.lr=1e38,0.1", f"output={tmp_path}"]
    assert main(words) == 1 and main(words) == 1
    assert numbers == [0, 1]
    assert main([*words, "sweep.retry=true"]) == 1
    assert numbers == [0, 1, 0]
    assert [row["status"] for row in table(folder_of(tmp_path))] == ["done", "failed"]


def test_words_that_mean_something_else_now_are_run_beside_what_is_there(tmp_path, capsys):
    mine = tmp_path / "mine" / "model"
    mine.mkdir(parents=True)
    file = mine / "own.yaml"
    file.write_text("# Mine.\ndefaults: [dense, _self_]\nunits: [4]\n")
    words = [
        "-m",
        "--config-dir",
        str(tmp_path / "mine"),
        "task=digits",
        "preset=smoke",
        "model=own",
        "seed=1,2",
    ]
    assert main([*words, f"output={tmp_path / 'o'}"]) == 0
    before = files(folder_of(tmp_path / "o"))
    file.write_text("# Mine.\ndefaults: [dense, _self_]\nunits: [8]\n")
    assert main([*words, f"output={tmp_path / 'o'}"]) == 0
    rows = table(folder_of(tmp_path / "o"))
    assert [row["status"] for row in rows] == ["done", "done", "older", "older"]
    assert sorted(row["job"] for row in rows) == ["0", "1", "2", "3"]
    assert {path: files(folder_of(tmp_path / "o"))[path] for path in before} == before


def test_two_at_once_on_one_sweep_are_refused(tmp_path, capsys):
    words = ["-m", *TINY, "seed=1,2", f"output={tmp_path}"]
    assert main(words) == 0
    with FileLock(folder_of(tmp_path) / ".lock"):
        assert main(words) == 2
    assert "another dlrun is at work on" in capsys.readouterr().err


def test_the_best_command_runs_again_and_opens_no_test_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [
        "-m",
        *TINY,
        "optimizer.lr=0.0001,0.05",
        "test=true",
        "reason=a first look",
        f"output={tmp_path / 'o'}",
    ]
    assert main(words) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("best: "))
    name, *again = shlex.split(line.removeprefix("best: "))
    assert name == "dlrun" and not [word for word in again if word.startswith(("test=", "reason="))]
    folder = folder_of(tmp_path / "o")
    (page,) = folder.glob("*/report.html")
    assert main(again) == 0
    (run,) = (path.parent for path in (tmp_path / "o").glob("digits/dense/*/config.yaml"))
    mine, there = (
        [
            line["scores"]
            for line in stored_files.load_json_lines(place / "results.jsonl")
            if line["split"] == "val"
        ]
        for place in (run, page.parent)
    )
    assert mine == there
    assert (folder / "sweep.png").is_file()


# how it is said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.jobs=2"], "sweep.jobs=2: it is about a sweep: add -m"),
        (["space=dense"], "space=dense: it is about a sweep: add -m"),
        (["-m", "sweep.jbs=2"], "no setting 'sweep.jbs': did you mean 'sweep.jobs'"),
        (["-m", "sweep.jobs=0"], "sweep.jobs=0: it must be a whole number from 1 up"),
        (["-m", "sweep=gird"], "no sweep 'gird': did you mean 'grid'"),
        (["-m", "sweep.zip=[seed,optimizer.lr]", "seed=1,2"], "no list of values for optimizer.lr"),
        (
            ["-m", "sweep.zip=[seed,optimizer.lr]", "seed=1,2", "optimizer.lr=1,2,3"],
            "seed has 2, optimizer.lr has 3",
        ),
        (["-m", "optimizer.lr=interval(0.1,1)"], "a grid needs values"),
        (
            ["-m", "sweep=random", "sweep.zip=[seed]", "seed=1,2"],
            "sweep.zip pairs the lists of a grid",
        ),
        (["-m", "sweep.devices=['0']", "sweep.jobs=2", "seed=1,2"], "are room for 1 at a time"),
        (
            ["-m", "sweep=halving", "seed=1,2", "engine.devices=2"],
            "cannot see into engine.devices=2",
        ),
        (["-m", "space.dense=1"], "name a space, such as space=dense"),
    ],
)
def test_wrong_sweeps_are_refused_with_what_is_wrong(words, said, tmp_path, capsys):
    assert main([*TINY, *words, f"output={tmp_path / 'o'}"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("o/*"))


def test_a_wrong_sweep_is_refused_before_anything_heavy_is_imported():
    heavy = "{'torch', 'optuna', 'matplotlib'} & set(sys.modules)"
    code = f"import sys; from dlrun.cli.main import main; sys.exit(main(sys.argv[1:]) + 10 * bool({heavy}))"
    for words in (
        ["sweep.jbs=2", "seed=1,2"],
        ["model=dnse,liner"],
        ["sweep=tpe", "sweep.trials=0", "seed=1,2"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, "-m", *words],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 2, done.stderr


def test_completion_and_ls_know_sweeps(capsys):
    assert main(["complete", "-m", "sweep"]) == 0
    assert {"sweep=", "sweep.jobs=", "sweep.zip="} <= set(capsys.readouterr().out.split())
    assert main(["ls", "sweep", "space"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("grid", "random", "tpe", "halving", "dense", "rates"))


def made_up(job, status="done", **scores):
    spread = {name: (value, None) for name, value in scores.items()}
    return JobRow(job, status, {"optimizer.lr": str(job)}, spread, {}, "", f"{job:03}", "")


def test_the_best_is_a_finished_one_and_of_several_aims_none_is_beaten():
    lines = [made_up(0, loss=1.0, accuracy=0.5), made_up(1, loss=3.0, accuracy=0.7), made_up(2, "pruned", accuracy=0.9),
             made_up(3, "failed"), made_up(4, loss=2.0, accuracy=0.5)]  # fmt: skip
    assert [line.job for line in find_best_jobs(lines, SweepObjective())] == [1]
    assert [line.job for line in find_best_jobs(lines, SweepObjective(("loss",)))] == [0]
    assert [line.job for line in rank_jobs(lines, "accuracy")] == [1, 0, 4, 2, 3]
    assert [line.job for line in find_best_jobs(lines, SweepObjective(("loss", "accuracy")))] == [
        0,
        1,
    ]
    assert find_best_jobs([made_up(0, "failed")], SweepObjective()) == []


def test_axes_are_logarithmic_where_values_are_far_apart_and_what_is_good_stands_above():
    rates = parallel_coordinates.make_axis_scale("optimizer.lr", ["0.1", "0.001", "1e-2"])
    assert rates.heights == pytest.approx({"0.1": 1, "0.001": 0, "1e-2": 0.5})
    assert parallel_coordinates.make_axis_scale(
        "units", ["10", "20", "30"]
    ).heights == pytest.approx({"10": 0, "20": 0.5, "30": 1})
    decays = parallel_coordinates.make_axis_scale("model.l2", ["0.001", "0", "0.0001"]).heights
    assert sorted(decays, key=decays.get) == ["0", "0.0001", "0.001"]
    assert sorted(decays.values()) == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    names = parallel_coordinates.make_axis_scale("model", ["dense", "linear"])
    assert names.heights == {"dense": 0.25, "linear": 0.75} and [
        text for _, text in names.labels
    ] == [
        "dense",
        "linear",
    ]
    assert parallel_coordinates.make_axis_scale("val loss", ["1.0", "3.0"], -1).heights == {
        "1.0": 1,
        "3.0": 0,
    }


def test_there_is_no_picture_of_one_score(tmp_path):
    assert (
        parallel_coordinates.draw_parallel_coordinates(
            tmp_path, [made_up(0, accuracy=0.5), made_up(1, "failed")], SweepObjective()
        )
        is None
    )
    assert not list(tmp_path.rglob("*.png"))


# while it runs


class Pruner(GridStudy):
    """A grid that ends every second job after two epochs."""

    supports_pruning = True

    def __init__(self, axes):
        super().__init__(axes)
        self.heard, self.outcomes = [], {}

    def should_prune(self, number, epoch, values, goals):
        self.heard.append((number, epoch))
        assert "val/accuracy" in values
        return number % 2 == 1 and epoch == 2

    def tell(self, number, outcome):
        self.outcomes[number] = outcome


@pytest.mark.parametrize("more", [[], ["protocol=kfold", "protocol.stacked=auto"]])
def test_a_pruned_job_ends_normally_and_its_row_says_so(more, tmp_path, monkeypatch):
    study = Pruner([Axis("seed", ("1", "2"))])
    monkeypatch.setattr(sweep, "create_study", lambda *rest: (study, 2))
    words = [*TINY, "engine.max_steps=null", "engine.epochs=3", *more]
    assert main(["-m", *words, "seed=1,2", f"output={tmp_path}"]) == 0
    folder = folder_of(tmp_path)
    assert {row["job"]: row["status"] for row in table(folder)} == {"0": "done", "1": "pruned"}
    assert study.outcomes[1].status == "pruned" and "epoch 2" in study.outcomes[1].reason
    assert (
        study.outcomes[0].scores["accuracy"] > 0
        and study.outcomes[0].scores["parameters"] == 64 * 4 + 4 + 40 + 10
    )
    ends = [row["epoch"] for row in stored_files.load_json_lines(folder / "001" / "history.jsonl")]
    assert max(ends) == 2 and (1, 2) in study.heard


def test_settings_come_from_the_group_and_a_preset_may_change_them(tmp_path):
    plain = parse_sweep_settings([], ["task=digits"], [])
    assert (plain.method, plain.jobs, plain.trials, plain.limit) == ("grid", 1, None, None)
    assert parse_sweep_settings(["sweep=tpe", "sweep.trials=7"], [], []) == replace(
        plain, method="tpe", trials=7
    )
    place = tmp_path / "preset"
    place.mkdir()
    (place / "many.yaml").write_text("# @package _global_\n# Many.\nsweep: {jobs: 3}\n")
    assert parse_sweep_settings([], ["preset=many"], [tmp_path]).jobs == 3
    assert create_study([Axis("a", ("1", "2"))], replace(plain, trials=1), tmp_path)[1] == 1


def test_data_are_read_once_and_cannot_be_written_to(tmp_path):
    read = []

    def load():
        read.append(1)
        from dlrun.data.datasets.sklearn_datasets import digits

        return digits(**{k: v for k, v in node.items() if k != "_target_"})

    node = yaml.safe_load((get_builtin_conf() / "data" / "digits.yaml").read_text())
    cache.open_cache()
    try:
        first, again = (
            cache.load_cached_dataset(node, load),
            cache.load_cached_dataset(dict(node), load),
        )
        assert first[0] is again[0] and first[1] == again[1] and len(read) == 1
        with pytest.raises(ValueError, match="read-only"):
            next(iter(first[0].dev.values()))[0] = 0
        for number in range(cache.MAX_DATASETS):
            cache.load_cached_dataset({"other": number}, load)
        cache.load_cached_dataset(node, load)
        assert len(read) == 2 + cache.MAX_DATASETS
    finally:
        cache.close_cache()
    assert (
        cache.load_cached_dataset(node, load)[1] == first[1] and len(read) == 3 + cache.MAX_DATASETS
    )


def test_a_sweep_leaves_nothing_held(tmp_path):
    assert main(["-m", *TINY, "seed=1,2", f"output={tmp_path}"]) == 0
    assert cache._held_datasets is None and Path.cwd().name == "here"


@pytest.mark.parametrize("pays", [True, False])
def test_jobs_that_can_be_one_have_each_a_row_and_come_to_the_same(
    pays, tmp_path, monkeypatch, capsys
):
    from dlrun.experiment.parallel_fits import driver

    monkeypatch.setattr(driver, "is_worthwhile", lambda *rest: pays)
    words = [
        "-m",
        *TINY,
        "engine.max_steps=null",
        "optimizer=sgd",
        "optimizer.lr=0.1,1e38,0.3",
        "seed=1,2",
    ]
    assert main([*words, f"output={tmp_path / 'alone'}"]) == 1
    assert main([*words, "protocol.stacked=auto", f"output={tmp_path / 'one'}"]) == 1
    rows = {
        name: {row["optimizer.lr"] + row["seed"]: row for row in table(folder_of(tmp_path / name))}
        for name in ("alone", "one")
    }
    for key, row in rows["alone"].items():
        assert (
            rows["one"][key]["status"] == row["status"]
            and rows["one"][key]["error"] == row["error"]
        )
        if row["status"] == "done":
            assert float(rows["one"][key]["loss"]) == pytest.approx(float(row["loss"]), rel=1e-4)
    out = capsys.readouterr().out
    assert (
        "job 1/6 to job 6/6: 6 as one, if that is faster" in out
        and ("6 fits  epoch 1/2" in out) is pays
    )
    assert "nothing left to do" not in out
    assert len(rows["one"]) == 6


@pytest.mark.parametrize(("wanted", "said"), [
    ("val/mae", "sweep.measure=mae is not measured; there are: loss, accuracy, parameters, seconds"),
    ("[val/accuracy,parameterz]", "sweep.measure=parameterz is not measured"),
    ("test/accuracy", "sweep.measure=test/accuracy: a sweep is decided on validation rows"),
])  # fmt: skip
def test_a_grid_that_is_to_be_sorted_by_what_nobody_measures_is_refused(
    tmp_path, capsys, wanted, said
):
    words = ["-m", "task=wine", "optimizer.lr=0.1,0.01", "engine.epochs=1", f"output={tmp_path}"]
    assert main([*words, f"sweep.measure={wanted}"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert main([*words, "sweep.measure=val/accuracy"]) == 0


@pytest.mark.parametrize(("words", "said"), [
    (["model.units=[4]", "optimizer.lr=0.1,0.2"], None),
    (["model=convnet", "seed=1,2"], "model convnet has layers that cannot be stacked"),
    (["model.units=[4]", "seed=1,2", "sweep.limit=60"], "sweep.limit ends each by itself"),
])  # fmt: skip
def test_a_sweep_that_is_to_be_trained_as_one_is_or_says_why_not(
    words, said, tmp_path, monkeypatch, capsys
):
    from dlrun.experiment.parallel_fits import driver

    monkeypatch.setattr(driver, "is_worthwhile", lambda *rest: False)
    more = [
        "task=digits",
        "preset=smoke",
        "engine.max_steps=2",
        "protocol.stacked=true",
        f"output={tmp_path}",
    ]
    assert main(["-m", *more, *words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (f"protocol.stacked=true: jobs are trained one by one, for {said}" in out) is (
        said is not None
    )
    assert ("2 as one" in out and "2 fits epoch 1/" in out) is (said is None)


def test_jobs_that_were_cut_as_one_go_on_as_one(tmp_path, monkeypatch, capsys):
    from dlrun.core.errors import TrainingInterrupted
    from dlrun.experiment.parallel_fits import loop

    words = [
        "-m",
        *TINY,
        "engine.max_steps=null",
        "engine.epochs=3",
        "protocol.stacked=true",
        "optimizer.lr=0.1,0.2",
    ]
    words += [f"output={tmp_path}"]
    epoch = loop.train_stack_epoch

    def cut(members, face):
        left = epoch(members, face)
        for member in members:
            member.trainer.save()
        raise TrainingInterrupted(signal.SIGTERM) if left else AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_stack_epoch", cut)
        assert main(words) == 143
    capsys.readouterr()
    assert main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "with 2 jobs, 2 of them to be gone on with" in out and "2 fits epoch 2/3" in out


def test_a_sweep_that_opens_test_rows_in_every_job_says_why(tmp_path, capsys):
    words = ["-m", "task=wine", "seed=1,2", "engine.epochs=1", "test=true", f"output={tmp_path}"]
    assert main(words) == 2
    assert 'say why, reason="' in capsys.readouterr().err and not list(tmp_path.glob("wine"))
    assert main([*words, "reason=seeds"]) == 0
