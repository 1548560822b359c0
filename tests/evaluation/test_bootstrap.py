"""Laws of the intervals: what they cover, when a difference is real, and when there is nothing to say."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from sklearn import metrics as reference

from dlrun.evaluation import bootstrap
from dlrun.evaluation.metrics import compute_mean_score
from dlrun.evaluation.split_metrics import CLASS_METRICS, SplitMetric, make_row_metric

N = 400
ROWS = np.arange(N)


def noise(seed=0):
    return np.random.default_rng(seed)


def values(seed=0, n=N):
    return noise(seed).gamma(2.0, 1.0, n)


def ends(found):
    return found.value, found.low, found.high


def test_a_model_does_not_differ_from_itself():
    one = values()
    found = bootstrap.compute_paired_interval(one, one, ROWS, seed=0)
    assert ends(found) == (0, 0, 0) and not found.is_nonzero and found.why and found.n == N
    measure = SplitMetric("roc_auc", "binary").make_row_metric(
        noise().random((N, 1)), noise(1).integers(0, 2, (N, 1))
    )
    same = bootstrap.compute_paired_interval(measure, measure, ROWS, telling=0, seed=0)
    assert ends(same) == (0, 0, 0) and not same.is_nonzero
    unknown = bootstrap.compute_paired_interval(measure, measure, ROWS, seed=0)
    assert unknown.value == 0 and not unknown.is_nonzero


def test_the_other_way_round_is_the_same_with_another_sign():
    one, other = values(), values() + noise(2).normal(0.1, 0.3, N)
    there, back = (
        bootstrap.compute_paired_interval(one, other, ROWS, seed=0),
        bootstrap.compute_paired_interval(other, one, ROWS, seed=0),
    )
    assert (
        np.allclose(ends(there), [-back.value, -back.high, -back.low])
        and there.is_nonzero
        and back.is_nonzero
    )
    assert there.low < there.value < there.high


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_another_unit_changes_only_the_unit(factor):
    plain = bootstrap.compute_mean_interval(values(), seed=0)
    assert np.allclose(
        ends(bootstrap.compute_mean_interval(values() * factor, seed=0)),
        np.array(ends(plain)) * factor,
    )
    moved = bootstrap.compute_mean_interval(values() + factor, seed=0)
    assert np.allclose(np.array(ends(moved)) - factor, ends(plain), atol=1e-8 * factor)


def test_rows_that_are_all_different_are_their_own_units():
    one, ids = values(), noise(3).permutation(N) * 7 + 3
    assert bootstrap.compute_mean_interval(one, ids, seed=0) == bootstrap.compute_mean_interval(
        one, seed=0
    )
    measure = SplitMetric("r2", "number").make_row_metric(one + noise(1).normal(size=N), one)
    assert bootstrap.compute_interval(measure, ids, seed=0) == bootstrap.compute_interval(
        measure, ROWS, seed=0
    )


def test_rows_that_come_three_times_are_no_more_rows():
    one, times = values(), 3
    repeated, ids = np.tile(one, times), np.tile(ROWS, times)
    once, thrice = (
        bootstrap.compute_mean_interval(one, seed=0),
        bootstrap.compute_mean_interval(repeated, ids, seed=0),
    )
    assert np.allclose(ends(thrice), ends(once)) and thrice.n == once.n == N
    naive = bootstrap.compute_mean_interval(repeated, seed=0)
    assert (once.high - once.low) / (naive.high - naive.low) == pytest.approx(
        math.sqrt(times), rel=0.05
    )
    truth = one + noise(1).normal(size=N)
    wholes = (
        SplitMetric("r2", "number").make_row_metric(one, truth),
        SplitMetric("r2", "number").make_row_metric(repeated, np.tile(truth, times)),
    )
    first, second = (
        bootstrap.compute_interval(w, rows, seed=0)
        for w, rows in zip(wholes, (ROWS, ids), strict=True)
    )
    assert np.allclose(ends(first), ends(second), rtol=1e-6) and first.n == second.n


def test_the_same_seed_gives_the_same_interval_and_another_another():
    found = [bootstrap.compute_mean_interval(values(), seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2] and found[0].value == found[2].value


@pytest.mark.parametrize("n", [2_000, 20_000])
def test_a_large_sample_has_the_normal_interval(n):
    one = values(n=n)
    found, normal = (
        bootstrap.compute_mean_interval(one, seed=0),
        compute_mean_score(one.sum(), (one**2).sum(), n),
    )
    assert found.high - found.low == pytest.approx(normal.high - normal.low, rel=0.05)
    assert found.low == pytest.approx(normal.low, rel=0.05) and found.high == pytest.approx(
        normal.high, rel=0.05
    )


def test_a_finish_is_applied_to_value_and_ends_alike():
    squares = bootstrap.compute_mean_interval(values() ** 2, seed=0)
    roots = bootstrap.compute_mean_interval(values() ** 2, finish=math.sqrt, seed=0)
    assert np.allclose(np.square(ends(roots)), ends(squares), rtol=1e-3)
    less = bootstrap.compute_paired_interval(
        values() ** 2, values() ** 2 * 0.25, ROWS, finish=math.sqrt, seed=0
    )
    assert less.value == pytest.approx(-roots.value / 2) and less.is_nonzero


def test_resamples_of_many_rows_are_drawn_many_at_a_time(monkeypatch):
    one, drawn, ordinary = values(n=10_000), [], np.random.default_rng

    class Counted:
        def __init__(self, seed):
            self.random = ordinary(seed)

        def integers(self, low, high, size, dtype):
            drawn.append(size)
            return self.random.integers(low, high, size, dtype)

    monkeypatch.setattr(np.random, "default_rng", Counted)
    bootstrap.compute_mean_interval(one, seed=0)
    assert sum(times for times, _ in drawn) == bootstrap.NUM_MEAN_RESAMPLES and len(drawn) <= 20
    assert all(times * rows <= bootstrap.CHUNK_NUMBERS for times, rows in drawn)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (np.ones(0), "0 rows are too few"),
        (values(n=19), "19 rows are too few"),
        (np.ones(N), "all rows have the same value"),
        (np.where(ROWS == 7, np.nan, 1.0), "not defined"),
    ],
)
def test_where_there_is_nothing_to_say_it_is_said(one, why):
    found = bootstrap.compute_mean_interval(one, seed=0)
    assert why in found.why and found.low is None and found.high is None and not found.is_nonzero


def test_repeats_do_not_make_many_of_few():
    assert "10 rows are too few" in bootstrap.compute_mean_interval(values(), ROWS % 10, seed=0).why


def test_a_statistic_without_a_value_or_without_spread_has_no_interval():
    assert "not defined" in bootstrap.compute_interval(lambda chosen: math.nan, ROWS, seed=0).why
    sometimes = bootstrap.compute_interval(
        lambda chosen: 1.0 if 7 in chosen else math.nan, ROWS, seed=0
    )
    assert "resamples" in sometimes.why and sometimes.value == 1
    apart = SplitMetric("roc_auc", "binary").make_row_metric(
        ROWS[:, None] / N, (ROWS > 300)[:, None]
    )
    assert "same value" in bootstrap.compute_interval(apart, ROWS, telling=99, seed=0).why


@pytest.mark.parametrize("rows", [100, 10_000])
def test_a_handful_of_rows_apart_is_no_proof(rows):
    same = np.ones(rows)
    for apart, real in ((1, False), (3, False), (5, False), (12, True)):
        worse = np.where(np.arange(rows) < apart, 0.0, same)
        assert (
            bootstrap.compute_paired_interval(worse, same, np.arange(rows), seed=0).is_nonzero
            == real
        ), apart


def test_better_on_every_row_by_as_much_is_real():
    assert bootstrap.compute_paired_interval(values(), values() + 1, ROWS, seed=0).is_nonzero


def test_ids_and_values_must_fit():
    with pytest.raises(ValueError, match="3 row ids for 400 values"):
        bootstrap.compute_mean_interval(values(), ROWS[:3], seed=0)


@pytest.mark.parametrize("seed", range(8))
def test_measures_of_a_whole_split_are_those_of_scikit_learn_on_any_resample(seed):
    random = noise(seed)
    n, size = int(random.integers(60, 200)), int(random.integers(3, 8))
    chosen = random.integers(0, n, n)
    two = (random.random((n, 1)) < 0.3).astype(np.float32)
    likely = np.round(random.random((n, 1)) * 0.6 + 0.4 * two, 1)  # with ties
    many = random.integers(0, size, n)
    shares = random.dirichlet(np.ones(size), n)
    labels = (random.random((n, size)) < 0.3).astype(float)
    marks = np.round(random.random((n, size)) * 0.6 + 0.4 * labels, 1)
    number = random.normal(size=(n, 1))
    guess = number + random.normal(size=(n, 1))
    for name in CLASS_METRICS:
        score = getattr(reference, f"{name}_score")
        ours = SplitMetric(name, "binary", "macro").make_row_metric(likely, two)(chosen)
        assert ours == pytest.approx(score(two[chosen], likely[chosen] > 0.5, zero_division=0))
        for average in ("macro", "micro", "weighted"):
            how = {"average": average, "zero_division": 0}
            ours = SplitMetric(name, "category", average).make_row_metric(shares, many)(chosen)
            assert ours == pytest.approx(score(many[chosen], shares[chosen].argmax(1), **how))
            ours = SplitMetric(name, "multilabel", average).make_row_metric(marks, labels)(chosen)
            assert ours == pytest.approx(score(labels[chosen], marks[chosen] > 0.5, **how))
    for name, score in (
        ("roc_auc", reference.roc_auc_score),
        ("pr_auc", reference.average_precision_score),
    ):
        assert SplitMetric(name, "binary").make_row_metric(likely, two)(chosen) == pytest.approx(
            score(two[chosen], likely[chosen])
        )
        ours = SplitMetric(name, "multilabel").make_row_metric(marks, labels)(chosen)
        assert ours == pytest.approx(score(labels[chosen], marks[chosen]))
    against_rest = reference.roc_auc_score(
        many[chosen], shares[chosen], multi_class="ovr", labels=range(size)
    )
    assert SplitMetric("roc_auc", "category").make_row_metric(shares, many)(
        chosen
    ) == pytest.approx(against_rest)
    assert SplitMetric("r2", "number").make_row_metric(guess, number)(chosen) == pytest.approx(
        reference.r2_score(number[chosen], guess[chosen])
    )


def test_a_class_that_does_not_occur_is_left_out_and_nothing_left_is_nan():
    truth, answers = noise().integers(0, 2, 50), noise(1).dirichlet(np.ones(4), 50)
    both = [
        SplitMetric("roc_auc", "binary")(answers[:, k : k + 1], (truth == k)[:, None])
        for k in (0, 1)
    ]
    assert SplitMetric("roc_auc", "category")(answers, truth) == pytest.approx(np.mean(both))
    for measure in (
        SplitMetric("roc_auc", "binary"),
        SplitMetric("pr_auc", "binary"),
        SplitMetric("r2", "number"),
    ):
        assert math.isnan(measure(answers[:, :1], np.zeros((50, 1))))


def test_anybodys_measure_of_a_split_can_be_resampled():
    largest = make_row_metric(
        lambda answers, targets: float(answers.max() - targets.min()), values(), values(1)
    )
    assert largest(np.array([3, 3, 5])) == max(values()[[3, 5]]) - min(values(1)[[3, 5]])


def said_by_chance(times, rows, seed):
    """How often two models that both learned nothing (shuffled labels) seem to differ."""
    random, real = noise(seed), 0
    for _ in range(times):
        truth, one, other = random.integers(0, 2, (3, rows))
        real += bootstrap.compute_paired_interval(
            (one == truth) * 1.0, (other == truth) * 1.0, np.arange(rows), seed=0
        ).is_nonzero
    return real


def test_models_of_shuffled_labels_differ_about_once_in_twenty():
    assert (
        1 <= said_by_chance(200, 200, seed=4) <= 20
    )  # 10 expected; beyond these ends once in a few hundred


def covered(found, truth):
    """The share of intervals that hold the truth."""
    assert len(found) == 500 and all(one.low is not None for one in found)
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def accuracies(random, n=300):
    right = (random.random(n) < 0.87).astype(float)
    return compute_mean_score(right.sum(), right.sum(), n)


def errors(random, n=300):
    error = abs(random.normal(size=n))
    return compute_mean_score(error.sum(), (error**2).sum(), n)


def areas(random, n=200):
    truth = (np.arange(n) < n / 4).astype(float)[:, None]
    measure = SplitMetric("roc_auc", "binary")
    return bootstrap.compute_interval(
        measure.make_row_metric(random.normal(size=(n, 1)) + 1.5 * truth, truth),
        np.arange(n),
        telling=measure.count_small_class(truth),
        seed=0,
    )


def differences(random, n=1000):
    hard = random.random(n)
    again = np.where(random.random(n) < 0.7, hard, random.random(n))
    return bootstrap.compute_paired_interval(
        (hard < 0.85) * 1.0, (again < 0.88) * 1.0, np.arange(n), seed=0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (accuracies, 0.87),
        (errors, math.sqrt(2 / math.pi)),
        (areas, NormalDist().cdf(1.5 / math.sqrt(2))),
        (differences, 0.03),
    ],
)
def test_a_nominal_95_percent_interval_covers_the_truth_of_500_splits(draw, truth, record_property):
    random = noise(11)
    share = covered([draw(random) for _ in range(500)], truth)
    record_property("coverage", share)
    print(f"{draw.__name__}: {share:.3f}")
    assert 0.92 <= share <= 0.98


@pytest.mark.slow
def test_chance_is_called_real_as_often_as_it_should_be():
    share = said_by_chance(2000, 500, seed=5) / 2000
    print(f"called real by chance: {share:.4f}")
    assert 0.03 <= share <= 0.065
