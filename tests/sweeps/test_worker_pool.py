"""Sweeps in several processes: whatever becomes of one job, the table is whole, and the same command goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys

import pytest
from beside import Beside
from beside import ended as gone

from dlrun.cli.sweep import parse_sweep_settings
from dlrun.core import stored_files
from dlrun.launch.hydra_launchers import HydraExecutor
from dlrun.launch.sweep_job import InProcessExecutor
from dlrun.sweeps import sweep_folder, worker_pool
from dlrun.sweeps.job import Executor

OWN = '''
import os, signal, time
from torch import nn

class Net(nn.Module):
    """Answers one number a class, or comes to a bad end."""

    def __init__(self, spec, width: int, ends: str, seconds: float):
        super().__init__()
        (self.name, field), = spec.inputs.items()
        (self.target, goal), = spec.targets.items()
        self.first, self.second = nn.Linear(field.num_outputs, width), nn.Linear(width, goal.num_outputs)
        self.ends, self.seconds = ends, seconds
        if self.ends.startswith("raises"):
            raise RuntimeError(f"no good: {self.ends}")
        if self.ends.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ends == "hangs for good":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.ends.startswith("hangs"):
            time.sleep(1000)

    def forward(self, batch):
        if self.training:
            time.sleep(self.seconds)
        return {self.target: self.second(self.first(batch[self.name].float().flatten(1)).relu())}
'''


@pytest.fixture
def here(tmp_path):
    """A working folder with a package of one's own, and a model in it."""
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").write_text(OWN)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    text = "# Mine.\n_target_: mypkg.Net\nwidth: 4\nends: well\nseconds: 0.0\n"
    (tmp_path / "conf" / "model" / "net.yaml").write_text(text)
    return tmp_path


def words(*more):
    fixed = [
        "task=digits",
        "preset=smoke",
        "model=net",
        "plugins=[mypkg]",
        "output=o",
        "engine.batch_size=512",
    ]
    return [
        sys.executable,
        "-m",
        "dlrun",
        "-m",
        *fixed,
        "engine.max_steps=null",
        "sweep.jobs=2",
        *more,
    ]


def started(here, *more):
    return Beside(words(*more), cwd=here)


def ran(here, *more):
    process = started(here, *more)
    said = process.rest()
    return process.process.wait(), said


def folder_of(here):
    (file,) = here.glob("o/digits/sweep/*/sweep.yaml")
    return file.parent


def table(here):
    with (folder_of(here) / "sweep.csv").open() as stream:
        return list(csv.DictReader(stream))


def ended(here):
    """Job → its status so far."""
    lines = [
        entry
        for file in here.glob("o/digits/sweep/*/sweep.jsonl")
        for entry in stored_files.load_json_lines(file)
    ]
    return {entry["job"]: entry["status"] for entry in lines}


def under_way(here):
    """Whether two jobs are done, and a third has saved something."""
    over = [job for job, status in ended(here).items() if status == "done"]
    saved = {
        int(path.parents[2].name) for path in here.glob("o/digits/sweep/*/*/checkpoints/*/last.pt")
    }
    return len(over) >= 2 and saved - set(over)


def children(of):
    """The processes that this one has started."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    text = file.read()
            except OSError:
                continue
            if int(text.rpartition(")")[2].split()[1]) == of:
                found.append(int(name))
    return found


def test_one_that_hangs_is_a_failed_row(here):
    code, out = ran(
        here, "model.ends=hangs", "sweep.limit=1", "sweep.jobs=1"
    )  # a job that is slow would be one, too
    (row,) = table(here)
    assert (
        code == 1
        and row["status"] == "failed"
        and "longer than sweep.limit=1 seconds" in row["error"]
    ), out


def test_one_that_raises_and_one_that_is_killed_are_failed_rows(here):
    ends = "model.ends=killed,'raises 1',well"  # the last of them after both
    code, out = ran(here, ends)
    rows = {row["model.ends"].strip("'"): row for row in table(here)}
    assert code == 1 and len(rows) == 3, out
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {
        "raises 1",
        "killed",
    }
    assert "RuntimeError: no good: raises 1" in rows["raises 1"]["error"]
    assert "SIGKILL" in rows["killed"]["error"]
    assert all(float(row["accuracy"]) >= 0 for row in rows.values() if row["status"] == "done")
    assert "no good" in (folder_of(here) / rows["raises 1"]["folder"] / "log.txt").read_text()
    assert "epoch 2/2" in (folder_of(here) / rows["well"]["folder"] / "console.txt").read_text()
    assert "epoch" not in out and out.count("job ") >= 3 and "best: dlrun task=digits" in out


@pytest.mark.slow
def test_forty_jobs_of_which_five_come_to_bad_ends(here):
    ends = [
        "killed",
        "'hangs for good'",
        *(f"'raises {n}'" for n in range(3)),
        *(f"well{n}" for n in range(35)),
    ]
    ends = ends[5:20] + ends[:5] + ends[20:]
    code, out = ran(
        here, f"model.ends={','.join(ends)}", "sweep.limit=60"
    )  # of which a good one needs less than one
    rows = table(here)
    assert code == 1 and len(rows) == 40 and len({row["job"] for row in rows}) == 40, out
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["status"] for row in rows] == ["done"] * 35 + ["failed"] * 5
    reasons = ("RuntimeError: no good: raises", "its process", "it ran long")
    assert [sum(reason in row["error"] for row in failed) for reason in reasons] == [3, 1, 1]
    assert (folder_of(here) / "sweep.png").stat().st_size > 10_000
    assert len((folder_of(here) / "sweep.md").read_text().splitlines()) >= 42


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_sweep_ended_in_the_middle_goes_on_where_it_was(here, number):
    more = ["seed=range(6)", "engine.epochs=12", "engine.save_every=0", "model.seconds=0.04"]
    with started(here, *more) as process:
        process.until_there(lambda: under_way(here))
        workers = children(process.pid)
        process.process.send_signal(number)
        out = process.rest()
        code = process.process.wait()
    assert code == (-9 if number == signal.SIGKILL else 128 + number), out
    if number != signal.SIGKILL:
        assert "the same command goes on: dlrun -m task=digits" in out
    assert all(map(gone, workers))  # they save and leave when nobody is there
    first, folder = ended(here), folder_of(here)
    assert list(first.values()).count("done") < 6
    over = [place for place in first if first[place] == "done"]
    kept = {
        path: path.read_bytes()
        for job in over
        for path in (folder / f"{job:03d}").rglob("*")
        if path.is_file()
    }
    cut = [
        job
        for job in first
        if first[job] == "begun" and (folder / f"{job:03d}" / "checkpoints").exists()
    ]
    assert len(workers) == 2 and cut
    code, out = ran(here, *more)
    assert code == 0 and "to be gone on with" in out and len(table(here)) == 6
    assert {row["status"] for row in table(here)} == {"done"}
    same = [path for path in kept if path.read_bytes() == kept[path]]
    assert {path.name for path in set(kept) - set(same)} <= {"report.html", "report.md"}
    for job in range(6):
        assert [epoch for epoch, _ in sweep_folder.read_epochs(folder / f"{job:03d}")] == list(
            range(1, 13)
        )
    assert any("goes on at epoch" in (folder / f"{job:03d}" / "log.txt").read_text() for job in cut)


def test_a_worker_that_starts_while_the_sweep_is_told_to_stop_is_told_so_too(monkeypatch, tmp_path):
    asked = []

    class Starting:
        def __init__(self, *rest):
            crew.stop(signal.SIGTERM)

        def start_jobs(self, jobs, *rest):
            self.jobs = jobs

        def ask_to_stop(self, seconds):
            asked.append(seconds)

    monkeypatch.setattr(worker_pool, "Worker", Starting)
    crew = worker_pool.WorkerPool(parse_sweep_settings([], [], []), (), tmp_path, None)
    crew.submit(object())
    assert asked == [worker_pool.STOP_TIMEOUT] and not crew.num_free


@pytest.mark.slow
def test_jobs_trained_as_one_whose_process_dies_are_run_by_themselves(here):
    rates = "optimizer.lr=0.01,0.02,0.03,0.04,0.05,0.06"
    more = [
        "model=dense",
        "model.units=[16]",
        "engine.batch_size=16",
        rates,
        "engine.epochs=3000",
        "protocol.stacked=true",
        "sweep.jobs=1",
        "sweep.devices=['0']",
    ]
    with started(here, *more) as process:
        process.until_there(lambda: any(here.glob("o/digits/sweep/*/005/history.jsonl")))
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGKILL)
        process.until_there(lambda: children(process.pid) not in ([], [worker]))
        process.process.send_signal(signal.SIGTERM)
        process.rest()
        code = process.process.wait()
    assert code == 143 and set(ended(here).values()) == {"begun"}
    entries = [
        json.loads(line) for line in (folder_of(here) / "sweep.jsonl").read_text().splitlines()
    ]
    assert len({entry["job"] for entry in entries}) == 6


@pytest.mark.slow
def test_each_worker_sees_its_own_device(here):
    text = (here / "mypkg" / "__init__.py").read_text()
    seen = '        open(f"seen-{os.getpid()}", "a").write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\\n")\n'
    (here / "mypkg" / "__init__.py").write_text(
        text.replace(
            '        if self.ends.startswith("raises',
            seen + '        if self.ends.startswith("raises',
            1,
        )
    )
    code, out = ran(here, "seed=range(6)", "sweep.devices=['3','5']", "sweep.share=1")
    assert code == 0, out
    assert sorted({file.read_text().split()[0] for file in here.glob("seen-*")}) == ["3", "5"]


def test_every_executor_implements_the_contract_and_adds_no_hook():
    contract = {name for name in vars(Executor) if not name.startswith("_")}
    executors = (worker_pool.WorkerPool, InProcessExecutor, HydraExecutor)
    ours = {one for one in Executor.__subclasses__() if one.__module__.startswith("dlrun.")}
    assert ours == set(executors)
    for executor in executors:
        assert {"num_free", "submit", "wait"} <= set(vars(executor)), executor
        # `stop` is the pool's own: its signal handlers call it.
        assert {name for name in vars(executor) if not name.startswith("_")} <= contract | {"stop"}
