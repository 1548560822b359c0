"""The workflow's judgement on strangers' data: what it calls a leak, how it reads curves, and what it recommends."""

import numpy as np
import pytest

from dlrun.cli import main
from dlrun.data.audit import Finding, audit
from dlrun.errors import Refused

SHORT = ["protocol=holdout", "engine.epochs=1", "engine.batch_size=256", "workflow.budget=1", "workflow.ladder={}"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dlrun.report.write.write", lambda folder: [folder / "report.html"])


def customers(seed=0, rows=2500):
    """Contracts of customers: months, plan and price are bound up, so that new customers look alike."""
    random = np.random.default_rng(seed)
    plan = random.choice(["basic", "fast", "both"], rows, p=[0.5, 0.3, 0.2])
    months = random.geometric(0.04, rows)
    price = np.select([plan == "basic", plan == "fast"], [20, 55], 90) + random.integers(-8, 9, rows) / 4
    paid = np.where(random.random(rows) < 0.3, random.choice(["card", "check"], rows), "transfer")
    left = np.where(random.random(rows) < 0.2 + 0.3 * (plan == "fast"), "yes", "no")
    total = np.where(months == 1, price, np.round(months * price + random.normal(0, 9, rows), 1))
    return {"plan": plan, "months": months, "price": price, "paid": paid, "total": total, "left": left}


def write(columns, order=None):
    order = np.arange(len(columns["left"])) if order is None else order
    rows = zip(*(column[order] for column in columns.values()), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    with open("table.csv", "w") as file:
        file.write("\n".join(lines) + "\n")
    return ["task=csv", "data.path=table.csv", "data.target=left"]


@pytest.fixture
def audited(monkeypatch):
    """The findings of a workflow that ends after its audit, by what they are."""
    found = []

    def enough(*arguments):
        found.extend(audit(*arguments))
        raise Refused("the audit is enough")

    def findings(words):
        monkeypatch.setattr("dlrun.workflow.course.audit", enough)
        assert main(["workflow", *words, *SHORT]) == 2 and found
        return {finding.what: finding for finding in found}

    return findings


def test_row_28_look_alikes_among_coarse_columns_are_no_leak(audited):
    found = audited(write(customers()))
    across = found["duplicates across splits"]
    assert across.severity == "note" and "independent rows" in across.text
    assert found["duplicates"].severity == "note"


def test_row_28_equal_rows_with_other_identifiers_are_no_copies(audited):
    columns = customers()
    names = np.array([f"C-{n:05d}" for n in np.random.default_rng(1).permutation(len(columns["left"]))])
    across = audited(write({"customer": names} | columns))["duplicates across splits"]
    assert across.severity == "note"


def test_row_28_copies_are_a_leak_also_among_look_alikes(audited):
    columns, random = customers(), np.random.default_rng(2)
    order = np.arange(len(columns["left"]))
    order[random.choice(len(order), 400, False)] = random.choice(len(order), 400)
    across = audited(write(columns, order))["duplicates across splits"]
    assert across.severity == "leak" and "at most" in across.effect


def test_row_28_many_equal_rows_under_new_names_are_a_warning(audited):
    columns, random = customers(), np.random.default_rng(2)
    order = np.arange(len(columns["left"]))
    order[random.choice(len(order), 400, False)] = random.choice(len(order), 400)
    columns = {name: values[order] for name, values in columns.items()}
    columns["record"] = np.array([f"R{n}x" for n in range(len(order))])
    across = audited(write(columns))["duplicates across splits"]
    assert across.severity == "warning" and "record: look-alikes, not copies" in across.text


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(lambda r: r.choice([3, 4, 5, 6, 7, 8], 400, p=[0.02, 0.08, 0.4, 0.4, 0.08, 0.02]), id="ratings"),
        pytest.param(lambda r: np.where(r.random(400) < 0.4, 0, r.gamma(2, 5, 400).round(2)), id="zeros"),
    ],
)
def test_row_28_ratings_and_zeros_are_no_faults_of_a_target(target, audited):
    random = np.random.default_rng(0)
    columns = {"a": random.normal(size=400).round(3), "b": random.normal(size=400).round(3), "left": target(random)}
    words = [*write(columns), "data.kind=number"]
    assert {f.severity for f in audited(words).values()} == {"note"}


def test_row_28_every_alarm_says_what_it_can_do_to_a_score():
    for severity in ("leak", "warning"):
        with pytest.raises(ValueError, match="does not say"):
            Finding(severity, "x", "y")
    assert Finding("warning", "x", "evidence", effect="harm").told == "evidence; effect: harm"
