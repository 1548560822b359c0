"""A run folder can be trusted: what ends a fit, damages a file, fills the disk or comes twice at once loses nothing."""

from __future__ import annotations

import errno
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from filelock import FileLock
from PIL import Image

from dlrun.cli.main import main
from dlrun.core import checkpoint, run_folder, stored_files
from dlrun.core.files import PACKAGE
from dlrun.experiment.parallel_fits import stack
from dlrun.objectives import supervised
from dlrun.training import callbacks, optimization
from dlrun.training import trainer as engine

pytestmark = pytest.mark.usefixtures("elsewhere")

TINY = [
    "task=digits",
    "preset=smoke",
    "model.units=[8]",
    "engine.max_steps=null",
    "engine.save_every=1000",
]
NAN = [
    "optimizer=sgd",
    "optimizer.lr=0.1",
    "scheduler=step",
    "scheduler.every=0.5",
    "scheduler.factor=1e37",
]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """No image is looked at here."""
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, file, *_, **__: open(file, "wb").close()
    )


def only_run(output):
    """The one run folder below."""
    (config,) = output.glob("*/*/*/config.yaml")
    return config.parent


def history(run):
    return stored_files.load_json_lines(run / "history.jsonl")


def best_epochs(run):
    """Job → the epoch of its lowest validation loss that is written down."""
    found = {}
    for row in history(run):
        if row["split"] == "val" and row["values"]["loss"] <= found.get(row["job"], (1e9,))[0]:
            found[row["job"]] = (row["values"]["loss"], row["epoch"])
    return {job: epoch for job, (_, epoch) in found.items()}


def kept_epochs(run):
    """Job → the epoch of its best.pt."""
    return {
        path.parent.name: checkpoint.load(path)["epoch"]
        for path in run.glob("checkpoints/*/best.pt")
    }


def test_row_04_the_best_epoch_outlives_a_loss_that_is_nan(tmp_path, capsys):
    assert main([*TINY, *NAN, "engine.epochs=4", f"output={tmp_path}"]) == 3
    run = only_run(tmp_path)
    assert kept_epochs(run) == best_epochs(run) == {"fit": 2}
    told = capsys.readouterr().out
    assert "resume" not in told and f"dlrun rerun {run} optimizer.lr=" in told
    assert main(["evaluate", str(run)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("fit has no result") == 1 and "the loss is nan" in told
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", str(run), str(tmp_path / "a.png")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("the predictions are those of its best epoch") == 1
    assert not stored_files.load_json_lines(run / "results.jsonl")
    assert (
        main(["report", str(run)]) == 0 and "fit has no result" in (run / "report.md").read_text()
    )
    assert main(["visualize", str(run)]) == 0
    capsys.readouterr()
    assert main(["compare", str(run), str(run)]) == 2
    assert (
        "resume" not in (told := capsys.readouterr().err)
        and f"dlrun rerun {run} optimizer.lr=" in told
    )


def test_row_04_folds_trained_as_one_keep_their_best_epochs(tmp_path, capsys):
    words = [
        *TINY,
        *NAN,
        "protocol=kfold",
        "protocol.folds=2",
        "protocol.stacked=true",
        "engine.epochs=4",
    ]
    assert main([*words, f"output={tmp_path}"]) == 3
    assert set(kept_epochs(only_run(tmp_path)).values()) == {2}
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    capsys.readouterr()
    for asked, answers in (("fit=", "fold-1"), ("fit=fold-2", "fold-2")):
        assert main(["predict", str(only_run(tmp_path)), str(tmp_path / "a.png"), asked]) == 0
        assert f"{answers} has no result" in capsys.readouterr().out
    assert main(["predict", str(only_run(tmp_path)), str(tmp_path / "a.png"), "fit=fold-3"]) == 2
    assert "there are: fold-1, fold-2" in capsys.readouterr().err


class Broken(Exception):
    """What is put in."""


PLACES = {
    "callback": (callbacks.TensorBoard, "__call__", Broken),
    "loss": (supervised.Supervised, "steps", MemoryError),
    "optimizer": (optimization.Optimization, "_step_group", Broken),
    "evaluation": (engine.Trainer, "run_split", MemoryError),
    "history": (run_folder.RunFolder, "append_history", OSError),
    "keeping": (engine.Trainer, "state", MemoryError),
    "writing": (engine.Trainer, "save", OSError),
}


@pytest.mark.parametrize("place", PLACES)
def test_row_04_no_exception_loses_the_best_epoch(tmp_path, monkeypatch, place):
    home, name, error = PLACES[place]
    whole, fired = getattr(home, name), []

    def broken(self, *args, **named):
        if list(tmp_path.glob("*/*/*/history.jsonl")) and len(history(only_run(tmp_path))) >= 4:
            fired.append(place)
            raise error("put in")
        return whole(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(home, name, broken)
        with suppress(Broken, MemoryError, OSError):
            assert main([*TINY, "engine.epochs=3", f"output={tmp_path}"]) in (1, 2)
    run = only_run(tmp_path)
    assert fired and kept_epochs(run) == {
        "fit": max(best_epochs(run)["fit"], kept_epochs(run)["fit"])
    }
    assert main(["evaluate", str(run)]) == 0 and main(["resume", str(run)]) == 0
    assert kept_epochs(run) == best_epochs(run) == {"fit": 3}


def test_row_04_folds_trained_as_one_lose_no_best_epoch_to_another_ones_error(
    tmp_path, monkeypatch
):
    whole = stack.FitStack.run_epoch

    def broken(stacked):
        if stacked.members[0].epoch == 2:
            raise Broken("put in")
        return whole(stacked)

    monkeypatch.setattr(stack.FitStack, "run_epoch", broken)
    words = [
        *TINY,
        "protocol=kfold",
        "protocol.folds=2",
        "protocol.stacked=true",
        "engine.epochs=4",
    ]
    with pytest.raises(Broken):
        main([*words, f"output={tmp_path}"])
    assert (
        kept_epochs(only_run(tmp_path))
        == best_epochs(only_run(tmp_path))
        == {"fold-1": 2, "fold-2": 2}
    )


TABLE = ["task=csv", "data.path=t.csv", "data.target=y", "preset=smoke", "model.units=[4]"]
DAMAGES = {
    "cut": lambda content: content[: len(content) * 3 // 5],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(255, 55, -1)),
    "list": lambda content: b"[1, 2]\n",
}
WHOLE = [
    "config.yaml",
    "data.json",
    "fields.json",
    "results.jsonl",
    "preparation/fit.json",
    "checkpoints/fit/best.pt",
]
READ = {  # command → words after the run, and the files of the run that it reads
    "resume": ([], ["config.yaml", "data.json", "results.jsonl"]),
    "rerun": (["engine.epochs=1"], ["config.yaml", "command.txt"]),
    "evaluate": ([], ["config.yaml", "data.json", "results.jsonl", "checkpoints/fit/best.pt"]),
    "predict": (["new.csv"], WHOLE),
    "report": (
        [],
        [
            *(
                "config.yaml",
                "command.txt",
                "data.json",
                "fields.json",
                "results.jsonl",
                "history.jsonl",
            ),
            *(
                "environment.json",
                "openings.json",
                "errors/fit-val.json",
                "predictions/fit-val.npz",
            ),
        ],
    ),
    "compare": (
        ["other"],
        ["config.yaml", "results.jsonl", "data.json", "fields.json", "predictions/fit-val.npz"],
    ),
    "ensemble": ([], [*WHOLE, "predictions/fit-val.npz"]),
    "visualize": ([], ["config.yaml", "fields.json", "results.jsonl", "checkpoints/fit/best.pt"]),
    "generate": (
        [],
        [
            "config.yaml",
            "data.json",
            "results.jsonl",
            "preparation/fit.json",
            "checkpoints/fit/best.pt",
        ],
    ),
    "weights": ([], ["config.yaml", "results.jsonl", "checkpoints/fit/best.pt"]),
}
PAIRS = [(command, file) for command, (_, files) in READ.items() for file in files]


def words_of(command, run):
    if command == "ensemble":
        return [*TABLE[:4], "model=ensemble", f"model.members=[other,{run}]", "output=e"]
    if command == "weights":
        return [
            "task=digits",
            "preset=smoke",
            "model=pretrained",
            f"model.weights={run}",
            "output=w",
        ]
    return [command, str(run), *READ[command][0]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with three small finished runs: of a table, of images, and one that makes images."""
    place = tmp_path_factory.mktemp("runs")
    rows = [f"{n % 7},{n % 5},{'yes' if n % 7 > 3 else 'no'}" for n in range(120)]
    (place / "t.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    (place / "new.csv").write_text("a,b\n1,2\n5,4\n")
    pictures = [*TINY[:2], "engine.epochs=1", "engine.max_steps=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(
            "matplotlib.figure.Figure.savefig",
            lambda figure, file, *_, **__: open(file, "wb").close(),
        )
        for name, words in {
            "table": TABLE,
            "pictures": [*pictures, "model.units=[4]"],
            "made": [*pictures, "objective=variational", "model=vae_dense"],
        }.items():
            assert main([*words, f"output={name}-o"]) == 0
            only_run(place / f"{name}-o").rename(place / name)
    return place


@pytest.mark.parametrize(
    ("number", "command", "file"), [(n, *pair) for n, pair in enumerate(PAIRS)]
)
def test_row_20_a_damaged_file_is_named_in_one_line(
    runs, elsewhere, capsys, caplog, number, command, file
):
    kind = {"visualize": "pictures", "weights": "pictures", "generate": "made"}.get(
        command, "table"
    )
    for name in ("t.csv", "new.csv"):
        shutil.copy(runs / name, elsewhere)
    for name in ("other", "run"):
        shutil.copytree(runs / kind, elsewhere / name)
    damages = list(DAMAGES.values())[:3] if file.startswith("history") else list(DAMAGES.values())
    whole = (path := elsewhere / "run" / file).read_bytes()
    several = 1 if kind != "table" or command == "ensemble" else 2
    for damage in [damages[(number + each) % len(damages)] for each in range(several)]:
        path.write_bytes(damage(whole))
        capsys.readouterr()
        code = main(words_of(command, "run"))
        out, err = capsys.readouterr()
        if code == 0 and file.startswith("history"):  # a kill may leave it so
            assert not path.read_bytes() or (
                whole.startswith(path.read_bytes()) and path.name in out + err + caplog.text
            )
        else:
            *before, last = err.splitlines() or [""]
            left_out = command == "compare" and code == 0 and path.name in "".join(out.split())
            assert left_out or (code == 2 and last.startswith("dlrun: ") and path.name in last)
            assert not [
                line for line in before if not line.endswith("…")
            ]  # computing activations …


def test_row_20_a_sweep_and_a_workflow_name_their_damaged_files(elsewhere, runs, capsys):
    shutil.copytree(runs / "table", elsewhere / "run")
    for name in ("t.csv", "new.csv"):
        shutil.copy(runs / name, elsewhere)
    for name, files in {"workflow.json": ["report", "predict"], "members.json": ["report"]}.items():
        for damage in DAMAGES.values():
            (elsewhere / "run" / name).write_bytes(damage(b'[{"step": 7, "verdict": "well"}]\n'))
            for command in files:
                assert main([command, "run", *READ[command][0]]) == 2
                assert name in (err := capsys.readouterr().err) and err.count("\n") == 1
        (elsewhere / "run" / name).unlink()
    assert main(["-m", *TABLE, "engine.epochs=1,2", "output=s"]) == 0
    (jobs,) = elsewhere.glob("s/csv/sweep/*/sweep.jsonl")
    for path in (jobs, jobs.with_name("sweep.yaml")):
        whole = path.read_bytes()
        for damage in ("garbage", "list"):
            path.write_bytes(DAMAGES[damage](whole))
            capsys.readouterr()
            assert main(["-m", *TABLE, "engine.epochs=1,2", "output=s"]) == 2
            assert path.name in (err := capsys.readouterr().err) and err.count("\n") == 1
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run that was cut after two of its four epochs: a folder to be copied."""
    place = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        cut_after(2, patch)
        assert main([*TINY, "engine.epochs=4", "output=o"]) == 130
    return only_run(place / "o")


def cut_after(epochs, patch):
    """Stop a fit, as Ctrl-C does, once it has had so many epochs."""
    whole = engine.Trainer.run_split

    def visit(trainer, split, *rest, **named):
        whole(trainer, split, *rest, **named)
        if trainer.epoch + 1 == epochs and split == "val":
            trainer.interrupted = 2

    patch.setattr(engine.Trainer, "run_split", visit)


def test_row_43_the_second_at_work_on_a_run_is_refused_in_one_line(
    tmp_path, unfinished, runs, capsys
):
    run = shutil.copytree(unfinished, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    with FileLock(run / ".lock"):
        for words in (
            ["resume", run],
            ["resume", run, "engine.epochs=5"],
            ["evaluate", run, "test=true"],
        ):
            capsys.readouterr()
            assert main([str(word) for word in words]) == 2
            err = capsys.readouterr().err
            assert err == f"dlrun: another dlrun is at work on {run}\n"
        assert {path: path.read_bytes() for path in before} == before
        assert main(["report", str(run)]) == 0
    assert main(["resume", str(run)]) == 0
    assert [row["epoch"] for row in history(run)] == [1, 1, 2, 2, 3, 3, 4, 4]
    table = shutil.copytree(runs / "table", tmp_path / "table")
    with FileLock(table / ".lock"):
        assert main(["report", str(table)]) == main(["compare", str(table), str(run)]) == 0


def test_row_43_a_run_that_trains_is_held_and_one_that_has_died_holds_nothing(
    tmp_path, monkeypatch, capsys
):
    said, whole = [], engine.Trainer.fit

    def fit(trainer):
        (run,) = tmp_path.glob("*/*/*")
        code = "import sys; from dlrun.cli.main import main; sys.exit(main(sys.argv[1:]))"
        said.append(
            subprocess.run(
                [sys.executable, "-c", code, "resume", run], capture_output=True, text=True
            )
        )
        whole(trainer)

    monkeypatch.setattr(engine.Trainer, "fit", fit)
    assert main([*TINY, "engine.epochs=1", f"output={tmp_path}"]) == 0
    (second,) = said
    assert second.returncode == 2 and "another dlrun is at work on" in second.stderr
    assert second.stderr.count("\n") == 1
    copy = shutil.copytree(
        only_run(tmp_path), tmp_path / "copy"
    )  # with the file of the lock, which is nobody's now
    assert (copy / ".lock").exists() and main(["resume", str(copy)]) == 0


LONG = [*TINY, "optimizer=adam", "engine.device=cpu"]


def weights(run, job="fit", name="last"):
    state = checkpoint.load(run / "checkpoints" / job / f"{name}.pt")["objective"]
    return {key: value.tolist() for key, value in state.items()}


def results_of(run):
    return [
        {key: line[key] for key in ("name", "scores", "epochs")}
        for line in stored_files.load_json_lines(run / "results.jsonl")
    ]


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["protocol=kfold", "protocol.folds=2", "protocol.stacked=false"],
        ["protocol=kfold", "protocol.folds=2"],
    ],
    ids=["one", "folds", "stacked"],
)
def test_row_44_a_finished_run_trained_on_is_one_trained_so_long_from_the_start(
    tmp_path, more, capsys
):
    stacked = ["protocol.stacked=true"] if more[1:] and "protocol.stacked=false" not in more else []
    words = [*LONG, *more, *stacked]
    assert main([*words, "engine.epochs=2", f"output={tmp_path / 'a'}"]) == 0
    assert main([*words, "engine.epochs=4", f"output={tmp_path / 'b'}"]) == 0
    part, whole = only_run(tmp_path / "a"), only_run(tmp_path / "b")
    assert main(["resume", str(part), "engine.epochs=4"]) == 0
    assert sorted(map(str, history(part))) == sorted(map(str, history(whole)))
    assert results_of(part) == results_of(whole)
    for path in whole.glob("checkpoints/*"):
        for name in ("last", "best"):
            assert weights(part, path.name, name) == weights(whole, path.name, name)
    assert {
        line["epochs"] for line in stored_files.load_json_lines(part / "earlier_results.jsonl")
    } == {2}
    changes = json.loads((part / "changes.json").read_text())
    assert set(changes) == set(kept_epochs(part)) and all(
        each[0]["epoch"] == 2 and each[0]["settings"] == {"engine.epochs": [2, 4]}
        for each in changes.values()
    )
    capsys.readouterr()
    assert (
        main(["resume", str(part), "engine.epochs=3"]) == 2
        and "is in epoch 4" in capsys.readouterr().err
    )
    assert main(["resume", str(part)]) == 0 and results_of(part) == results_of(whole)
    for command in (["evaluate", part], ["report", part], ["compare", part, whole]):
        assert main([str(word) for word in command]) == 0


def test_row_44_a_fit_that_stopped_early_goes_on_with_new_patience(tmp_path):
    stopping = "{_target_: dlrun.training.callbacks.early_stopping, monitor: val/loss, patience: 2, least: 10}"
    assert main([*LONG, f"+callback.stop={stopping}", "engine.epochs=9", f"output={tmp_path}"]) == 0
    run = only_run(tmp_path)
    assert [line["epochs"] for line in results_of(run)] == [3]
    assert main(["resume", str(run)]) == 0 and [line["epochs"] for line in results_of(run)] == [3]
    assert main(["resume", str(run), "engine.epochs=10"]) == 0  # waited for again from there
    assert [line["epochs"] for line in results_of(run)] == [5]
    assert main(["resume", str(run), "callback.stop.patience=3"]) == 0
    assert [line["epochs"] for line in results_of(run)] == [8]


def test_row_44_a_learning_rate_changes_from_the_epoch_that_is_noted(tmp_path, unfinished, capsys):
    slow, fast = (shutil.copytree(unfinished, tmp_path / name) for name in ("slow", "fast"))
    assert main(["resume", str(slow)]) == 0
    assert main(["resume", str(fast), "optimizer.lr=0.05"]) == 0
    assert "0.05 from epoch 3, batch 2 on" in capsys.readouterr().out
    assert history(slow)[:4] == history(fast)[:4] and history(slow)[4:] != history(fast)[4:]
    (line,) = stored_files.load_json_lines(fast / "results.jsonl")
    assert "→ 0.05 from epoch 3, batch 2 on" in line["note"]
    (group,) = checkpoint.load(fast / "checkpoints/fit/last.pt")["learner"]["optimizers"]["model"][
        "param_groups"
    ]
    assert group["lr"] == 0.05


REFUSED = ["seed=3", "protocol.validation=0.3", "model.units=[32]", "engine.ema=0.9", "data.test=0.3",
           "callback.keep_best.monitor=val/accuracy", "optimizer.alpha=0.5", "repeat=2"]  # fmt: skip


@pytest.mark.parametrize("end", ["cut", "finished"])
def test_row_44_what_decides_the_rows_or_the_model_is_refused(tmp_path, unfinished, capsys, end):
    run = shutil.copytree(unfinished, tmp_path / "run")
    if end == "finished":
        assert main(["resume", str(run)]) == 0
    before = {
        path: path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "log.txt"
    }
    for word in REFUSED:
        capsys.readouterr()
        code, err = main(["resume", str(run), word, "engine.epochs=6"]), capsys.readouterr().err
        assert code == 2 and ("dlrun rerun" in err or "no setting" in err or "no fit" in err), (
            word,
            err,
        )
    assert {path: path.read_bytes() for path in before} == before


def test_row_44_a_batch_size_cannot_change_amid_an_epoch(tmp_path, monkeypatch, capsys):
    whole = optimization.Optimization.step

    def learn(self, *rest):
        whole(self, *rest)
        if self.steps_taken["model"] == 12:  # of ten a epoch
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(optimization.Optimization, "step", learn)
        assert (
            main([*LONG, "engine.epochs=3", "engine.epoch_batches=10", f"output={tmp_path}"]) == 130
        )
    run = only_run(tmp_path)
    assert main(["resume", str(run), "engine.batch_size=32"]) == 2
    assert "fit is in epoch 2, batch 4" in capsys.readouterr().err
    assert main(["resume", str(run)]) == 0
    assert main(["resume", str(run), "engine.batch_size=32", "engine.epochs=4"]) == 0
    assert "engine.batch_size" in stored_files.load_json_lines(run / "results.jsonl")[0]["note"]


def test_row_42_a_file_that_is_too_large_is_one_line_and_the_run_goes_on_with_room(
    tmp_path, monkeypatch, capsys
):
    words = [
        "task=digits",
        "preset=smoke",
        "model.units=[64]",
        "engine.save_every=0",
        f"output={tmp_path / 'o'}",
    ]
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        code = main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    out, err = capsys.readouterr()
    (told,) = err.splitlines()
    assert code == 1 and "Traceback" not in out
    assert (
        "cannot write" in told and "too large" in told and "free)" in told and str(tmp_path) in told
    )
    runs = list((tmp_path / "o").glob("*/*/*/config.yaml"))
    for config in runs:
        assert not list(config.parent.rglob("*.new"))
        assert main(["resume", str(config.parent)]) == 0 and len(results_of(config.parent)) == 1


FULL = {  # what does not fit → the exit code, whether there is a result
    "checkpoints/": (1, False),
    "history.jsonl": (1, False),
    "results.jsonl": (1, False),
    "predictions/": (0, True),
    "tensorboard/": (0, True),
    "report.html": (0, True),
    ".png": (0, True),
    "errors/": (0, True),
    "log.txt": (0, True),
}


@pytest.mark.parametrize("name", FULL)
def test_row_42_a_full_disk_costs_what_does_not_fit_and_no_score(
    tmp_path, monkeypatch, capsys, name
):
    opened = io.open

    def full(file, mode="r", *rest, **named):
        if set(mode) & set("wa") and name in str(file):
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return opened(file, mode, *rest, **named)

    words = [*TINY, "engine.epochs=1", f"output={tmp_path}"]
    with monkeypatch.context() as patch:
        for place in ("io.open", "builtins.open"):
            patch.setattr(place, full)
        code = main(words)
    out, err = capsys.readouterr()
    assert (code, bool(list(tmp_path.glob("*/*/*/results.jsonl")))) == FULL[name]
    assert "Traceback" not in out + err and (
        "No space left on device" in out + err or name == "log.txt"
    )
    assert err.count("\n") == code and ("dlrun resume" in err) == (
        code == 1 and name != "history.jsonl"
    )
    if name == "history.jsonl":  # nothing had begun
        assert not list(tmp_path.glob("*/*/*"))
        return
    run = only_run(tmp_path)
    assert (
        main(["resume", str(run)]) == main(["report", str(run)]) == 0 and len(results_of(run)) == 1
    )


def test_row_runs_the_log_keeps_what_the_terminal_shows(tmp_path, capsys):
    assert main([*TINY, "engine.epochs=2", f"output={tmp_path}"]) == 0
    shown, log = capsys.readouterr().out, (only_run(tmp_path) / "log.txt").read_text()
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert len(lines) > 8 and any("epoch 2/2" in line for line in lines)
    assert [line for line in lines if line not in log] == []
    assert [line for line in lines if log.count(line) > 1 and "epoch" in line] == []


def test_row_runs_the_learning_rate_of_every_epoch_is_written_down(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = [*LONG, "engine.epochs=4", "optimizer.lr=0.1", "scheduler=step", "scheduler.every=0.5"]
    assert main([*words, f"output={tmp_path / 'a'}"]) == 0
    run = only_run(tmp_path / "a")
    rates = [row["rates"]["lr"] for row in history(run) if row["split"] == "train"]
    assert rates[0] == rates[1] == 0.1 and rates[2] == rates[3] == pytest.approx(0.01)
    seen = EventAccumulator(str(run / "tensorboard/fit/train")).Reload().Scalars("learning_rate")
    assert [each.value for each in seen] == pytest.approx(rates)
    assert "0.1 → 0.01" in (run / "report.md").read_text()
    folds = [*words, "protocol=kfold", "protocol.folds=2"]
    for stacked in ("true", "false"):
        assert main([*folds, f"protocol.stacked={stacked}", f"output={tmp_path / stacked}"]) == 0
    both = [
        sorted(map(str, history(only_run(tmp_path / stacked)))) for stacked in ("true", "false")
    ]
    rates = [[row["rates"]["lr"] for row in history(only_run(tmp_path / name)) if "rates" in row] for name in
             ("true", "false")]  # fmt: skip
    assert sorted(rates[0]) == sorted(rates[1]) and len(rates[0]) == 8 and all(both)


def test_row_runs_the_environment_says_which_dlrun_it_was(tmp_path, elsewhere):
    assert main([*TINY, "engine.epochs=1", f"output={tmp_path}"]) == 0
    about = json.loads((only_run(tmp_path) / "environment.json").read_text())
    assert (
        about["dlrun"]["version"] and about["git"]["commit"] is None
    )  # the working folder is none of git's
    root = PACKAGE.parents[1]
    assert (root / ".git").exists() == bool(about["dlrun"].get("commit"))


def test_row_04_a_best_epoch_that_is_to_be_trained_again_is_no_best_yet(tmp_path):
    """best.pt is of a later epoch than last.pt where an error came between; the one before it stands meanwhile."""
    path = tmp_path / "best.pt"
    for epoch in (2, 9):
        checkpoint.save(path, {"epoch": epoch})
    assert checkpoint.load_before_epoch(path, 9) is None
    assert checkpoint.load_before_epoch(path, 3) == {"epoch": 2}
    assert checkpoint.load_before_epoch(path, 1) is None
