"""Words that make no sense, however they are wrong, are answered in one line: cases 24 and 40."""

import random

import pytest

from dlrun.cli.main import main

LONG = "x" * 5000
LISTED = (
    *(
        "stages.then=1.5",
        "++stages.first=inf",
        "~objective",
        "book=1",
        "++loss_weights=1e-9",
        "loss_weights=[1]",
    ),
    *("seed=99999999999999999999", "optimizer.lr=nan", "optimizer.lr=inf"),
    *(
        "++task.inputs=1",
        "++task.targets.digit={a:1}",
        "++loss_weights.digit=1e400",
        "++loss_weights={digit:true}",
    ),
    *(
        "-m seed=range(1,99999999999999)",
        "-m seed=range(1,10,0)",
        "-m seed=choice()",
        "-m stages.then=1,2",
    ),
    *("engine.batch_size=999999999999999999999", "protocol=kfold protocol.folds=100000000000000"),
    *(
        "++stages.first={model:{units:1}}",
        "++task.name=a/b",
        "++task.name=..",
        "repeat=99999999999999999999",
    ),
    *(
        "workflow ++workflow.small={scale:inf}",
        "workflow ~objective",
        "explain ~objective",
        "explain book=1",
    ),
    *(
        f"model={LONG}",
        f"{LONG}=1",
        LONG,
        f"model=pretrained model.weights={LONG}",
        f"task={LONG}",
        f"metric=[{LONG}]",
    ),
    *(
        f"model=ensemble model.members=[{LONG}]",
        f"--config-dir {LONG}",
        f"output={LONG}",
        f"plugins={LONG}",
    ),
    *(
        f"{command} {LONG}"
        for command in (
            "resume",
            "evaluate",
            "predict",
            "report",
            "compare",
            "visualize",
            "generate",
        )
    ),
    *(
        f"{command} {LONG}"
        for command in ("neighbors", "final", "ls", "explain", "show", "lr", "ledger", "workflow")
    ),
)


def refused(words, capsys):
    """The one message of words that are refused: each fault a line, none endless, no traceback."""
    code = main(words)
    seen = capsys.readouterr()
    assert code == 2, (words, seen)
    assert (
        all(line.startswith("dlrun: ") for line in seen.err.splitlines())
        and "Traceback" not in seen.err
    )
    assert len(seen.err) < 2000, (words, seen.err)
    return seen.err


@pytest.mark.parametrize("line", LISTED, ids=lambda line: line[:40])
def test_row_40_words_of_no_sense_are_refused(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    refused(line.split(), capsys)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


GROUPS = (
    "task",
    "data",
    "model",
    "objective",
    "loss",
    "optimizer",
    "scheduler",
    "protocol",
    "engine",
    "stages",
)


@pytest.mark.parametrize("group", (*GROUPS, "metric", "callback", "augment"))
def test_row_40_a_group_that_is_taken_away_is_answered_with_its_options(capsys, group):
    for command in ([], ["-m"], ["workflow"]):
        (said,) = refused([*command, "task=wine", f"~{group}"], capsys).splitlines()
        assert f"{group}=" in said and "There are: " in said and "_target_" not in said


def test_row_40_a_number_that_a_part_cannot_count_with_is_refused(monkeypatch):
    from dlrun.config.instantiate import build_part
    from dlrun.core.errors import UserError
    from dlrun.training import schedules

    def overflows(**_):
        return 1e308**2  # as objective.scale=1e308 of a dream

    monkeypatch.setattr(schedules, "constant", overflows)
    with pytest.raises(UserError, match="constant.*out of range"):
        build_part({"_target_": "dlrun.training.schedules.constant"}, kind="scheduler")


SIZES = (
    "model.units=[1000000007]",
    "model.units=[100000,100000,100000]",
    "engine.batch_size=1 model.units=[4000000000]",
)


@pytest.mark.parametrize("sizes", SIZES)
def test_row_40_what_does_not_fit_the_memory_says_what_was_asked_for(
    tmp_path, monkeypatch, capsys, sizes
):
    import torch

    def full(*size, **_):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 256000000000 bytes."
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        torch.nn.Linear, "__init__", full
    )  # what torch says where there is no so much memory
    text = refused(["task=digits", "preset=smoke", *sizes.split()], capsys)
    assert "not enough memory: 256 GB were asked for at once, this machine has" in text
    assert list(tmp_path.glob("outputs/*/*/*")) == []


def test_row_40_generate_takes_no_endless_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["task=mnist", "model=vae_dense", "objective=variational", "preset=smoke"]) == 0
    (run,) = tmp_path.glob("outputs/*/*/*")
    capsys.readouterr()
    for words in ("seed=99999999999999999999999", "seed=nan", "kind=samples count=1000000", "kind=samples count=-1",
                  "kind=interpolation first=99999999999", "kind=samples count=99999999999999999999", f"kind={LONG}",
                  f"{LONG}=1"):  # fmt: skip
        refused(["generate", str(run), *words.split()], capsys)


KEYS = (
    *(
        "model.units",
        "model.dropout",
        "engine.epochs",
        "engine.batch_size",
        "optimizer.lr",
        "protocol.validation",
        "data",
    ),
    *(
        "seed",
        "repeat",
        "loss_weights",
        "losses",
        "metrics",
        "metric",
        "callback",
        "augment",
        "stages.first",
        "stages",
    ),
    *(
        "task",
        "task.inputs",
        "book",
        "test",
        "reason",
        "source",
        "scheduler",
        "objective",
        "model",
        "engine.devices",
    ),
    *(
        "engine.clip_norm",
        "data.test",
        "callback.keep_best.monitor",
        "metric.accuracy.threshold",
        "text",
        "output",
    ),
)
VALUES = (
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "1.5",
        "99999999999999999999",
        "null",
        "[]",
        "[1]",
        "[[1]]",
        "{}",
    ),
    *(
        "{a:1}",
        "{_target_:os.system}",
        "true",
        "''",
        "x",
        "{digit:inf}",
        "{digit:{a:1}}",
        "[x,1]",
        "Größe",
        "a=b",
        "~/x",
    ),
)
SIGNS = ("", "+", "++", "~")


def test_row_40_no_words_end_in_a_traceback(tmp_path, monkeypatch, capsys):
    drawn = random.Random(40)
    monkeypatch.chdir(tmp_path)
    codes = []
    for _ in range(25):
        sign = drawn.choice(SIGNS)
        words = [
            f"{sign}{drawn.choice(KEYS)}" + (f"={drawn.choice(VALUES)}" if sign != "~" else "")
            for _ in range(2)
        ]
        codes.append(main(["--cfg", "job", "task=digits", *words]))
        seen = capsys.readouterr()
        assert codes[-1] in (0, 2), words
        assert "Traceback" not in seen.err and (codes[-1] == 0 or seen.err.startswith("dlrun: ")), (
            words
        )
        assert len(seen.err) < 3000, (words, seen.err)
    assert codes.count(2) > 15


def test_row_40_no_value_ends_the_check_of_a_config_in_a_traceback():
    from dlrun.config.compose import configure
    from dlrun.config.validation import validate_config
    from dlrun.core.errors import UserError

    drawn, config = random.Random(41), configure(["task=digits"], [])
    values = (
        None,
        True,
        -1,
        0,
        1.5,
        10**30,
        float("nan"),
        float("inf"),
        "",
        "x",
        LONG,
        [],
        [1],
        [[None]],
        {},
        {"a": 1},
    )
    for _ in range(400):
        copy = {
            key: dict(value) if isinstance(value, dict) else value for key, value in config.items()
        }
        key = drawn.choice(list(copy))
        inner = isinstance(copy[key], dict) and copy[key] and drawn.random() < 0.7
        node, last = (copy[key], drawn.choice(list(copy[key]))) if inner else (copy, key)
        node[last] = drawn.choice(values)
        try:
            validate_config(copy, ())
        except UserError as error:
            assert f"{error}"


def test_row_24_a_message_names_the_nearest_few(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = [f"column_{number:05}" for number in range(3_000)]
    (tmp_path / "wide.csv").write_text(
        "".join(",".join(row) + "\n" for row in (names, ["1.5"] * 3_000) * 1)
    )
    text = refused(["task=csv", "data.path=wide.csv", "data.target=colum_00042"], capsys)
    assert len(text) < 600 and "column_00042" in text and "3,000" in text
