"""The audit names what was planted, keeps quiet where nothing was, and never reads a test row."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from laboratory import BAG

from dlrun.core.dataset import Dataset, Ragged
from dlrun.data.audit.duplicates import compute_row_ids
from dlrun.data.audit.run import SEVERITY_ORDER, audit
from dlrun.data.datasets import imdb_reuters, mnist, sklearn_datasets
from dlrun.data.preprocessing.numeric import (
    MinMaxScaler,
    OrdinalEncoder,
    SimpleImputer,
    StandardScaler,
)
from dlrun.data.preprocessing.padding import MultiHot
from dlrun.evaluation.protocols.splits import split_validation

SEEDS = range(4)
ROWS = 600


def forbidden():
    raise AssertionError("a test row was read")


def honest(seed, kind="binary"):
    """Four number columns, one category, and a target that depends on them and on chance."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(ROWS, 4))
    town = random.choice(np.array(["ash", "birch", "cedar"], object), ROWS)
    signal = numbers[:, 0] - numbers[:, 1] + (town == "ash") + random.normal(size=ROWS)
    target = signal if kind == "number" else (signal > 0).astype(np.int64)
    return Dataset(
        dev={"features": numbers, "town": town, "answer": target},
        inputs={"features": "number", "town": "category"},
        targets={"answer": kind},
        preprocessors={
            "features": (SimpleImputer("median"), StandardScaler()),
            "town": (OrdinalEncoder(),),
        },
        test=forbidden,
        labels={"features": ("a", "b", "c", "d")},
    )


def changed(raw, **columns):
    return dataclasses.replace(raw, dev={**raw.dev, **columns})


def with_column(raw, name, values):
    """One number column more."""
    features = np.column_stack([raw.dev["features"], values])
    return dataclasses.replace(
        changed(raw, features=features),
        labels={**raw.labels, "features": (*raw.labels["features"], name)},
    )


def look(raw, by="auto", seed=0):
    return audit(raw, *split_validation(raw, 0.25, by, seed), seed)


def named(findings, what, severity=None):
    return [one for one in findings if one.what == what and severity in (None, one.severity)]


def leaks(findings):
    return [one for one in findings if one.severity == "leak"]


@pytest.mark.parametrize("kind", ["binary", "number"])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_honest_dataset_has_nothing_but_notes(seed, kind):
    findings = look(honest(seed, kind), seed=seed)
    assert findings and {one.severity for one in findings} == {"note"}, findings


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_that_nothing_foretells_has_no_leak(seed):
    raw = honest(seed)
    assert not leaks(
        look(changed(raw, answer=np.random.default_rng(seed).permutation(raw.dev["answer"])))
    )


@pytest.mark.parametrize(
    "load",
    [
        sklearn_datasets.digits,
        sklearn_datasets.wine,
        sklearn_datasets.breast_cancer,
        sklearn_datasets.diabetes,
    ],
)
def test_real_datasets_have_no_leak(load):
    raw = dataclasses.replace(load(test=0.2), test=forbidden)
    for seed in range(3):
        findings = look(raw, seed=seed)
        assert findings and not [one for one in findings if one.severity != "note"], findings


LEAKED = {
    "itself": lambda y, random: y,
    "in other units": lambda y, random: 5e9 - 1e7 * y,
    "bent": lambda y, random: np.exp(3 * y),
    "not monotone": lambda y, random: np.round(np.abs(y), 12) + 10 * (y < 0),
    "nearly": lambda y, random: y + 0.01 * random.normal(size=len(y)),
    "through gaps": lambda y, random: np.where(y > y.mean(), np.nan, random.normal(size=len(y))),
}
BENT = [
    how for how in LEAKED if how != "through gaps"
]  # whether a number is missing says no number


@pytest.mark.parametrize(
    ("how", "kind"), [*((how, "binary") for how in LEAKED), *((how, "number") for how in BENT)]
)
def test_a_column_that_gives_the_target_away_is_named(how, kind):
    for seed in SEEDS:
        raw = honest(seed, kind)
        column = LEAKED[how](raw.dev["answer"].astype(float), np.random.default_rng(seed + 100))
        (leak,) = leaks(look(with_column(raw, "leaky", column)))
        assert (
            leak.columns == ("leaky",)
            and "gives the target away" in leak.what
            and "answer" in leak.text
        )


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_text_column_that_gives_a_class_away_is_named_though_classes_are_lopsided(share):
    random = np.random.default_rng(3)
    answer = (random.random(ROWS) > share).astype(np.int64)
    status = np.array(
        [f"{'paid' if one else 'open'}-{random.integers(4)}" for one in answer], object
    )
    (leak,) = leaks(look(changed(honest(3), town=status, answer=answer)))
    assert leak.columns == ("town",)


def test_a_leak_into_one_of_many_classes_or_labels_is_named():
    random = np.random.default_rng(0)
    topics = random.integers(0, 20, ROWS)
    raw = dataclasses.replace(honest(0), targets={"answer": "category"})
    (leak,) = leaks(
        look(with_column(changed(raw, answer=topics), "code", topics * 7.0 % 11 + topics / 100))
    )
    assert leak.columns == ("code",)
    labels = random.integers(0, 2, (ROWS, 3))
    raw = dataclasses.replace(
        raw, targets={"answer": "multilabel"}, labels={**raw.labels, "answer": ("x", "y", "z")}
    )
    (leak,) = leaks(
        look(with_column(changed(raw, answer=labels), "code", labels[:, 1]), by="random")
    )
    assert "predicts y" in leak.text


def twice(raw, count, other=False):
    """The last `count` rows are the first ones again, with the other answer if wanted."""
    dev = {name: column.copy() for name, column in raw.dev.items()}
    for name, column in dev.items():
        column[-count:] = column[:count]
        if other and name in raw.targets:
            column[-count:] = 1 - column[:count]
    return dataclasses.replace(raw, dev=dev)


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_across_the_split_are_a_leak_with_their_share(seed):
    raw = twice(honest(seed), 60)
    train, val = np.arange(ROWS - 100), np.arange(ROWS - 100, ROWS)
    findings = audit(raw, train, val, seed)
    assert findings[0].what == "duplicates across splits" and findings[0].severity == "leak"
    assert "60 of 100 validation rows (60.0 %)" in findings[0].text and findings[0].count == 60
    assert named(findings, "duplicates", "warning")[0].count == 60
    assert not named(findings, "contradictions")


def test_a_few_copies_are_a_note_and_copies_on_one_side_no_leak():
    train, val = np.arange(ROWS - 200), np.arange(ROWS - 200, ROWS)
    findings = audit(twice(honest(0), 1), train, val, 0)
    (found,) = named(findings, "duplicates across splits", "note")
    assert "0.5 % of a score on 200 rows, whose 95 % interval is ± 6.9 %" in found.effect
    assert not leaks(findings)
    findings = audit(twice(honest(0), 60), np.arange(100, ROWS), np.arange(60, 100), 0)
    assert not named(findings, "duplicates across splits") and named(findings, "duplicates")
    assert not leaks(audit(twice(honest(0), 60), np.arange(ROWS), None, 0))


def test_coarse_columns_whose_rows_meet_by_chance_are_no_leak():
    random = np.random.default_rng(0)
    raw = changed(honest(0), features=random.integers(0, 2, (ROWS, 4)).astype(float))
    (found,) = named(look(raw), "duplicates across splits", "note")
    assert "independent rows" in found.text


@pytest.mark.parametrize("seed", SEEDS)
def test_contradictions_bound_what_can_be_reached(seed):
    findings = look(twice(honest(seed), 60, other=True))
    (found,) = named(findings, "contradictions", "warning")
    assert found.count == 120 and "120 of 600" in found.text and "more than 90.0 %" in found.effect


def test_contradicting_numbers_bound_the_explained_variance():
    raw = honest(0, "number")
    values = raw.dev["answer"] + np.arange(ROWS)
    half = {name: np.concatenate([column[: ROWS // 2]] * 2) for name, column in raw.dev.items()}
    (found,) = named(
        look(dataclasses.replace(raw, dev={**half, "answer": values})), "contradictions"
    )
    within = np.stack([values[: ROWS // 2], values[ROWS // 2 :]])
    assert f"{100 * (1 - within.var(0).mean() / values.var()):.1f} %" in found.effect


def test_rows_are_equal_when_all_their_cells_are():
    numbers = np.array([[0.0, np.nan], [-0.0, -np.nan], [0.0, 1.0], [0.0, np.nan]])
    texts = np.array(["a", "a", "a", "b"], object)
    raw = Dataset({"n": numbers, "t": texts}, {"n": "number", "t": "category"}, {}, {})
    assert compute_row_ids(raw, ["n"]).tolist() == [0, 0, 1, 0]
    assert compute_row_ids(raw, ["n", "t"]).tolist() == [0, 0, 1, 2]
    lists = Ragged(np.array([1, 2, 1, 2, 12, 1, 2]), np.array([0, 2, 4, 5, 5, 7]))
    assert compute_row_ids(Dataset({"w": lists}, {"w": "bag"}, {}, {}), ["w"]).tolist() == [
        0,
        0,
        1,
        2,
        0,
    ]
    pair = np.array([["ab", "c"], ["a", "bc"], ["ab", "c"]], object)
    assert compute_row_ids(Dataset({"p": pair}, {"p": "category"}, {}, {}), ["p"]).tolist() == [
        0,
        1,
        0,
    ]


def test_copied_images_and_texts_are_a_leak():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (200, 1, 5, 5), dtype=np.uint8)
    lists = Ragged(random.integers(1, 50, 2000), np.arange(0, 2001, 10))
    raw = Dataset({"i": images, "y": np.arange(200) % 2}, {"i": "image"}, {"y": "binary"}, {})
    texts = Dataset(
        {"w": lists, "y": np.arange(200) % 2}, {"w": "bag"}, {"y": "binary"}, {"w": (MultiHot(50),)}
    )
    for clean in (raw, texts):
        rows = np.arange(200)
        assert not leaks(audit(clean, rows[:150], rows[150:], 0))
        rows[150:160] = rows[:10]
        again = dataclasses.replace(
            clean, dev={name: column[rows] for name, column in clean.dev.items()}
        )
        (leak,) = leaks(audit(again, np.arange(150), np.arange(150, 200), 0))
        assert "10 of 50 validation rows (20.0 %)" in leak.text


@pytest.mark.parametrize("seed", SEEDS)
def test_owners_on_both_sides_are_a_leak_unless_split_by_owner(seed):
    owners = np.random.default_rng(seed).integers(0, 40, ROWS).astype(str).astype(object)
    raw = dataclasses.replace(changed(honest(seed), owner=owners), group="owner")
    (leak,) = leaks(look(raw, "stratified", seed))
    assert leak.columns == ("owner",) and leak.count == 150 and "150 of 150" in leak.text
    assert not leaks(look(raw, "group", seed)) and not leaks(look(raw, "auto", seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_validation_before_training_is_a_leak_unless_split_by_time(seed):
    times = np.random.default_rng(seed).permutation(ROWS).astype(float)
    raw = dataclasses.replace(changed(honest(seed), when=times), order="when")
    train, val = split_validation(raw, 0.25, "auto", seed)
    (leak,) = leaks(audit(raw, train, val, seed))
    assert leak.columns == ("when",) and leak.count == (times[val] < times[train].max()).sum()
    findings = look(raw, "time", seed)
    assert not leaks(findings) and named(findings, "rows not in time order", "note")


def test_what_is_irregular_in_time_is_told():
    regular = np.arange(ROWS) * 60.0
    raw = dataclasses.replace(changed(honest(0), when=regular), order="when")
    quiet = {"repeated times", "gaps in time", "rows not in time order"}
    assert not quiet & {one.what for one in look(raw, "time")}
    broken = regular + 6000 * (np.arange(ROWS) >= 300)
    broken[10:15] = broken[9]
    findings = look(changed(raw, when=broken), "time")
    assert named(findings, "repeated times")[0].count == 5
    assert (
        "once" in named(findings, "gaps in time")[0].text
        and "6060" in named(findings, "gaps in time")[0].text
    )
    panel = dataclasses.replace(
        changed(raw, when=regular // 120, owner=np.tile(["a", "b"], ROWS // 2)), group="owner"
    )
    assert not quiet & {one.what for one in look(panel, "time")}


def test_classes_that_are_rare_absent_or_lopsided_are_told():
    raw = dataclasses.replace(
        honest(0), targets={"answer": "category"}, labels={"answer": ("x", "y", "z", "w")}
    )
    answer = np.zeros(ROWS, np.int64)
    answer[300:] = 1
    answer[:5] = 2
    findings = audit(changed(raw, answer=answer), np.arange(450), np.arange(450, 600), 0)
    assert "z (5)" in named(findings, "classes with few rows")[0].text
    assert "w (0)" in named(findings, "classes with few rows")[0].text
    assert named(findings, "classes without validation rows")[0].text.endswith("x, z")
    assert "x 295 + 0" in named(findings, "imbalance", "warning")[0].text
    answer[460] = 3
    findings = audit(changed(raw, answer=answer), np.arange(450), np.arange(450, 600), 0)
    assert " w " in named(findings, "classes without training rows", "warning")[0].text
    assert "w (" not in named(findings, "classes with few rows")[0].text


def test_class_names_as_text_are_counted_like_numbers():
    raw, names = honest(0), np.array(["no", "yes"], object)
    text = changed(
        dataclasses.replace(raw, labels={**raw.labels, "answer": ("no", "yes")}),
        answer=names[raw.dev["answer"]],
    )
    number = dataclasses.replace(raw, labels={**raw.labels, "answer": ("no", "yes")})
    assert look(text) == look(number)


def test_capped_repeated_and_skewed_numbers_are_told():
    raw = honest(0, "number")
    answer = raw.dev["answer"]
    (found,) = named(look(changed(raw, answer=answer.clip(max=2))), "capped target", "warning")
    assert found.count == (answer >= 2).sum() and "largest answer, 2" in found.text
    assert (
        "smallest" in named(look(changed(raw, answer=answer.clip(min=-2))), "capped target")[0].text
    )
    assert named(
        look(changed(raw, answer=np.where(np.arange(ROWS) % 4, answer, 0.5))), "one repeated value"
    )
    assert named(look(changed(raw, answer=np.exp(2 * answer))), "skew")
    whole = look(changed(raw, answer=np.round(np.abs(answer) * 10)))
    assert not named(whole, "capped target") and not named(whole, "skew")


def test_constant_and_missing_columns_are_named_wherever_they_are():
    raw = honest(0)
    features = raw.dev["features"].copy()
    features[::3, 1] = np.nan
    features[:-30, 2] = np.nan
    features[:, 3] = 7
    town = raw.dev["town"].copy()
    town[:6] = ""
    findings = look(changed(raw, features=features, town=town))
    assert named(findings, "constant columns", "note")[0].columns == ("d",)
    assert named(findings, "mostly missing columns", "warning")[0].columns == ("c",)
    assert named(findings, "missing values", "note")[0].columns == ("b", "town")
    assert "b in 33.3 %, town in 1.0 %" in named(findings, "missing values")[0].text
    town[:] = "ash"
    assert named(look(changed(raw, town=town)), "constant columns")[0].columns == ("town",)


def test_numbers_that_no_step_makes_finite_are_a_warning():
    raw = honest(0)
    features = raw.dev["features"].copy()
    features[:40, 2] = np.nan
    gaps = changed(raw, features=features)
    assert not named(look(gaps), "not finite")
    (found,) = named(look(dataclasses.replace(gaps, preprocessors={})), "not finite", "warning")
    assert found.columns == ("c",)
    features[5, 0] = np.inf
    (found,) = named(
        audit(changed(raw, features=features), np.arange(500), np.arange(500, ROWS), 0),
        "not finite",
    )
    assert found.columns == ("a",)


@pytest.mark.parametrize("scaling", [StandardScaler(), MinMaxScaler()])
def test_columns_of_different_scales_are_a_warning_until_they_are_scaled(scaling):
    raw = honest(0)
    for factors in ([1, 1, 1, 1000], [0.001, 0.001, 0.001, 1], [1, 1, 1, 1]):
        shift = 500 if factors == [1, 1, 1, 1] else 0
        wild = changed(raw, features=raw.dev["features"] * factors + shift)
        (found,) = named(
            look(dataclasses.replace(wild, preprocessors={})), "unscaled inputs", "warning"
        )
        assert shift or "d" in found.columns
        assert not named(
            look(dataclasses.replace(wild, preprocessors={"features": (scaling,)})),
            "unscaled inputs",
        )
    assert not named(look(dataclasses.replace(raw, preprocessors={})), "unscaled inputs")


def test_row_numbers_and_names_of_rows_are_told_and_worse_when_rows_are_sorted():
    raw = honest(0, "number")
    note = named(look(with_column(raw, "id", np.arange(ROWS))), "row numbers", "note")
    assert note[0].columns == ("id",)
    order = np.argsort(raw.dev["answer"] + np.random.default_rng(0).normal(size=ROWS))
    ordered = dataclasses.replace(
        raw, dev={name: column[order] for name, column in raw.dev.items()}
    )
    assert named(
        look(with_column(ordered, "id", np.arange(ROWS) + 10_000)), "row numbers", "warning"
    )
    assert not named(look(with_column(raw, "id", np.arange(ROWS) ** 2)), "row numbers")
    people = np.array([f"person {row}" for row in range(ROWS)], object)
    assert named(look(changed(raw, town=people)), "a column of names", "warning")[0].columns == (
        "town",
    )


def test_findings_are_ranked_and_the_same_each_time():
    raw = with_column(twice(honest(0), 60), "leaky", np.zeros(ROWS))
    raw.dev["features"][:, -1] = raw.dev["answer"]
    findings = look(raw)
    ranks = [SEVERITY_ORDER.index(one.severity) for one in findings]
    assert ranks == sorted(ranks) and set(ranks) == {0, 1, 2}
    assert findings == look(raw)
    assert all(one.text and one.text[-1] != "." and "nan" not in one.text for one in findings)


real = pytest.mark.skipif(
    not Path(os.environ.get("DLRUN_DATA", "none")).is_dir(), reason="needs DLRUN_DATA"
)


@real
@pytest.mark.slow
@pytest.mark.parametrize("task", ["mnist", "imdb", "reuters"])
def test_official_datasets_have_no_leak_but_in_reuters(task):
    load = {
        "mnist": lambda: mnist.mnist(source="official", pool=False),
        "imdb": lambda: imdb_reuters.imdb(source="official", words=10_000, pool=False, **BAG),
        "reuters": lambda: imdb_reuters.reuters(source="official", words=10_000, **BAG),
    }
    raw = dataclasses.replace(load[task](), test=forbidden)
    split = split_validation(raw, 0.2, "auto", 0)
    findings = audit(raw, *split, 0)
    across = named(findings, "duplicates across splits")
    severity = {
        "mnist": [],
        "imdb": ["note"],
        "reuters": ["leak"],
    }  # Reuters sent some newswires again and again
    assert [one.severity for one in across] == severity[task]
    assert leaks(findings) == [one for one in across if one.severity == "leak"]
