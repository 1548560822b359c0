"""Several processes are one: the same sums, one run folder, and no process that dies or is stopped in silence.

Tolerance: with SGD, weights, rows and scores of two or three processes differ from those of one by less than 1e-6; what
differs is only in which order float32 numbers are added up.
"""

from __future__ import annotations

import csv
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import crew
import numpy as np
import pytest
import torch
import yaml
from beside import Beside, dlrun, ended

from dlrun.cli.main import main
from dlrun.config import parts as groups
from dlrun.core import checkpoint, stored_files
from dlrun.core.environment import ONE_PROCESS
from dlrun.data.loading import table as partition
from dlrun.launch import local_ranks

TOLERANCE = 1e-6
WORDS = [
    "task=digits",
    "engine.device=cpu",
    "model.units=[16]",
    "model.dropout=0",
    "optimizer=sgd",
    "callback=keep_best",
]
LONG = [*WORDS, "engine.epochs=100000", "engine.batch_size=64"]
linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks for processes in /proc"
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield crew.found(folder)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def several(request, tmp_path_factory):
    return crew.run(tmp_path_factory.mktemp("crew") / str(request.param), request.param)


def near(one: Any, other: Any) -> None:
    """Assert that two structures differ by no more than the tolerance."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            near(a, b)
    elif isinstance(one, torch.Tensor | np.ndarray | float):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=TOLERANCE)
    else:
        assert one == other


@pytest.mark.parametrize("case", ["classifier", "windows", "tiny", "ranked", "contest"])
def test_several_processes_are_one(alone, several, case):
    assert len(alone[case]["history"]) >= 1
    near(alone[case], several[case])


def test_a_loss_that_is_no_number_ends_all_with_the_same_words(alone, several):
    assert len(several["diverged"]["told"]) > 1
    assert (
        set(several["diverged"]["told"])
        == set(alone["diverged"]["told"])
        == {"epoch 2, train, step 4: the loss is nan"}
    )


def test_all_stop_after_the_same_batch_and_go_on_to_the_same_bits(alone, several):
    assert several["cut"]["where"] == [alone["cut"]["where"][0]] * len(several["cut"]["where"])
    for name in ("cut", "plain"):
        whole, again = several[name]["whole"], several[name]["again"]
        assert (
            all(map(torch.equal, whole["weights"], again["weights"]))
            and whole["history"] == again["history"]
        )
    near(alone["plain"]["again"], several["plain"]["again"])


def test_running_statistics_are_the_same_everywhere_after_an_epoch(alone, several):
    first, *others = several["normed"]["running"]
    assert others and all(
        torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True)
    )
    assert all(
        torch.allclose(a, b, atol=0.1)
        for a, b in zip(first, alone["normed"]["running"][0], strict=True)
    )


@pytest.mark.parametrize("case, tolerance", [("split", TOLERANCE), ("adam", 1e-4)])
def test_weights_in_parts_are_the_same_weights_and_checkpoints_have_them_whole(
    alone, several, case, tolerance
):
    one, other = alone[case], several[case]
    assert len(one["held"]) == 1 and max(other["held"]) < 0.7 * one["held"][0] <= sum(other["held"])
    for mine, theirs in zip(
        one["weights"], other["weights"], strict=True
    ):  # without a stop, and gone on with
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    assert (
        all(map(torch.equal, *one["weights"]))
        and all(map(torch.equal, *other["weights"]))
        and other["rows"][0] == other["rows"][1]
    )
    assert [row[:2] for row in one["rows"][0]] == [row[:2] for row in other["rows"][0]]
    assert other["scored"] == pytest.approx(one["scored"], abs=tolerance)
    known = {name: value.shape for name, value in one["saved"]["objective"].items()}
    assert known == {name: value.shape for name, value in other["saved"]["objective"].items()}
    assert crew.restored(one["saved"]) == crew.restored(other["saved"])


def test_masks_differ_and_what_is_drawn_for_the_whole_batch_does_not(several):
    own, common = several["masks"]["own"], several["masks"]["common"]
    assert not torch.equal(own[0], own[1])
    torch.manual_seed(5)
    assert torch.equal(common, torch.rand(len(common), 2))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("whole", [1, 2, 3, 10, 64])
def test_every_row_counts_once(whole, size):
    parts = [partition.partition_batch(whole, rank, size) for rank in range(size)]
    counted = [row for part in parts for row in range(part.first, part.first + part.counted_rows)]
    assert counted == list(range(whole)) and all(part.local_rows >= 1 for part in parts)
    assert max(part.counted_rows for part in parts) - min(part.counted_rows for part in parts) <= 1


@pytest.mark.parametrize("seed", [None, 3])
def test_the_parts_of_a_batch_make_the_batch(seed):
    table = crew.table(50)
    whole = list(table.batches(8, seed=seed, epoch=1, start=2))
    cut = [
        list(table.batches(8, seed=seed, epoch=1, start=2, rank=rank, world=3)) for rank in range(3)
    ]
    assert len(whole) == 5 and all(len(part) == 5 for part in cut)
    for batch, *parts in zip(whole, *cut, strict=True):
        for rank, part in enumerate(parts):
            mine = partition.partition_batch(len(batch["x"]), rank, 3)
            assert torch.equal(part["x"], batch["x"][mine.first : mine.first + mine.local_rows])


def only_run(output: Path) -> Path:
    """The one run folder below."""
    (found,) = output.glob("*/*/*")
    return found


def epochs(run: Path) -> int:
    """How many epochs are written down."""
    return max(
        [line["epoch"] for line in stored_files.load_json_lines(run / "history.jsonl")], default=0
    )


def crew_of(process: Beside) -> dict[int, int]:
    """Rank → process id of those that this process has started."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            around = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [int(word[5:]) for word in around if word.startswith(b"RANK=")]
        if int(parent) == process.pid and ranks:
            found[ranks[0]] = int(place.name)
    return found


def under_way(output: Path, *words: Any) -> tuple[Beside, Path]:
    """A long run in two processes of which some epochs are done."""
    process = dlrun(*LONG, "engine.devices=2", f"output={output}", *words)
    assert process.until("  epoch 4/"), process.said
    return process, only_run(output)


@linux
def test_a_process_that_is_killed_ends_the_run_which_goes_on_with_one(tmp_path):
    process, run = under_way(tmp_path, "engine.save_every=0")
    ranks = crew_of(process)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], signal.SIGKILL)
    code, said = process.end()
    assert code == 1 and all(map(ended, ranks.values()))
    assert (
        "process 2 of 2 was killed (SIGKILL), and the others were stopped. Saved is fit after epoch"
        in said
    )
    assert f"dlrun resume {run} engine.devices=1" in said and "Traceback" not in said
    assert "process 2 of 2 was killed" in (run / "log.txt").read_text()
    done = checkpoint.load(run / "checkpoints/fit/last.pt")["epoch"]
    assert main(["resume", str(run), "engine.devices=1", f"engine.epochs={done + 2}"]) == 0
    assert epochs(run) == done + 2
    assert [line["epoch"] for line in stored_files.load_json_lines(run / "history.jsonl")] == [
        n for n in range(1, done + 3) for _ in "tv"
    ]


FAULTY = """
import os
from torch import nn

class Net(nn.Module):
    def __init__(self, spec, after: int):
        super().__init__()
        (self.name, field), = spec.inputs.items()
        (self.target, goal), = spec.targets.items()
        self.layer, self.after = nn.Linear(64, goal.num_outputs), after

    def forward(self, batch):
        self.after -= 1
        if self.after < 0 and os.environ.get("RANK") == "1":
            raise ValueError("cannot restore the sound")
        return {self.target: self.layer(batch[self.name].flatten(1))}
"""


@pytest.mark.slow
def test_a_process_that_fails_says_of_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/faulty.yaml").write_text("_target_: faulty.Net\nafter: 40\n")
    words = [
        "task=digits",
        "engine.device=cpu",
        "model=faulty",
        "plugins=[faulty]",
        "callback=keep_best",
    ]
    code, said = dlrun(*words, "engine.devices=2", "engine.save_every=0", "output=out").end()
    assert code == 1 and "process 2 of 2 failed: ValueError: cannot restore the sound" in said, said
    assert "Saved is fit after epoch" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_model_in_parts_is_trained_saved_and_gone_on_with_by_one(tmp_path):
    words = [
        *WORDS,
        "model.units=[64,32]",
        "optimizer=adam",
        "engine.epochs=3",
        "callback=[keep_best,tensorboard,samples]",
    ]
    for name, more in (("one", []), ("parts", ["engine.devices=2", "engine.shard=true"])):
        code, said = dlrun(*words, *more, f"output={tmp_path}/{name}").end()
        assert code == 0, said
    one, parts = only_run(tmp_path / "one"), only_run(tmp_path / "parts")
    scores = [
        stored_files.load_json_lines(run / "results.jsonl")[0]["scores"]["loss"]["value"]
        for run in (one, parts)
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)
    assert main(["evaluate", str(parts)]) == 0
    code, said = dlrun("resume", parts, "engine.devices=null", "engine.epochs=4").end()
    assert code == 0, said
    epochs = {row["epoch"] for row in stored_files.load_json_lines(parts / "history.jsonl")}
    assert epochs == {1, 2, 3, 4}


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_is_a_saved_run(tmp_path, number):
    process, run = under_way(tmp_path)
    ranks = crew_of(process)
    process.process.send_signal(number)
    code, said = process.end()
    assert code == 128 + number and f"stopped and saved; to go on: dlrun resume {run}" in said
    assert all(map(ended, ranks.values())) and "Traceback" not in said


@linux
@pytest.mark.slow
def test_no_process_outlives_its_parent(tmp_path):
    process, run = under_way(tmp_path)
    ranks = crew_of(process)
    process.kill()
    assert all(map(ended, ranks.values()))
    assert (run / "checkpoints/fit/last.pt").exists()


def outcome(run: Path) -> dict[str, Any]:
    """What a run has come to, without times."""
    scores = [line["scores"] for line in stored_files.load_json_lines(run / "results.jsonl")]
    answers = {path.name: dict(np.load(path)) for path in sorted((run / "predictions").iterdir())}
    rows = [line["values"] for line in stored_files.load_json_lines(run / "history.jsonl")]
    state = checkpoint.load(run / "checkpoints/fit/last.pt")
    return {
        "scores": scores,
        "answers": answers,
        "rows": rows,
        "weights": list(state["objective"].values()),
    }


def loose(one: Any, other: Any) -> None:
    """Assert that the outcomes are those of the same run."""
    near(
        {k: one[k] for k in ("rows", "weights", "answers")},
        {k: other[k] for k in ("rows", "weights", "answers")},
    )
    near(one["scores"], other["scores"])


@pytest.mark.slow
def test_a_run_cut_in_the_middle_of_an_epoch_goes_on_in_one_two_or_three_processes(tmp_path):
    words = [*WORDS, "engine.epochs=12", "engine.batch_size=7", "engine.accumulate=2"]
    assert main([*words, f"output={tmp_path}/whole"]) == 0
    whole = outcome(only_run(tmp_path / "whole"))
    for count in (1, 2, 3):
        place = tmp_path / f"in-{count}"
        process = dlrun(*words, "engine.devices=2", f"output={place}")
        assert process.until("  epoch 1/"), process.said
        process.process.send_signal(signal.SIGTERM)
        code, said = process.end()
        run = only_run(place)
        assert code == 143, said[-500:]
        code, said = dlrun("resume", run, f"engine.devices={count}").end()
        assert code == 0, said
        loose(whole, outcome(run))


def torchrun(*words: Any) -> Beside:
    """What torchrun starts."""
    return Beside([sys.executable, "-m", "torch.distributed.run", *words])


@pytest.mark.slow
def test_torchrun_leaves_one_run_folder_on_one_machine_or_two(tmp_path):
    words = [*WORDS, "engine.epochs=2"]
    assert main([*words, f"output={tmp_path}/alone"]) == 0
    code, said = torchrun(
        "--standalone", "--nproc-per-node=2", "-m", "dlrun", *words, f"output={tmp_path}/one"
    ).end()
    assert code == 0 and said.count("run folder:") == 1, said
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
        "-m",
        "dlrun",
    ]
    nodes = [
        torchrun(f"--node-rank={node}", *about, *words, f"output={tmp_path}/two") for node in (0, 1)
    ]
    ends = [node.end() for node in nodes]
    assert [code for code, _ in ends] == [0, 0] and "".join(said for _, said in ends).count(
        "run folder:"
    ) == 1, ends
    alone = outcome(only_run(tmp_path / "alone"))
    for name in ("one", "two"):
        run = only_run(tmp_path / name)
        loose(alone, outcome(run))
        assert (run / "report.html").exists() and (run / "command.txt").exists()


@pytest.mark.slow
def test_a_sweep_under_torchrun_is_refused(tmp_path):
    words = ["-m", "dlrun", "-m", *WORDS, "seed=1,2", f"output={tmp_path}/none"]
    code, said = torchrun("--standalone", "--nproc-per-node=2", *words).end()
    assert (
        code != 0
        and "a sweep starts its processes itself" in said
        and not (tmp_path / "none").exists()
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    ["task=wine", "protocol=kfold", "model.units=[8]", "metric=[accuracy,roc_auc]", "engine.epochs=5"],
    ["task=digits", "objective=variational", "model=vae", "engine.epochs=1", "engine.batch_size=100"],
])  # fmt: skip
def test_a_run_in_two_processes_is_the_run_in_one(tmp_path, words):
    common = [*words, "optimizer=sgd", "engine.device=cpu", "callback=keep_best"]
    for count in (1, 2):
        code, said = dlrun(*common, f"engine.devices={count}", f"output={tmp_path}/{count}").end()
        assert code == 0, said
    rows = [
        [
            line["values"]
            for line in stored_files.load_json_lines(only_run(tmp_path / str(c)) / "history.jsonl")
        ]
        for c in (1, 2)
    ]
    results = [
        [
            line["scores"]
            for line in stored_files.load_json_lines(only_run(tmp_path / str(c)) / "results.jsonl")
        ]
        for c in (1, 2)
    ]
    for one, two in zip(*rows, strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    for one, two in zip(*results, strict=True):
        assert {n: s["value"] for n, s in one.items()} == pytest.approx(
            {n: s["value"] for n, s in two.items()}, rel=1e-4
        )


@pytest.mark.slow
def test_a_job_of_a_sweep_may_have_several_processes(tmp_path):
    words = [
        "-m",
        *WORDS,
        "preset=smoke",
        "engine.devices=2",
        "optimizer.lr=0.1,0.01",
        f"output={tmp_path}",
    ]
    code, said = dlrun(*words, "sweep.measure=[val/loss,parameters]").end()
    assert code == 0, said
    jobs = sorted(tmp_path.glob("*/sweep/*/0*/results.jsonl"))
    assert len(jobs) == 2 and all(
        stored_files.load_json_lines(job)[0]["parameters"] > 0 for job in jobs
    )
    (table,) = tmp_path.rglob("sweep.csv")
    costs = [row["parameters"] for row in csv.DictReader(table.open())]
    assert costs == [str(stored_files.load_json_lines(job)[0]["parameters"]) for job in jobs]


@pytest.mark.slow
def test_workflow_in_two_processes(tmp_path):
    quick = [
        "workflow",
        "task=wine",
        "protocol=holdout",
        "workflow.budget=6",
        "workflow.search=1",
        "engine.epochs=4",
    ]
    code, said = dlrun(*quick, "engine.device=cpu", "engine.devices=2", f"output={tmp_path}").end()
    assert code in (0, 1) and "Traceback" not in said, said[-3000:]
    (run,) = tmp_path.glob("*/workflow/*")
    assert (run / "report.html").exists() and len(
        stored_files.load_json_lines(run / "results.jsonl")
    ) >= 3


@pytest.mark.parametrize("words, told", [
    (["engine.devices=[cpu,tpu]"], "no device 'tpu'"),
    (["engine.devices=[cuda:88,cuda:99]"], "no device 'cuda:"),
    (["engine.devices=0"], "engine.devices=0"),
    (["engine.devices=100000"], "processors, and at most"),
    (["engine.devices=2", "engine.device=cuda:0"], "name them all"),
    (["engine.devices=2", "engine.device=tpu"], "no device 'tpu'"),
])  # fmt: skip
def test_devices_that_cannot_be(tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.setattr(local_ranks, "start_processes", None)  # refused before any has started
    rest = [word for word in WORDS if not word.startswith("engine.device")]
    assert main([*rest, *words, f"output={tmp_path}"]) == 2
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_has_nothing_to_share_is_refused(tmp_path):
    for words, told in (
        (["model.batch_norm=true", "engine.batch_size=3"], "batch norm needs two rows"),
        (["model=dcgan", "objective=adversarial", "engine.batch_size=1"], "two rows"),
    ):
        code, said = dlrun(*WORDS[:2], *words, "engine.devices=2", f"output={tmp_path}").end()
        assert code == 2 and told in said and not list(tmp_path.glob("*/*/*")), said


def test_nccl_with_one_process(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    import torch.distributed as dist

    dist.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        numbers = torch.arange(4.0, device="cuda")
        dist.all_reduce(numbers)
        assert numbers.tolist() == [0, 1, 2, 3]
    finally:
        dist.destroy_process_group()


def test_one_process_is_left_alone():
    assert ONE_PROCESS.world_size == 1 and ONE_PROCESS.broadcast_object(3) == 3
    assert ONE_PROCESS.all_gather_object(3) == [3] and not vars(ONE_PROCESS)
    torch.manual_seed(1)
    expected = torch.randn(4, 2)
    torch.manual_seed(1)
    assert torch.equal(ONE_PROCESS.randn_for_batch(expected), expected)
    assert (
        yaml.safe_load((groups.get_builtin_conf() / "engine/default.yaml").read_text())["devices"]
        is None
    )


def test_a_run_by_itself_loads_what_it_uses_alone(tmp_path):
    code = (
        "import sys; from dlrun.cli.main import main; main(sys.argv[1:]); "
        "print(*(module.__file__ for name, module in sys.modules.items() if name[:6] == 'dlrun.'))"
    )
    words = ["task=imdb", "preset=smoke", "data.source=sample", "engine.device=cpu"]
    _, said = Beside([sys.executable, "-c", code, *words, f"output={tmp_path}"]).end()
    root = Path(local_ranks.__file__).parents[1]
    loaded = {Path(word).relative_to(root) for word in said.split() if word.startswith(f"{root}/")}
    # A stranger reads what a run enters: 65 files, and the sample in place of the real data. The
    # file of a package itself is one line.
    entered = [str(path) for path in loaded if path.name != "__init__.py"]
    assert "training/trainer.py" in entered and len(entered) <= 66, len(entered)
    rooms = ("sweeps/", "workflow/", "training/distributed/", "training/fast/", "data/shards/")
    rooms += ("data/images/", "data/augmentation/", "experiment/parallel_fits/")
    files = ("rank", "sweep", "hydra")
    assert not [
        path for path in entered if path.startswith(rooms) or Path(path).name.startswith(files)
    ]
