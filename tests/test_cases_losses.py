"""Reported cases about losses, batches of one row, steps that are none, and the scale of what is predicted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from laboratory import node

from dlrun.build import build
from dlrun.cli import main
from dlrun.errors import Refused
from dlrun.optim import Moment
from dlrun.places import conf_folder, options
from dlrun.types import Field

CASES = Path(__file__).parent / "fixtures" / "cases"
PLAIN = ["callback=none", "engine.device=cpu"]

pytestmark = pytest.mark.usefixtures("elsewhere")


def train(folder, *words, code=0):
    """The one run folder that these words leave somewhere in `folder`."""
    output = tempfile.mkdtemp(dir=folder)
    assert main([*words, f"output={output}"]) == code
    (found,) = [path.parent for path in Path(output).glob("*/*/*/config.yaml")]
    return found


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def losses(run, split="val"):
    return [row["values"]["loss"] for row in lines(run / "history.jsonl") if row["split"] == split]


# Row 1, 2 and 16: losses

RAW = torch.Generator().manual_seed(3)
ROWS = 11


def normal(*shape):
    return torch.randn(*shape, generator=RAW)


def shares(*shape):
    return normal(*shape).softmax(-1)


def classes(size, *shape):
    return torch.randint(size, shape, generator=RAW)


CLASS = Field("category", (), 3, ("a", "b", "c"), torch.tensor([0.2, 0.5, 0.3]))
YES = Field("binary", (1,), 0, ("no", "yes"), torch.tensor([0.2]))
LABELS = Field("multilabel", (3,), 3, ("p", "q", "r"), torch.tensor([0.1, 0.5, 0.9]))
TARGETS = {  # kind → fields with answers and truths of ROWS rows, hard and soft
    "category": (CLASS, normal(ROWS, 3), [classes(3, ROWS), shares(ROWS, 3)]),
    "binary": (YES, normal(ROWS, 1), [classes(2, ROWS, 1).float(), shares(ROWS, 2)[:, :1]]),
    "multilabel": (LABELS, normal(ROWS, 3), [classes(2, ROWS, 3).float(), shares(ROWS, 3)]),
    "tokens": (
        Field("tokens", (4,), 3, ("", "x", "y"), torch.tensor([0.1, 0.6, 0.3])),
        normal(ROWS, 4, 3),
        [classes(3, ROWS, 4)],
    ),
    "number": (Field("number", (2,), prior=torch.zeros(2)), normal(ROWS, 2), [normal(ROWS, 2)]),
    "fraction": (Field("fraction", (1,), prior=torch.tensor([0.4])), normal(ROWS, 1), [shares(ROWS, 2)[:, :1]]),
}
SETTINGS = {"label_smoothing": [0.0, 0.2], "class_weights": [None, "balanced", [1, 2, 3], [1, 4]]}


def choices(name):
    """Settings of a registered loss: as they are, and each of SETTINGS that it has, changed alone and with others."""
    own = node("loss", name)
    found = [own]
    for key, values in SETTINGS.items():
        found = [{**one, key: value} for one in found for value in values] if key in own else found
    return found


def made(name, field):
    """Every form of a loss that this kind of target can have."""
    for own in choices(name):
        try:
            yield own, build(own, field)
        except Refused:
            continue


@pytest.mark.parametrize("name", options(conf_folder(), "loss"))
def test_row_01_no_loss_depends_on_how_rows_are_batched(name):
    seen = 0
    for field, raw, truths in TARGETS.values():
        for truth, (own, loss) in [(truth, one) for truth in truths for one in made(name, field)]:
            whole = float(loss(raw, truth))
            for size in (1, 2, 3, 7):
                parts = [
                    float(loss(*part)) * len(part[0]) for part in zip(raw.split(size), truth.split(size), strict=True)
                ]
                assert sum(parts) / ROWS == pytest.approx(whole, rel=1e-5), (own, field.kind, size)
            seen += 1
    assert seen


def weighted(tmp_path, *words):
    common = ["task=csv", f"data.path={CASES}/weights_train.csv", "data.target=k", "model=linear", "optimizer=sgd"]
    common += [f"data.test_path={CASES}/weights_test.csv", "loss=cross_entropy", "loss.class_weights=balanced"]
    return train(tmp_path, *common, "optimizer.lr=0.5", "engine.epochs=3", *PLAIN, *words)


def test_row_01_a_weighted_loss_is_the_same_however_it_is_evaluated(tmp_path):
    sizes = [losses(weighted(tmp_path, "protocol.validation=0.3", f"engine.eval_batch_size={n}")) for n in (1, 4, 1000)]
    for other in sizes[1:]:
        assert other == pytest.approx(sizes[0], rel=1e-5)


def test_row_01_a_weighted_loss_is_the_same_accumulated_and_stacked(tmp_path):
    whole = weighted(tmp_path, "engine.batch_size=6")
    parts = weighted(tmp_path, "engine.batch_size=2", "engine.accumulate=3")
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    folds = ["protocol=kfold", "protocol.folds=3", "engine.batch_size=7"]
    alone = weighted(tmp_path, *folds, "protocol.stacked=false")
    as_one = weighted(tmp_path, *folds, "protocol.stacked=true")
    assert sorted(losses(as_one)) == pytest.approx(sorted(losses(alone)), rel=1e-4)


def test_row_01_class_weights_act_on_single_rows():
    for name, field, raw, weights in (
        ("cross_entropy", CLASS, torch.zeros(1, 3), [1.0, 2.0, 5.0]),
        ("focal", CLASS, torch.zeros(1, 3), [1.0, 2.0, 5.0]),
    ):
        plain, own = (build(node("loss", name, class_weights=each), field) for each in (None, weights))
        for label, weight in enumerate(weights):
            target = torch.tensor([label])
            assert float(own(raw, target)) == pytest.approx(weight * float(plain(raw, target)))


def test_row_02_whole_numbers_are_class_weights(tmp_path):
    words = ["task=wine", "loss=cross_entropy", "engine.epochs=1", *PLAIN]
    found = [losses(train(tmp_path, *words, f"loss.class_weights={w}")) for w in ("[1,2,3]", "[1.0,2.0,3.0]")]
    assert found[0] == found[1]


def numbers(group):
    """(option, key, whole numbers in the place of its numbers) of every part of a group."""
    for name in options(conf_folder(), group):
        own = yaml.safe_load((conf_folder() / group / f"{name}.yaml").read_text())
        for key, value in node(group, name).items() if "_target_" in own else ():
            if isinstance(value, float):
                yield name, key, 1 if value >= 0.5 else 0
            elif isinstance(value, list) and any(isinstance(each, float) for each in value):
                yield name, key, [0] * len(value)


@pytest.mark.parametrize(("name", "key", "value"), [*numbers("optimizer")])
def test_row_02_optimizers_take_whole_numbers(name, key, value):
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    moved = []
    for each in (value, [float(one) for one in value] if isinstance(value, list) else float(value)):
        torch.nn.init.ones_(weights[0])
        optimizer = build(node("optimizer", name, **{key: each}), [{"params": weights}])
        weights[0].grad = torch.full((2, 2), 0.3)
        optimizer.step()
        moved.append(weights[0].detach().clone())
    assert torch.equal(*moved)


BINARY = "a,y\n" + "".join(f"{(7 * n) % 10 - 5},{'yes' if n % 5 == 0 else 'no'}\n" for n in range(60))


@pytest.mark.parametrize("loss", ["auto", "bce", "focal"])
def test_row_16_two_classes_have_weights(tmp_path, loss):
    Path("t.csv").write_text(BINARY)
    words = ["task=csv", "data.path=t.csv", "data.target=y", "model=linear", f"loss={loss}", "engine.epochs=1", *PLAIN]
    for weights in ("balanced", "[1,4]"):
        found = losses(train(tmp_path, *words, f"loss.class_weights={weights}"))
        assert found != losses(train(tmp_path, *words))


def test_row_16_balanced_weights_have_the_mean_one_and_labels_have_their_own():
    one = lambda field, **own: build(node("loss", "bce", **own), field)  # noqa: E731
    zero, yes, no = torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1)
    plain, balanced = one(YES), one(YES, class_weights="balanced")
    assert float(balanced(zero, yes)) == pytest.approx(float(plain(zero, yes)) / (2 * 0.2))
    assert float(balanced(zero, no)) == pytest.approx(float(plain(zero, no)) / (2 * 0.8))
    labels, given = one(LABELS, class_weights="balanced"), one(LABELS, class_weights=[1, 2, 3])
    log2 = float(torch.tensor(2.0).log())
    assert float(labels(torch.zeros(1, 3), torch.ones(1, 3))) == pytest.approx(log2 * (1 / 0.2 + 1 + 1 / 1.8) / 3)
    assert float(given(torch.zeros(1, 3), torch.ones(1, 3))) == pytest.approx(log2 * 2)
    assert float(given(torch.zeros(1, 3), torch.zeros(1, 3))) == pytest.approx(log2)


@pytest.mark.parametrize("name", ["bce", "focal", "cross_entropy"])
def test_row_16_weights_of_another_number_are_refused(name):
    field = CLASS if name == "cross_entropy" else YES
    with pytest.raises(Refused, match="1 class weights for [23] classes"):
        build(node("loss", name, class_weights=[1]), field)


# Row 21: counting


@pytest.mark.parametrize(("every", "total"), [(0.1, 10), (0.07, 100), (0.3, 10), (0.33, 100), (0.2, 7)])
def test_row_21_the_rate_drops_on_time(every, total):
    schedule = build(node("scheduler", "step", every=every, factor=0.5))
    hundredths = round(every * 100)
    for step in range(total):
        assert schedule(Moment(step, total, [])) == 0.5 ** (step * 100 // (total * hundredths))
