"""What an objective of any kind may do: several groups, own measures, things to show, and `dlrun generate` for them."""

import json

import pytest

PLUGIN = '''
import torch
from torch import nn
from dlrun.core.objective import ImageGrid as Images, ScatterPlot as Points, TextSample as Writing
from dlrun.config.annotations import Count, Positive
from dlrun.core.types import Score, Step


class Two(nn.Module):
    """Two groups that chase each other; it makes what can be made."""

    goals = {"loss_first": "min", "loss_second": "min", "gap": "min"}
    default_samples = ("text", "grid")

    def __init__(self, given, *, push):
        super().__init__()
        self.model, self.push = nn.Linear(64, 1), push
        self.other = nn.Linear(1, 64)
        self.groups = {"first": list(self.model.parameters()), "second": list(self.other.parameters())}
        self.generators = {"text": self.text, "grid": self.grid, "plane": self.plane}

    def steps(self, batch):
        x = batch["image"].flatten(1) + 0.1 * torch.randn(len(batch["image"]), 64)
        code = self.model(x)
        yield Step("first", code.square().mean() + self.push * self.other(code).square().mean())
        far = (self.other(self.model(x).detach()) - x).square().mean()
        yield Step("second", far, measured={"gap": far.sqrt()})

    def split_scores(self, batches):
        return {"distance": Score(sum(len(batch["image"]) for batch in batches), n=1)}

    def text(self, *, prompt: str = "once", temperature: list[float] = [1.0], length: Count = 3):
        for each in temperature:
            yield Writing(f"{prompt} at {each}: ")
            for _ in range(length):
                yield Writing(str(int(torch.randint(10, ()))))
            yield Writing("\\n")

    def grid(self, *, columns: Count = 4):
        yield Images(torch.rand(columns, 1, 8, 8), columns, "noise", animated=False)

    def plane(self, *, scale: Positive):
        of = torch.arange(10)
        yield Points(scale * torch.rand(10, 2), of, tuple("abcdefghij"), ("x", "y"), "ten points")
'''
WORDS = (
    "plugins=[chase]",
    "objective._target_=chase.Two",
    "+objective.push=0.5",
    "protocol=whole",
    "preset=smoke",
)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A finished run of an objective that is nobody's, and what `dlrun` says to words about it."""
    (tmp_path / "chase.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from dlrun.cli.main import main

    def call(*words):
        code = main(list(words))
        return code, capsys.readouterr()

    code, said = call("task=digits", *WORDS, "output=out")
    assert code == 0, said
    (folder,) = (tmp_path / "out").glob("digits/*/*")
    return folder, call


def test_every_measure_is_written_and_nothing_is_compared_with_targets(run):
    folder, _ = run
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and set(rows[0]["values"]) == {"loss_first", "loss_second", "gap"}
    (result,) = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert (
        set(result["scores"]) == {"loss_first", "loss_second", "gap", "distance"}
        and result["baseline"] == {}
    )
    assert result["scores"]["distance"]["value"] == result["scores"]["gap"]["n"] == 1438


def test_samples_are_kept_after_each_epoch_and_told_in_the_report(run):
    folder, _ = run
    names = sorted(file.name for file in (folder / "samples" / "fit").iterdir())
    assert names == [
        f"{kind}-epoch-000{n}.{end}"
        for kind, end in (("grid", "png"), ("text", "txt"))
        for n in (1, 2)
    ]
    report = (folder / "report.html").read_text()
    assert "Samples" in report and "grid after epoch 2: noise" in report
    assert (folder / "samples" / "fit" / "text-epoch-0002.txt").read_text().strip() in report


def test_sampling_changes_nothing_in_training(run):
    folder, call = run
    assert call("task=digits", *WORDS, "callback=none", "output=bare")[0] == 0
    (bare,) = folder.parents[2].parent.glob("bare/digits/*/*")
    assert (bare / "history.jsonl").read_text() == (folder / "history.jsonl").read_text()


def test_generate_streams_text_and_writes_files_that_nothing_overwrites(run):
    folder, call = run
    code, said = call(
        "generate",
        str(folder),
        "plugins=[chase]",
        "prompt=a, b=c",
        "temperature=0.2,0.5",
        "length=2",
    )
    first = (folder / "generated" / "text-1.txt").read_text()
    assert (
        code == 0
        and first in said.out
        and first.startswith("a, b=c at 0.2: ")
        and "a, b=c at 0.5: " in first
    )
    again = call(
        "generate",
        str(folder),
        "plugins=[chase]",
        "prompt=a, b=c",
        "temperature=0.2,0.5",
        "length=2",
    )
    assert again[0] == 0 and (folder / "generated" / "text-2.txt").read_text() == first
    assert call("generate", str(folder), "plugins=[chase]", "seed=7")[0] == 0
    assert call("generate", str(folder), "plugins=[chase]", "kind=plane", "scale=2")[0] == 0
    assert (folder / "generated" / "plane-1.png").stat().st_size > 5000
    report = (folder / "report.html").read_text()
    assert "Generated" in report and "plane-1: ten points" in report


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kind=song"], "no kind 'song' to make; there are: text, grid, plane"),
        (
            ["kind=grid", "rows=3"],
            "no setting 'rows' for kind=grid; there are: kind, to, seed, fit, columns",
        ),
        (["kind=grid", "columns=0"], "columns=0: it must be a whole number from 1 up"),
        (["temperature=hot"], "temperature=hot: it must be a number"),
        (["kind=plane"], "kind=plane needs scale=…"),
        (["seed=x"], "seed=x: it must be a whole number"),
        (["grid"], "'grid' is no setting"),
        (["to=chase.py/x"], "to=chase.py/x: no folder can be made there"),
    ],
)
def test_generate_refuses_words_that_make_no_sense(run, words, said):
    folder, call = run
    code, told = call("generate", str(folder), "plugins=[chase]", *words)
    assert code == 2 and said in told.err
    assert not (folder / "generated").exists()


def test_commands_about_answers_say_that_there_are_none(run):
    folder, call = run
    (folder.parent / "x.csv").write_text("a\n1\n")
    code, told = call(
        "predict", str(folder), "plugins=[chase]", str(folder / "learning-curves.png")
    )
    assert code == 2 and "predicts no target, it generates: dlrun generate" in told.err
    code, told = call("explain", "task=digits", *WORDS)
    assert code == 2 and "objective=Two predicts no target" in told.err
    code, told = call("workflow", "task=digits", *WORDS)
    assert code == 2 and "it needs objective=supervised" in told.err


def test_generate_refuses_a_run_that_predicts(run):
    _, call = run
    assert call("task=digits", "preset=smoke", "output=plain")[0] == 0
    from pathlib import Path

    (plain,) = Path("plain").glob("digits/*/*")
    code, told = call("generate", str(plain))
    assert code == 2 and "generates nothing: dlrun predict" in told.err
