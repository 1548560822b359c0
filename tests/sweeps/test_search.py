"""Laws of searches through Optuna: totals, resuming, failures, several at once, pruning, several aims."""

import dataclasses
import math

import pytest
import yaml

from dlrun.config.parts import get_builtin_conf
from dlrun.config.settings import Sweep
from dlrun.core.errors import UserError
from dlrun.sweeps.optuna_study import SEARCH_LOG, SearchStudy, find_even_step
from dlrun.sweeps.study import Axis, Outcome, PreviousJob

optuna = pytest.importorskip("optuna")

GOALS = {"mae": "min", "accuracy": "max", "loss": "min"}
LR = Axis("optimizer.lr", low=1e-4, high=1e-1, log=True)
UNITS = Axis("model.units", low=2, high=64, whole=True)
KIND = Axis("model", values=("dense", "linear"))
DEPTH = Axis("depth", values=("1", "3", "5"))
AXES = [LR, UNITS, KIND, DEPTH]


def settings(name="tpe", **changes):
    """A shipped option of conf/sweep with some values changed."""
    node, wanted = {}, name
    chain = []
    while wanted:
        found = yaml.safe_load((get_builtin_conf() / "sweep" / f"{wanted}.yaml").read_text())
        parents = [parent for parent in found.pop("defaults", []) if parent != "_self_"]
        chain.append(found)
        wanted = parents[0] if parents else ""
    for found in reversed(chain):
        node |= found
    node.pop("_target_")
    return Sweep(**{**node, "measure": "mae", **changes})


def error_of(words):
    """What these words come to: least at lr = 1e-2, 40 units, dense."""
    said = dict(word.split("=") for word in words)
    off = abs(math.log10(float(said["optimizer.lr"])) + 2) + abs(int(said["model.units"]) - 40) / 40
    return off + 0.5 * (said["model"] == "linear") + 0.1 * abs(int(said["depth"]) - 3)


def run(search, most=1000):
    """Ask and tell one after the other, at most so often; the words asked."""
    asked = []
    while len(asked) < most and (words := search.ask()):
        search.tell(max(search.running), Outcome("done", {"loss": 1.0, "mae": error_of(words)}))
        asked.append(words)
    return asked


def recalled(words, outcome=None):
    return [PreviousJob(number, each, outcome) for number, each in enumerate(words)]


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_a_search_cut_in_two_asks_what_it_would_have_asked(name, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    chosen = settings(name, trials=14, startup=4)
    whole = run(SearchStudy(AXES, chosen, tmp_path / "whole"))
    first = run(SearchStudy(AXES, chosen, tmp_path / "cut"), 6)
    again = SearchStudy(AXES, chosen, tmp_path / "cut")
    again.restore_jobs(recalled(first, Outcome("done", {"mae": 0.0})))
    assert not again.done
    assert first + run(again) == whole and again.done and again.ask() is None
    assert len(whole) == 14 == len({tuple(words) for words in whole})


def test_another_seed_asks_other_things(tmp_path):
    asked = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        asked.append(
            run(SearchStudy(AXES, settings("random", trials=3, seed=seed), tmp_path / str(seed)))
        )
    assert not {tuple(words) for words in asked[0]} & {tuple(words) for words in asked[1]}


def test_a_larger_total_goes_on_and_a_smaller_one_asks_nothing(tmp_path):
    first = run(SearchStudy(AXES, settings(trials=5), tmp_path))
    assert SearchStudy(AXES, settings(trials=3), tmp_path).ask() is None
    more = SearchStudy(AXES, settings(trials=8), tmp_path)
    more.restore_jobs(recalled(first, Outcome("done", {"mae": 1.0})))
    assert len(run(more)) == 3 and len(more.study.trials) == 8


def test_what_ran_when_it_was_killed_keeps_its_number_and_words(tmp_path):
    search = SearchStudy(AXES, settings(trials=4), tmp_path)
    begun, drawn_only = (
        search.ask(),
        search.ask(),
    )  # the second was never begun: the loop had not written it down
    with (tmp_path / SEARCH_LOG).open("ab") as file:
        file.write(b'{"op_code": 6, "wor')  # and a line was cut
    (tmp_path / f"{SEARCH_LOG}.lock").symlink_to("nobody")
    again = SearchStudy(AXES, settings(trials=4), tmp_path)
    again.restore_jobs(recalled([begun]))
    assert again.ask() == drawn_only
    again.tell(0, Outcome("done", {"mae": 0.25}))
    again.tell(1, Outcome("done", {"mae": 0.5}))
    assert len(run(again)) == 2 and again.done
    assert [trial.value for trial in again.study.trials[:2]] == [0.25, 0.5]
    assert len(again.study.trials) == 4


def test_a_trial_cut_while_its_values_were_drawn_is_finished(tmp_path):
    search = SearchStudy(AXES, settings("random", trials=2), tmp_path)
    words = search.ask()
    lines = (tmp_path / SEARCH_LOG).read_bytes().splitlines(keepends=True)
    (tmp_path / SEARCH_LOG).write_bytes(b"".join(lines[:-2]))  # without its last two values
    again = SearchStudy(AXES, settings("random", trials=2), tmp_path).ask()
    assert again[:2] == words[:2] and len(again) == len(AXES)


def test_failed_jobs_count_and_do_not_stop_it(tmp_path):
    search = SearchStudy(AXES, settings(trials=6), tmp_path)
    ends = [
        *(
            Outcome("failed", reason="killed"),
            Outcome("done", {"mae": math.nan}),
            Outcome("done", {"mae": math.inf}),
        ),
        *(
            Outcome("pruned", {"mae": 0.1}),
            Outcome("done", {"mae": 3.0}),
            Outcome("done", {"mae": 2.0}),
        ),
    ]
    for number, end in enumerate(ends):
        assert search.ask()
        search.tell(number, end)
    assert search.done and search.get_best_jobs() == [5]
    states = [trial.state.name for trial in search.study.trials]
    assert states == ["FAIL", "FAIL", "FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
    search.tell(4, Outcome("done", {"mae": 0.0}))  # told twice: the first stands
    assert search.get_best_jobs() == [5]


def test_several_at_once_are_all_different_and_told_in_any_order(tmp_path):
    search = SearchStudy(AXES, settings(trials=12, startup=2), tmp_path)
    asked = []
    for _ in range(3):
        at_once = [search.ask() for _ in range(4)]
        for number in sorted(search.running, reverse=True):
            search.tell(number, Outcome("done", {"mae": error_of([*asked, *at_once][number])}))
        asked += at_once
    assert len({tuple(words) for words in asked}) == 12 and search.done


def test_words_stay_inside_their_axes(tmp_path):
    for words in run(SearchStudy(AXES, settings("random", trials=30), tmp_path)):
        said = dict(word.split("=") for word in words)
        assert 1e-4 <= float(said["optimizer.lr"]) <= 1e-1 and 2 <= int(said["model.units"]) <= 64
        assert said["model"] in KIND.values and said["depth"] in DEPTH.values


def test_a_logarithmic_interval_is_drawn_evenly_in_the_logarithm(tmp_path):
    drawn = [
        float(words[0].split("=")[1])
        for words in run(SearchStudy(AXES, settings("random", trials=40), tmp_path))
    ]
    assert (
        8 <= sum(value < 1e-3 for value in drawn) <= 20
    )  # a third; evenly it would be one in a hundred


def test_even_numbers_keep_their_order_and_other_lists_do_not():
    assert find_even_step(("16", "32", "48")) == 16 and find_even_step(
        ("0.1", "0.2", "0.3")
    ) == pytest.approx(0.1)
    assert (
        find_even_step(("16", "32", "64")) is None
        and find_even_step(("a", "b", "c")) is None
        and find_even_step(("1", "2")) is None
    )
    assert find_even_step(("3", "2", "1")) is None


def test_every_value_of_a_list_can_be_drawn_and_is_said_as_it_was_given(tmp_path):
    axes = [
        Axis("a", ("0.2", "0.3", "0.4", "0.5")),
        Axis("b", ("1e-4", "0.01", "null")),
        Axis("c", ("8", "16", "24")),
    ]
    drawn = run_words(SearchStudy(axes, settings("random", trials=40), tmp_path))
    for place, axis in enumerate(axes):
        assert {words[place] for words in drawn} == {f"{axis.key}={value}" for value in axis.values}


def run_words(search):
    found = []
    while words := search.ask():
        search.tell(max(search.running), Outcome("done", {"mae": 1.0}))
        found.append(words)
    return found


@pytest.mark.parametrize(("prune", "kept"), [("halving", 3), ("median", 6)])
def test_pruning_stops_what_is_behind_and_never_what_leads(prune, kept, tmp_path):
    search = SearchStudy(
        [LR], settings("random", trials=9, prune=prune, startup=1, least=1, factor=3), tmp_path
    )
    for _ in range(9):
        assert search.ask()
    alive = set(range(9))
    for epoch in range(1, 10):
        for number in sorted(alive):
            values = {"train/mae": 0.0, "val/mae": number + 1 / epoch}
            if search.should_prune(number, epoch, values, GOALS):
                alive.discard(number)
                search.tell(number, Outcome("pruned", {"mae": number + 1 / epoch}))
            elif epoch == 9:
                search.tell(number, Outcome("done", {"mae": number + 1 / epoch}))
    assert 0 in alive and search.get_best_jobs() == [0] and len(alive) <= kept


def test_more_may_be_better(tmp_path):
    search = SearchStudy(
        [LR],
        settings("random", trials=3, measure="val/accuracy", prune="halving", factor=3),
        tmp_path,
    )
    asked = [search.ask() for _ in range(3)]
    assert len(asked) == 3
    cut = [
        search.should_prune(number, 1, {"val/accuracy": score}, GOALS)
        for number, score in enumerate((0.9, 0.2, 0.1))
    ]
    assert cut[1:] == [True, True]
    search.tell(0, Outcome("done", {"accuracy": 0.9}))
    search.tell(1, Outcome("pruned"))
    search.tell(2, Outcome("done", {"accuracy": 0.95}))
    assert search.get_best_jobs() == [2]


def test_an_epoch_that_was_judged_is_not_judged_again(tmp_path):
    chosen = settings("random", trials=2, prune="median", startup=1, least=1)
    search = SearchStudy([LR], chosen, tmp_path)
    words = [search.ask(), search.ask()]
    for epoch in (1, 2):
        search.should_prune(0, epoch, {"val/mae": 0.0}, GOALS)
    search.tell(0, Outcome("done", {"mae": 0.0}))
    search.should_prune(1, 1, {"val/mae": 1.0}, GOALS)
    again = SearchStudy([LR], chosen, tmp_path)
    again.restore_jobs(
        [PreviousJob(0, words[0], Outcome("done", {"mae": 0.0})), PreviousJob(1, words[1], None)]
    )
    assert not again.should_prune(1, 1, {"val/mae": 1.0}, GOALS) and again.should_prune(
        1, 2, {"val/mae": 1.0}, GOALS
    )


def test_where_no_measure_is_named_the_first_that_is_no_loss_decides_and_stays(tmp_path):
    chosen = settings(measure=None, trials=2)
    search = SearchStudy([LR], chosen, tmp_path)
    words = search.ask()
    search.tell(0, Outcome("done", {"loss": 0.1, "accuracy": 0.8, "parameters": 9.0}))
    again = SearchStudy([LR], chosen, tmp_path)
    again.restore_jobs(recalled([words], Outcome("done", {"loss": 0.1, "accuracy": 0.8})))
    again.ask()
    again.tell(1, Outcome("done", {"loss": 0.9, "accuracy": 0.9, "parameters": 1.0}))
    assert again.get_best_jobs() == [1]


def test_several_aims_have_a_front(tmp_path):
    search = SearchStudy([LR], settings(trials=4, measure=["val/mae", "parameters"]), tmp_path)
    for number, (mae, size) in enumerate([(1.0, 10.0), (2.0, 5.0), (2.0, 10.0), (0.5, 50.0)]):
        search.ask()
        search.tell(number, Outcome("done", {"mae": mae, "parameters": size}))
    assert sorted(search.get_best_jobs()) == [0, 1, 3]


@pytest.mark.parametrize(
    ("axes", "changes", "said"),
    [
        ([], {}, "nothing to search"),
        (AXES, {"trials": None}, "sweep.trials=20"),
        (AXES, {"measure": ["mae", "parameters"], "prune": "median"}, "sweep.prune=null"),
        (AXES, {"measure": "seconds", "prune": "median"}, "sweep.prune=null"),
        (AXES, {"measure": "train/mae"}, "validation rows"),
        (AXES, {"prune": "halving", "factor": 1}, "sweep.factor=1"),
    ],
)
def test_what_makes_no_sense_is_refused(axes, changes, said, tmp_path):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        SearchStudy(axes, settings(**changes), tmp_path)


def test_a_measure_that_is_not_there_is_named_with_what_is(tmp_path):
    search = SearchStudy(
        [LR], settings("random", measure="mea", prune="median", trials=2), tmp_path
    )
    search.ask()
    with pytest.raises(
        UserError, match="sweep.measure=mea is not measured after each epoch; there are: loss, mae"
    ):
        search.should_prune(0, 1, {"train/loss": 1.0, "val/loss": 1.0, "val/mae": 1.0}, GOALS)
    with pytest.raises(UserError, match="there are: loss, mae"):
        search.tell(0, Outcome("done", {"loss": 1.0, "mae": 1.0}))


def test_a_folder_of_another_search_is_refused(tmp_path):
    run(SearchStudy(AXES, settings(trials=1), tmp_path))
    with pytest.raises(UserError, match="another folder"):
        SearchStudy([dataclasses.replace(LR, high=1.0)], settings(trials=2), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="does not know job 0"):
        SearchStudy(AXES, settings(), tmp_path / "empty").restore_jobs(recalled([["a=1"]]))


def test_tpe_comes_closer_than_chance(tmp_path):
    found = {"random": [], "tpe": []}
    for seed in range(3):
        for name, ends in found.items():
            folder = tmp_path / f"{name}{seed}"
            folder.mkdir()
            asked = run(SearchStudy(AXES, settings(name, trials=40, startup=8, seed=seed), folder))
            ends.append(min(map(error_of, asked)))
    assert sum(found["tpe"]) < sum(found["random"])
