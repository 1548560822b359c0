"""scripts/bench --peers: its tables replace those of the run before, and a peer that fails is a row and no end."""

import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def found(workload, ratio):
    from bench_peer_table import Found

    loop = Found("own:loop", workload, [100.0] * 3, [1.0] * 3, 1.0, 2.0, 10, 300.0)
    keras = Found("keras:torch", workload, fault="ended with 1: no such module")
    return [
        loop,
        Found(
            "own:dlrun", workload, [250.0] * 3, [ratio - 0.5, ratio, ratio + 1], 1.0, 1.5, 10, 310.0
        ),
        keras,
    ]


def test_the_tables_of_a_run_replace_those_of_the_run_before(tmp_path, monkeypatch):
    import bench_peer_table as table

    monkeypatch.setattr(table, "BENCHMARKS", tmp_path / "benchmarks.md")
    (tmp_path / "benchmarks.md").write_text("# Before\n\ntext\n")
    table.write([*found("a", 2.5), *found("b", 7.0)], 5, 2.0)
    first = (tmp_path / "benchmarks.md").read_text()
    (tmp_path / "benchmarks.md").write_text(first + "\n## After\n")
    table.write(found("a", 3.25), 7, 1.0)
    text = (tmp_path / "benchmarks.md").read_text()
    assert (
        first.startswith("# Before\n\ntext\n\n<!--")
        and "| dlrun | 250 | 2.50 | 2.00 – 3.50 |" in first
    )
    assert text.startswith("# Before\n\ntext\n\n<!--") and text.endswith("-->\n\n## After\n")
    assert "3.25" in text and "2.50" not in text and "### b" not in text
    assert text.count(table.BEGIN) == text.count(table.END) == 1
    assert (
        "| Keras on torch | ended with 1: no such module |" in text
        and "--rounds 7 --seconds 1" in text
    )


def test_every_peer_has_its_file_and_every_workload_its_layers():
    import bench_peer_table as table

    families = {peer.partition(":")[0] for peer in table.PEERS}
    assert families == {
        path.stem.removeprefix("bench_peer_") for path in SCRIPTS.glob("bench_peer_*.py")
    } - {"table"}
    layers = (SCRIPTS / "bench_peer_keras.py").read_text()
    assert all(f'"{name}": lambda' in layers for name in table.COMMON)


def test_a_peer_that_is_lost_is_written_down(tmp_path):
    import bench_peers as peers

    (tmp_path / "given.json").write_text(
        json.dumps({"workload": "boston_batch_16", "kind": "number", "batch_size": 16})
    )
    one = peers.Found("nobody", "boston_batch_16")
    with peers.noted(one), peers.started("nobody", tmp_path) as process:
        process.answer()
    assert "No module named 'bench_peer_nobody'" in one.fault and process.child.poll() is not None


@pytest.mark.slow
def test_the_loop_and_dlrun_are_measured_beside_each_other(monkeypatch, capsys):
    import bench_peers as peers

    monkeypatch.setattr(peers, "present", lambda workload: ["own:loop", "own:dlrun"])
    loop, ours = peers.compare_peers(["boston_batch_16"], 2, 0.1)
    assert loop.ratios == [1.0, 1.0] and len(ours.ratios) == 2 and min(ours.speeds) > 0
    assert loop.parameters == ours.parameters == 5121 and 50 < ours.peak < 5000
    assert "### boston_batch_16" in capsys.readouterr().out and "bench_peer_own" in sys.modules
