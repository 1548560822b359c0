"""Words on the command line: what changes nothing here, or takes something away, is told; help and suggestions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlrun.cli.main import main

ROOT = Path(__file__).parents[2]
QUICK = ("engine.epochs=1", "engine.device=cpu", "engine.batch_size=256")
pytestmark = pytest.mark.usefixtures("elsewhere")

IDLE = {  # words → of which it is said that they change nothing here
    "engine.shard=true": "engine.devices=2",
    "engine.devices=[cpu] engine.device=cuda": "engine.devices names",
    "engine.overfit=8 protocol.validation=0.5": "the same first rows",
    "task=wine model=constant optimizer.lr=0.1": "not trained by steps",
    "task=wine model=linear_solved engine.epochs=3": "not trained by steps",
    "task=wine model=constant scheduler=cosine": "not trained by steps",
    "experiment=vae_mnist metric=[accuracy]": "a loss and metrics of its own",
    "task=style augment=[flip]": "augments nothing",
    "task=pictures loss=mse": "a loss and metrics of its own",
    "protocol=whole callback.keep_best.monitor=val/accuracy": "no rows are held out",
    "reason=fun": "for test=true",
    "callback.samples.every=5": "nothing that could be shown",
    "task=wine model.category=embedding": "no input is a category",
    "task=jena_climate model=gru model.encoder.freeze=true": "no input is a text",
    "source=sample": "no made-up sample",
    "task=csv data.test_path=a.csv data.test=0.1": "data.test_path has",
    "task=csv data.order=day data.seed=5": "latest rows aside",
    "task=csv data.share_words=true": "fewer than two",
    "task=csv text=bigrams": "data.texts=[COLUMN]",
    "task=images data.separator=:": "data.labels=FILE.csv",
    "task=texts data.path=tests data.header=[a]": "in a folder",
    "task=series data.time_format=x": "data.time=COLUMN",
    "task=text_file data.encoding=latin-1": "data.path",
    "task=csv model.embedding=4": "model.category=embedding",
    "model.units=[] model.dropout=0.5": "no hidden layer",
    "task=cats_dogs model=pretrained model.rate=0.1": "base is frozen",
    "task=imdb_sequences model=lstm model.encoder.vectors=one_hot model.encoder.embedding=9": "its own width",
}
USED = (  # and words that do something
    "engine.devices=2 engine.shard=true",
    "task=wine optimizer.lr=0.1 scheduler=cosine engine.epochs=3 metric=[accuracy] callback.keep_best.monitor=val/loss",
    "task=mnist source=sample test=true reason=fun augment=[flip]",
    "task=csv data.texts=[a,b] data.share_words=true text=bigrams data.test=0.1",
    "task=images data.labels=a.csv data.separator=:",
    "task=texts data.path=a.csv data.header=[a]",
    "task=csv model.category=embedding model.embedding=4 model.units=[4] model.dropout=0.5",
    "task=nietzsche callback.samples.every=5",
    "task=cats_dogs model=pretrained model.unfreeze=last_block model.rate=0.1",
    "+callback=early_stopping",
    "callback=[keep_best]",
    "callback=[keep_best,tensorboard,samples,early_stopping]",
)


def told_of(text, capsys, monkeypatch):
    """What is told of these words, which nothing is trained with."""
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.chdir(ROOT)
        assert main([*text.split(), "--cfg", "job"]) == 0
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("text", IDLE)
def test_row_own_a_setting_that_changes_nothing_is_told(text, capsys, monkeypatch):
    told = told_of(text, capsys, monkeypatch)
    assert (
        len(told) == 1
        and told[0].startswith(f"dlrun: {text.split()[-1]} has no effect")
        and IDLE[text] in told[0]
    )


@pytest.mark.parametrize("text", USED)
def test_row_own_nothing_is_told_of_settings_that_are_used(text, capsys, monkeypatch):
    assert told_of(text, capsys, monkeypatch) == []


def test_row_own_every_idle_rule_has_a_case():
    from dlrun.config.unused_settings import UNUSED_RULES as rules

    words = [case.split()[-1].partition("=")[0] for case in IDLE]
    assert all(
        any(word == k or word.startswith(f"{k}.") for k in rule.keys for word in words)
        for rule in rules
    )


def test_row_own_a_sweep_tells_only_what_does_nothing_in_all_jobs(capsys):
    words = ["-m", "task=digits", "preset=smoke", "callback=none", "engine.epochs=1"]
    assert main([*words, "model=constant,linear"]) == 0
    assert (
        "has no effect" not in capsys.readouterr().out.partition("job 1/2")[0]
    )  # each job tells its own
    assert main([*words, "model=constant", "seed=1,2"]) == 0
    assert "has no effect" in capsys.readouterr().out.partition("job 1/2")[0]


def test_row_own_callbacks_that_a_choice_drops_are_named_with_the_result(tmp_path, capsys):
    assert main(["callback=early_stopping", f"output={tmp_path / 'o'}", *QUICK]) == 0
    said = "callback=early_stopping takes the place of keep_best, tensorboard, samples; to add to what there is: +call"
    assert said in capsys.readouterr().out
    (found,) = (tmp_path / "o").glob("*/*/*")
    assert said in json.loads((found / "results.jsonl").read_text())["note"]
    assert main(["resume", str(found)]) == 0
    assert (found / "log.txt").read_text().count(said) == 1


def test_row_own_usual_metrics_that_a_choice_drops_are_told(capsys, monkeypatch):
    for text in ("metric=[auto,top_k]", "+metric=top_k"):
        (told,) = told_of(text, capsys, monkeypatch)
        assert told.startswith(f"dlrun: {text}: the usual metrics")


def test_row_own_a_callback_that_is_not_there_is_told_how_to_add(capsys):
    assert main(["callback.early_stopping.patience=3"]) == 2
    assert "+callback=early_stopping" in capsys.readouterr().err


def test_row_own_every_command_has_a_help_of_its_own(capsys):
    from dlrun.cli.main import COMMANDS

    screens, commands = set(), set(COMMANDS) - {"complete"}
    for command in commands:
        for words in ([command, "--help"], ["help", command], [command, "-h"]):
            assert main(words) == 0
            screens.add(text := capsys.readouterr().out)
        lines = text.splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 80, command
        assert f"dlrun {command}" in f"{text} dlrun train"
    assert len(screens) == len(commands)
    assert main(["--help"]) == 0 and "dlrun train --help" in capsys.readouterr().out


def test_row_own_help_names_flags_and_the_settings_of_sweeps(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(
        word in text
        for word in ("--cfg", "--config-dir", "--version", "sweep.jobs", "plugins=", "-m ")
    )
    assert main(["resume", "--help"]) == 0 and "reason=" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["export", "publish", "convert"])
def test_row_own_no_command_is_suggested_that_does_something_else(word, capsys):
    assert main([word]) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "meant"),
    [("runs", "compare RUN RUN"), ("comapre", "compare"), ("test", "evaluate RUN"), ("imdb", "")],
)
def test_row_own_what_is_meant_is_suggested(word, meant, capsys):
    assert main([word]) == 2
    assert f"did you mean {f'dlrun {meant}' if meant else 'task=imdb'}?" in capsys.readouterr().err


def test_row_own_ls_lists_the_settings_of_every_option(capsys):
    from dlrun.config.parts import get_builtin_conf, list_groups

    for group, options in list_groups(get_builtin_conf()).items():
        for option in options:
            assert main(["ls", group, option]) == 0
            assert len(capsys.readouterr().out.splitlines()) > 1, (group, option)
    assert main(["ls", "model", "dense"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model.dropout", "0.0", "a", "number", "from", "0"] in [line[:6] for line in lines]
    assert main(["ls", "models", "tasks"]) == 0 and "task=" in capsys.readouterr().out


def test_row_own_columns_of_the_file_of_labels_are_named(tmp_path, capsys):
    from PIL import Image

    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(Path(f"{number}.png"))
    Path("labels.csv").write_text(
        "name,kind\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(20))
    )
    words = [
        "task=images",
        "data.path=.",
        "data.labels=labels.csv",
        "data.size=[8,8]",
        f"output={tmp_path / 'o'}",
    ]
    assert main([*words, *QUICK]) == 2
    assert (
        "'file' is not a column of labels.csv; available: name, kind; say which hold file and label: data.columns="
        in capsys.readouterr().err
    )
    assert main([*words, *QUICK, "model=linear", "data.columns=[name,kind]"]) == 0


def only_run(output):
    return sorted(output.glob("*/*/*"))[-1]


def test_row_own_a_rerun_says_whether_the_scores_are_those_of_the_original(tmp_path, capsys):
    output = f"output={tmp_path / 'o'}"
    assert main(["task=wine", "model=linear", output, *QUICK]) == 0
    first = only_run(tmp_path / "o")
    assert main(["rerun", str(first)]) == 0
    said = capsys.readouterr().out
    assert "the same as the original: 2 scores, equal to the last bit" in said
    assert "the same as the original" in (only_run(tmp_path / "o") / "log.txt").read_text()
    text = (first / "results.jsonl").read_text()
    loss = json.loads(text)["scores"]["loss"]["value"]
    for factor, told in (
        (1 + 1e-6, "the scores of the original within 1e-06"),
        (1.1, "NOT the scores of the orig"),
    ):
        (first / "results.jsonl").write_text(text.replace(str(loss), str(loss * factor)))
        assert main(["rerun", str(first)]) == 0 and told in capsys.readouterr().out
    assert (
        main(["rerun", str(first), "seed=3"]) == 0
        and "of the original" not in capsys.readouterr().out
    )


def test_row_own_predictions_stand_beside_the_files_columns_without_noise(tmp_path):
    import csv

    rows = [f"{n},{n % 3},{1000 + n * 3.7:.1f},{'ny'[n % 2]}" for n in range(40)]
    Path("t.csv").write_text("\n".join(["size,rooms,price,sold", *rows]) + "\n")
    words = [
        "task=csv",
        "data.path=t.csv",
        "data.target=[price,sold]",
        "model=linear",
        f"output={tmp_path / 'o'}",
    ]
    assert main([*words, *QUICK]) == 0
    Path("new.csv").write_text("\n".join(["size,rooms,sold", "3,1,y", "", "5,2,n"]) + "\n")
    assert main(["predict", str(only_run(tmp_path / "o")), "new.csv", "to=out.csv"]) == 0
    with Path("out.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["line"], row["size"], row["rooms"], row["sold"]) for row in found] == [
        ("2", "3", "1", "y"),
        ("4", "5", "2", "n"),
    ]
    for row in found:
        numbers = [row["price: answer"], row["sold: n"], row["sold: y"]]
        assert all(
            len(text.replace("-", "").replace(".", "").lstrip("0")) <= 9 or "e" in text
            for text in numbers
        )
        assert abs(float(row["sold: n"]) + float(row["sold: y"]) - 1) < 1e-6


def test_row_own_a_terminal_shows_the_losses_of_the_last_epoch_and_says_that_it_draws(
    tmp_path, monkeypatch
):
    import io

    from rich.console import Console

    screen = io.StringIO()
    made = Console.__init__

    def terminal(self, *args, **named):
        made(self, *args, **{**named, "file": screen, "force_terminal": True, "width": 120})

    monkeypatch.setattr(Console, "__init__", terminal)
    assert main(["task=wine", "model=linear", f"output={tmp_path / 'o'}", *QUICK]) == 0
    said = screen.getvalue()
    assert "epoch 1: train loss" in said and ", val loss" in said and "drawing plots" in said


def test_row_own_settings_that_the_data_make_idle_are_told_beside_the_result(tmp_path):
    Path("t.csv").write_text("a,b\n" + "x,1\ny,2\n" * 20)
    words = [
        "task=csv",
        "data.path=t.csv",
        "data.target=b",
        "data.kind=number",
        "data.scale=unit",
        "model=linear",
    ]
    assert main([*words, f"output={tmp_path / 'o'}", *QUICK]) == 0
    note = json.loads((only_run(tmp_path / "o") / "results.jsonl").read_text())["note"]
    assert "data.scale=unit has no effect: no input is a number" in note


def test_row_own_experiments_are_listed_with_their_sections_and_wrapped_between_words(
    capsys, monkeypatch
):
    assert main(["ls", "experiments"]) == 0
    assert any(
        line.split()[:2] == ["boston_kfold", "§3.7"]
        for line in capsys.readouterr().out.splitlines()
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["ls", "experiments"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and sum("boston_kfold" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("metric=[accuracy]", "'+metric@metrics.price=[NAME]'"),
        ("loss=bce", "+loss@losses.price=NAME"),
    ],
)
def test_row_own_what_suits_only_one_of_several_targets_is_told_with_its_name(word, form, capsys):
    Path("t.csv").write_text(
        "size,price,sold\n" + "".join(f"{n},{n * 1.5},{'ny'[n % 2]}\n" for n in range(30))
    )
    assert (
        main(
            ["task=csv", "data.path=t.csv", "data.target=[price,sold]", "data.test=0", word, *QUICK]
        )
        == 2
    )
    assert f"that is target 'price', which gets its own by {form}" in capsys.readouterr().err
    assert main(["task=social", word, *QUICK]) == 2
    assert "that is target 'age'" in capsys.readouterr().err
