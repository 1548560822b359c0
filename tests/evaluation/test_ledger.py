"""Every opening of test rows is in the ledger, whatever else happens, and a second one needs a reason."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dlrun.cli import ledger
from dlrun.core.errors import UserError
from dlrun.evaluation import test_ledger

PRINT = "a1b2c3d4" * 8
CONFIG = {
    "task": {"name": "imdb"},
    "model": {"units": [16, 16]},
    "seed": 0,
    "output": "outputs",
    "plugins": [],
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(test_ledger, "user_cache", lambda: tmp_path / "cache" / "dlrun")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def entered(task="imdb", fingerprint=PRINT, score=0.88213, reason="", run="outputs/imdb/one"):
    scores = {"loss": 0.3, "accuracy": score}
    entry = test_ledger.add_entry(
        task=task, fingerprint=fingerprint, config=CONFIG, run=Path.cwd() / run, reason=reason
    )
    return test_ledger.add_score(entry, scores)


def printed(words):
    file = io.StringIO()
    Console(file=file, width=160).print(ledger.format_ledger(words))
    return file.getvalue()


def test_what_is_entered_is_read_again_in_order(cache):
    made = [entered(), entered("reuters", "0" * 64, 0.79, "warum? „ümlaut“\nand a second line")]
    assert test_ledger.read_entries() == (made, [])
    assert [
        json.loads(line)["task"] for line in test_ledger.get_ledger_path().read_text().splitlines()
    ] == 2 * ["imdb"] + 2 * ["reuters"]
    assert test_ledger.get_ledger_path() == cache / "dlrun" / "ledger.jsonl"


def test_openings_are_those_of_the_same_task_and_data(cache):
    first, _, _, last = (
        entered(),
        entered("reuters"),
        entered(fingerprint="0" * 64),
        entered(reason="again"),
    )
    assert test_ledger.find_previous_entries("imdb", PRINT) == [first, last]
    assert test_ledger.find_previous_entries("mnist", PRINT) == []


def test_a_second_opening_needs_a_reason_and_is_told_of_the_first(cache):
    test_ledger.require_reason("imdb", PRINT, "")
    first = entered()
    for nothing in ("", "  \n", None):
        with pytest.raises(UserError) as refused:
            test_ledger.require_reason("imdb", PRINT, nothing)
        told = f"evaluated 1 time before ({first.date[:10]}, accuracy 0.8821, {first.run})"
        assert told in str(refused.value) and 'reason="…"' in str(refused.value)
    test_ledger.require_reason("imdb", PRINT, "a bug was found")
    test_ledger.require_reason("imdb", "0" * 64, "")
    test_ledger.require_reason("reuters", PRINT, "")


def test_of_many_openings_all_are_counted_and_the_last_are_named(cache):
    for number in range(9):
        entered(score=number / 10, reason="again")
    with pytest.raises(UserError, match="9 times before.*0.8000") as refused:
        test_ledger.require_reason("imdb", PRINT, "")
    assert "0.1000" not in str(refused.value)


WRITER = """
import sys
from pathlib import Path
from dlrun.evaluation import test_ledger as ledger
ledger.user_cache = lambda: Path(sys.argv[1])
assert "torch" not in sys.modules
for number in range(60):
    entry = ledger.add_entry(task=sys.argv[2], fingerprint="f", config={}, run=Path("run"), reason="x" * 3000)
    ledger.add_score(entry, {"accuracy": number / 100})
"""


def test_two_processes_that_enter_at_once_lose_nothing(cache):
    names = ["first", "second"]
    folder = str(cache / "dlrun")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, folder, name]) for name in names]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found, damaged = test_ledger.read_entries()
    assert not damaged
    for name in names:
        assert [entry.score["accuracy"] for entry in found if entry.task == name] == [
            n / 100 for n in range(60)
        ]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"date": "2026',
        b"\xff\xfe\n",
        b"[1]\n",
        b'"text"\n',
        b"{}\n",
        b'{"task": "imdb"',
        b"null\n\n",
    ],
)
def test_a_damaged_line_is_kept_and_told_and_costs_no_other_line(cache, damage, caplog):
    first = entered()
    with test_ledger.get_ledger_path().open("ab") as file:
        file.write(damage)
    last = entered(reason="again")
    assert test_ledger.read_entries() == ([first, last], [3])
    assert (
        test_ledger.find_previous_entries("imdb", PRINT) == [first, last]
        and "line 3 is damaged" in caplog.text
    )
    assert damage.strip() in test_ledger.get_ledger_path().read_bytes()
    assert "line 3 of" in printed([]) and "damaged" in printed([])


def test_a_line_of_a_later_version_is_understood(cache):
    first = entered()
    line = json.loads(test_ledger.get_ledger_path().read_text().splitlines()[-1]) | {
        "machine": "a new key"
    }
    test_ledger.get_ledger_path().write_text(json.dumps(line) + "\n")
    assert test_ledger.read_entries() == ([first], [])


def test_an_opening_without_a_score_counts_and_goes_on_for_its_own_run(cache):
    asked = {"task": "imdb", "fingerprint": PRINT, "config": CONFIG, "reason": ""}
    begun = test_ledger.add_entry(**asked, run=cache / "one")
    assert (
        test_ledger.find_previous_entries("imdb", PRINT) == [begun]
        and begun.formatted_score == "no score"
    )
    with pytest.raises(UserError, match="no score"):
        test_ledger.add_entry(**asked, run=cache / "other")
    assert test_ledger.add_entry(**asked, run=cache / "one") == begun
    done = test_ledger.add_score(begun, {"accuracy": 0.5})
    assert test_ledger.find_previous_entries("imdb", PRINT) == [done]
    with pytest.raises(UserError, match="0.5000"):
        test_ledger.add_entry(**asked, run=cache / "one")


def test_scores_that_are_no_numbers_or_absent_are_damage_or_nothing(cache):
    line = json.loads(json.dumps(test_ledger.asdict(entered())))
    test_ledger.get_ledger_path().write_text(
        json.dumps(line | {"score": {"accuracy": "high"}}) + "\n" + json.dumps(line | {"score": {}})
    )
    found, damaged = test_ledger.read_entries()
    assert damaged == [1] and found[0].formatted_score == "no score"


def test_an_unwritable_cache_is_refused_before_anything_is_read(cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="must not happen") as refused:
        test_ledger.check_writable()
    assert str(test_ledger.get_ledger_path()) in str(refused.value)
    with pytest.raises(UserError):
        entered()


def test_a_ledger_that_cannot_be_read_is_not_an_empty_one(cache):
    test_ledger.get_ledger_path().mkdir(parents=True)
    for ask in (
        test_ledger.read_entries,
        test_ledger.check_writable,
        lambda: test_ledger.require_reason("imdb", PRINT, ""),
    ):
        with pytest.raises(UserError, match="ledger.jsonl"):
            ask()


def test_checking_enters_nothing_and_can_be_done_again(cache):
    test_ledger.check_writable()
    test_ledger.check_writable()
    assert test_ledger.read_entries() == ([], [])
    entered()
    before = test_ledger.get_ledger_path().read_bytes()
    test_ledger.check_writable()
    assert test_ledger.get_ledger_path().read_bytes() == before


def test_the_hash_of_a_config_knows_values_and_neither_order_nor_places():
    same = dict(reversed(CONFIG.items())) | {"output": "elsewhere", "plugins": ["mine"]}
    assert test_ledger.compute_config_hash(CONFIG) == test_ledger.compute_config_hash(same)
    assert test_ledger.compute_config_hash(CONFIG) != test_ledger.compute_config_hash(
        CONFIG | {"seed": 1}
    )
    assert len(test_ledger.compute_config_hash(CONFIG)) == 64


def test_an_empty_ledger_says_so_with_its_path(cache):
    assert "no test split has been evaluated" in printed([]).replace("\n", "")
    assert "the test split of imdb has never been evaluated" in printed(["imdb"])
    assert not cache.exists()


def test_the_table_has_every_opening_newest_last_with_counts(cache):
    entered()
    entered("reuters", "0" * 64, 0.79)
    entered(score=0.885, reason="a bug [red]was[/red] found")
    entered(fingerprint="9" * 64)
    lines = printed([]).splitlines()
    shown = [line.split() for line in lines if "accuracy" in line]
    assert [(line[1], line[3], line[5]) for line in shown] == [
        ("imdb", "1", "0.8821"),
        ("reuters", "1", "0.7900"),
        ("imdb", "2", "0.8850"),
        ("imdb", "1", "0.8821"),
    ]
    assert ["a bug [red]was[/red] found" in line for line in lines if "accuracy" in line] == [
        False,
        False,
        True,
        False,
    ]
    text = " ".join(printed([]).split())
    assert "imdb: 3 evaluations of 2 datasets" in text and "reuters: 1 evaluation" in text
    assert "outputs/imdb/one" in text and str(Path.cwd()) not in text
    assert "imdb" not in printed(["reuters"]).replace("outputs/imdb", "")


@pytest.mark.parametrize("words", [["imbd"], ["imdb", "mnist"], ["--all"], ["model=dense"]])
def test_wrong_words_are_refused_with_what_there_is(cache, words):
    with pytest.raises(UserError) as refused:
        ledger.ledger_command(words)
    assert "There are: " in str(refused.value) or "takes one task" in str(refused.value)
    if words == ["imbd"]:
        assert "did you mean 'imdb'" in str(refused.value)


def test_a_task_that_is_only_in_the_ledger_can_be_asked_for(cache):
    entered("my_own")
    assert "my_own: 1 evaluation" in printed(["my_own"])
    assert ledger.ledger_command(["my_own"]) == 0


def test_the_command_needs_no_torch(cache):
    code = "import sys; from dlrun.cli.ledger import ledger_command as ledger; ledger([]); print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
