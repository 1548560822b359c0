"""What is typed is taken as text where a key takes text: case 12; search spaces: cases 15 and 45."""

import shlex

import pytest
import yaml

from dlrun.cli.main import main

HEADERS = (
    "Größe",
    "=a=b",
    "2019",
    "true",
    "1e5",
    "007",
    "a b",
    "x~y",
    "#1",
    "a;b",
    "1_000",
    "naïve",
    "日本",
    "q&a",
    "50%",
    "Price (USD)",
    "size [m2]",
    "it's",
    'say "hi"',
)


def shown(words, capsys):
    """The config that these words ask for."""
    assert main(["--cfg", "job", *words]) == 0, capsys.readouterr().err
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", HEADERS)
def test_row_12_a_column_is_named_as_it_is_typed(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(f"x,{name}\n" + "".join(f"{n},{n % 7}.5\n" for n in range(40)))
    words = ["task=csv", "data.path=t.csv", f"data.target={name}"]
    assert shown(words, capsys)["data"]["target"] == name
    if not set(name) & set("[](){}'\""):  # these belong to the grammar within a list
        listed = shown([*words[:2], f"data.target=[{name}]", f"data.drop=[{name},x]"], capsys)
        assert listed["data"]["drop"] == [name, "x"]


def test_row_12_a_run_with_such_a_target_trains_and_is_gone_on_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("x,2019\n" + "".join(f"{n},{n % 7}.5\n" for n in range(40)))
    words = [
        "task=csv",
        "data.path=t.csv",
        "data.target=2019",
        "preset=smoke",
        "callback=none",
        "model=linear",
    ]
    assert main(words) == 0
    (run,) = tmp_path.glob("outputs/csv/linear/*")
    assert main(["rerun", str(run), "seed=2"]) == 0
    assert main(["evaluate", str(run), "data.target=2019"]) == 0


def test_row_12_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["task=csv", "data.path=~/x.csv", "data.target=y"]
    assert shown(words, capsys)["data"]["path"] == str(tmp_path / "x.csv")


def test_row_12_a_number_stays_one_where_a_number_belongs(capsys):
    config = shown(
        ["task=csv", "data.path=t.csv", "data.target=y", "data.test=0.3", "optimizer.lr=1e-3"],
        capsys,
    )
    assert config["data"]["test"] == 0.3 and config["optimizer"]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("value", "name"),
    [("Price(USD)", "Price(USD)"), ("{x}", "{x}"), ("[Price (USD),a]", ["Price (USD)", "a"])],
)
def test_row_12_what_cannot_be_read_is_shown_with_quotes_that_keep_it(capsys, value, name):
    words = ["task=csv", "data.path=t.csv"]
    assert main([*words, f"data.target={value}"]) == 2
    said = shlex.split(capsys.readouterr().err.partition("needs quotes: ")[2])
    assert shown([*words, *said], capsys)["data"]["target"] == name


def test_row_12_so_are_lists_of_texts_in_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(
        "Größe,a=b,y\n" + "".join(f"{n},{n % 5},{n % 7}.5\n" for n in range(40))
    )
    words = [
        "task=csv",
        "data.path=t.csv",
        "data.target=y",
        "data.drop=[Größe],[a=b]",
        "engine.epochs=1",
    ]
    assert main(["-m", *words, "preset=smoke", "callback=none"]) == 0, capsys.readouterr().err
    assert [status for _, status in jobs(tmp_path)] == ["done", "done"]


def jobs(folder):
    """The words of each job of the one sweep in a folder, and how it ended."""
    (sweep,) = folder.rglob("sweep.jsonl")
    lines = [yaml.safe_load(line) for line in sweep.read_text().splitlines()]
    entries = {line["job"]: line for line in lines if "job" in line}
    return [(sorted(entry["own"]), entry["status"]) for _, entry in sorted(entries.items())]


SMALL = (
    "task=digits",
    "preset=smoke",
    "callback=none",
    "model=linear",
    "engine.epochs=1",
    "protocol.stacked=false",
)


def test_row_15_a_key_belongs_to_the_choices_that_have_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *SMALL, "optimizer=adam,sgd", "optimizer.momentum=0,0.9"]) == 0
    found = jobs(tmp_path)
    assert [words for words, _ in found] == [
        ["optimizer=adam"],
        ["optimizer.momentum=0", "optimizer=sgd"],
        ["optimizer.momentum=0.9", "optimizer=sgd"],
    ]
    assert {status for _, status in found} == {"done"}
    assert (
        "optimizer.momentum: in jobs of optimizer=sgd; the others have no such setting"
        in capsys.readouterr().out
    )


def test_row_15_so_does_a_key_that_is_the_same_in_all_jobs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *SMALL, "optimizer=adam,sgd", "optimizer.momentum=0.9"]) == 0
    assert [status for _, status in jobs(tmp_path)] == ["done", "done"]
    configs = [
        yaml.safe_load(path.read_text())["optimizer"] for path in tmp_path.rglob("config.yaml")
    ]
    assert sorted(config.get("momentum", -1) for config in configs) == [-1, 0.9]


def test_row_15_a_search_draws_it_where_it_belongs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "optimizer=adam,sgd",
        "optimizer.momentum=interval(0.0,0.9)",
        "sweep=random",
        "sweep.trials=5",
    ]
    assert main(["-m", *SMALL, *words]) == 0
    found = jobs(tmp_path)
    assert {status for _, status in found} <= {"done", "same"} and len(found) == 5
    assert {len(words) for words, _ in found} == {1, 2}
    again = sum(status == "same" for _, status in found)
    assert (
        again
        and f"{again} of 5 trials drew the settings of an earlier job" in capsys.readouterr().out
    )
    assert all(("optimizer=sgd" in words) == (len(words) == 2) for words, _ in found)


def test_row_15_a_key_that_no_choice_has_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *SMALL, "optimizer=adam,sgd", "optimizer.momentun=0,0.9"]) == 2
    assert "no setting 'optimizer.momentun'" in capsys.readouterr().err


def test_row_45_an_interval_is_of_whole_numbers_where_the_key_takes_them(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["sweep=random", "sweep.trials=3", "engine.batch_size=interval(8,256)", "seed=interval(1,9)",
             "optimizer.lr=tag(log,interval(1e-4,1e-1))"]  # fmt: skip
    assert main(["-m", *SMALL, *words]) == 0
    configs = [yaml.safe_load(path.read_text()) for path in tmp_path.rglob("config.yaml")]
    assert len(configs) == 3 and all(
        8 <= config["engine"]["batch_size"] <= 256 for config in configs
    )
    assert {type(config["engine"]["batch_size"]) for config in configs} == {int}
    assert {type(config["optimizer"]["lr"]) for config in configs} == {float}


@pytest.mark.parametrize(
    "value", ["interval(0.1,1)", "range(1,3)", "tag(log,interval(0.1,1))", "choice(1,2)"]
)
def test_row_45_values_of_a_sweep_without_its_flag_are_told_which(capsys, value):
    assert main(["task=wine", f"optimizer.lr={value}"]) == 2
    assert "several values make a sweep: add -m" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["interval(a,b)", "interval(1)", "tag(log)"])
def test_row_45_a_space_that_cannot_be_read_shows_how_one_is_typed(capsys, value):
    assert main(["-m", "task=wine", f"optimizer.lr={value}"]) == 2
    assert "'optimizer.lr=" in (said := capsys.readouterr().err) and "interval(0.001,0.1)" in said
