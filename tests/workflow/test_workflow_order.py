"""The order of fits: a pure function of what the fits so far have shown."""

from dataclasses import dataclass, field

import pytest
import yaml
from laboratory import node

from dlrun.config.instantiate import apply_patch, build_part
from dlrun.config.parts import get_builtin_conf
from dlrun.core.errors import UserError
from dlrun.core.types import Result
from dlrun.evaluation.protocols.two_stages import make_protocol
from dlrun.workflow.candidates import (
    CandidatePlan,
    StagedPlan,
    check_workflow_settings,
    parse_budget,
)
from dlrun.workflow.config_changes import build_patch, combine_changes

STUDY = ["smaller", "l1", "l2", "dropout", "slower", "faster"]


def config(model="dense", **workflow):
    """A config as far as the order looks at it."""
    found = {
        "model": node("model", model),
        "engine": node("engine", "default"),
        "optimizer": node("optimizer", "rmsprop"),
    }
    return found | {
        "scheduler": node("scheduler", "constant"),
        "callback": {},
        "seed": 0,
        "workflow": node("workflow", "default", **workflow),
    }


def course(**changes):
    found = config(**changes)
    return CandidatePlan(found, check_workflow_settings(found, build_part(found["workflow"])))


@dataclass
class Fake:
    """Shows what it is told to show. seconds: what each fit takes."""

    beating: set = field(default_factory=lambda: {"small"})
    overfitting: set = field(default_factory=lambda: {"wider"})
    seconds: float = 0.0
    fits: int = 0
    done: set = field(default_factory=set)

    def has_failed(self, stage):
        return False

    def has_started(self, stage):
        return stage in self.done

    def beats_baseline(self, stage):
        return stage in self.beating

    def overfits(self, stage):
        return stage in self.overfitting

    def get_budget_used(self):
        return self.seconds * self.fits, self.fits

    def get_expected_seconds(self, stage):
        return self.seconds


def names(seen, **changes):
    found = []
    for stage in course(**changes)(seen):
        found.append(stage.name)
        seen.fits += 1
    return found


def test_the_steps_come_in_the_books_order():
    assert names(Fake()) == [
        "constant", "linear", "small", "configured", "wider", *STUDY, *(f"search-{n}" for n in range(1, 9))
    ]  # fmt: skip


def test_nothing_is_tuned_before_the_baseline_is_beaten():
    assert names(Fake(beating=set())) == ["constant", "linear", "small", "configured"]
    assert len(names(Fake(beating={"linear"}))) > 4


def test_the_ladder_is_climbed_until_a_rung_overfits():
    assert "wider" not in names(Fake(overfitting={"configured"}))
    assert names(Fake(overfitting=set()))[4:7] == ["wider", "deeper", "longer"]
    assert "deeper" not in names(Fake(overfitting={"wider"}))


def test_a_budget_ends_study_and_search_but_not_the_baselines():
    assert names(Fake(), budget=6) == [
        "constant",
        "linear",
        "small",
        "configured",
        "wider",
        "smaller",
    ]
    assert names(Fake(), budget=1) == ["constant", "linear", "small", "configured"]
    assert len(names(Fake(seconds=10), budget="100s")) == 10
    assert len(names(Fake(seconds=10), budget="99s")) == 9  # the tenth would go beyond it


def test_what_was_done_within_the_budget_stays_when_it_is_used_up():
    """Else the ladder would be forgotten by the fits that came after it."""
    seen = Fake(overfitting={"longer"}, fits=100, done={"wider", "deeper", "smaller"})
    assert [stage.name for stage in course(budget=5)(seen)] == [
        "constant", "linear", "small", "configured", "wider", "deeper", "smaller"
    ]  # fmt: skip


def test_what_a_model_does_not_have_is_left_out():
    found = names(Fake(), model="linear")
    assert not {"small", "wider", "l1", "l2", "dropout", "smaller"} & set(found)
    assert {"configured", "slower", "faster"} <= set(found)


def test_stages_are_different_from_each_other():
    for model in ("dense", "convnet"):
        seen = Fake(overfitting=set())
        patches = [repr(sorted(stage.patch.items())) for stage in course(model=model)(seen)]
        assert len(patches) == len(set(patches)) > 12


def test_changes_add_up():
    found = config()
    assert build_patch(found, {"scale": 0.25}) == {"model.units": [16, 16]}
    assert build_patch(found, {"layers": 1, "scale": 4}) == {"model.units": [256, 256, 256]}
    assert build_patch(found, {"epochs": 3, "rate": 0.5}) == {
        "engine.epochs": 60,
        "optimizer.lr": 0.0005,
    }
    assert (
        build_patch(found, {"model.l2": 0.0}) == {}
        and build_patch(found, {"model.nothing": 1}) is None
    )
    assert combine_changes({"scale": 4, "layers": 1}, {"scale": 0.25, "layers": 1, "model.l2": 1}) == {
        "scale": 1, "layers": 2, "model.l2": 1
    }  # fmt: skip
    before = repr(found)
    assert (
        apply_patch(found, build_patch(found, {"scale": 2}))["model"]["units"] == [128, 128]
        and repr(found) == before
    )


@pytest.mark.parametrize("folds", [1, 3])
def test_asked_again_it_answers_the_same_after_any_number_of_fits(folds):
    """However often it is interrupted, the same jobs come in the same order."""
    plan = make_protocol(
        node("protocol", "kfold", folds=folds) if folds > 1 else node("protocol", "holdout")
    )

    def staged():
        def stages(results):
            done = {result.job.stage for result in results}
            return course(budget=13 * folds)(Fake(fits=len(results), done=done))

        return StagedPlan(plan, stages)

    done, jobs = [], []
    while (job := staged()(list(done))) is not None:
        assert staged()(list(done)) == job
        jobs.append(job)
        done.append(Result(job, "val", {}))
    assert len(jobs) == 13 * folds and len({job.name for job in jobs}) == len(jobs)
    assert [job.stage for job in jobs[::folds]] == list(dict.fromkeys(job.stage for job in jobs))


def test_the_search_depends_on_the_seed_alone():
    one, other, third = (course(), course(), course())
    third.config["seed"] = 1
    assert one.random_changes({}) == other.random_changes({}) != third.random_changes({})
    changes = [repr(sorted(change.items())) for _, change in one.random_changes({})]
    assert len(set(changes)) == len(changes) == 8


@pytest.mark.parametrize(
    "text, found",
    [
        ("90s", ("seconds", 90)),
        ("20m", ("seconds", 1200)),
        ("1.5 h", ("seconds", 5400)),
        (12, ("fits", 12)),
    ],
)
def test_budgets(text, found):
    assert parse_budget(text) == found


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"budget": "soon"}, "workflow.budget=soon"),
        ({"budget": 0}, "workflow.budget=0"),
        ({"small": {"scael": 2}}, "nothing is called 'scael'"),
        ({"ladder": {"wider": {"scale": -1}}}, "workflow.ladder.wider.scale=-1"),
        ({"ladder": {"deeper": {"layers": 1.5}}}, "whole number above 0"),
        ({"study": {"l2": 3}}, "it must be a mapping"),
        ({"study": {"fit": {"rate": 2}}}, "'fit' cannot be the name"),
        ({"study": {"small": {"rate": 2}}}, "'small' cannot be the name"),
        ({"space": {"scale": 2}}, "list of values to draw from"),
        ({"space": {"modle.l2": [0]}}, "nothing is called 'modle.l2'"),
    ],
)
def test_a_wrong_workflow_is_refused(wrong, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        course(**wrong)


def test_every_shipped_workflow_is_right():
    files = sorted((get_builtin_conf() / "workflow").glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        own = {
            key: value
            for key, value in yaml.safe_load(file.read_text()).items()
            if key != "defaults"
        }
        course(**own)
