"""Reported cases about losses, batches of one row, steps that are none, and the scale of what is predicted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from laboratory import SPEC, node, same, trainer, weights, wired

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.config.parts import get_builtin_conf, list_group_options
from dlrun.core import checkpoint, device
from dlrun.core.dataset import Dataset
from dlrun.core.errors import TrainingInterrupted, UserError
from dlrun.core.types import Field
from dlrun.interpret.lr_finder import LRCurve, choose_lr, smooth_losses
from dlrun.training.schedules import ScheduleState
from dlrun.workflow.candidates import CandidatePlan
from dlrun.workflow.decisions import select_metric

CASES = Path(__file__).parents[1] / "fixtures" / "cases"
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


def warned(run, text):
    """How often the log warns of this, besides the table at the end."""
    return sum(
        " WARNING " in line and text in line for line in (run / "log.txt").read_text().splitlines()
    )


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
    "fraction": (
        Field("fraction", (1,), prior=torch.tensor([0.4])),
        normal(ROWS, 1),
        [shares(ROWS, 2)[:, :1]],
    ),
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
            yield own, build_part(own, field)
        except UserError:
            continue


@pytest.mark.parametrize("name", list_group_options(get_builtin_conf(), "loss"))
def test_row_01_no_loss_depends_on_how_rows_are_batched(name):
    seen = 0
    for field, raw, truths in TARGETS.values():
        for truth, (own, loss) in [(truth, one) for truth in truths for one in made(name, field)]:
            whole = float(loss(raw, truth))
            for size in (1, 2, 3, 7):
                parts = [
                    float(loss(*part)) * len(part[0])
                    for part in zip(raw.split(size), truth.split(size), strict=True)
                ]
                assert sum(parts) / ROWS == pytest.approx(whole, rel=1e-5), (own, field.kind, size)
            seen += 1
    assert seen


def weighted(tmp_path, *words):
    common = [
        "task=csv",
        f"data.path={CASES}/weights_train.csv",
        "data.target=k",
        "model=linear",
        "optimizer=sgd",
    ]
    common += [
        f"data.test_path={CASES}/weights_test.csv",
        "loss=cross_entropy",
        "loss.class_weights=balanced",
    ]
    return train(tmp_path, *common, "optimizer.lr=0.5", "engine.epochs=3", *PLAIN, *words)


def test_row_01_a_weighted_loss_is_the_same_however_it_is_evaluated(tmp_path):
    sizes = [
        losses(weighted(tmp_path, "protocol.validation=0.3", f"engine.eval_batch_size={n}"))
        for n in (1, 4, 1000)
    ]
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
    for name, field, raw, given in (
        ("cross_entropy", CLASS, torch.zeros(1, 3), [1.0, 2.0, 5.0]),
        ("focal", CLASS, torch.zeros(1, 3), [1.0, 2.0, 5.0]),
    ):
        plain, own = (
            build_part(node("loss", name, class_weights=each), field) for each in (None, given)
        )
        for label, weight in enumerate(given):
            target = torch.tensor([label])
            assert float(own(raw, target)) == pytest.approx(weight * float(plain(raw, target)))


def test_row_02_whole_numbers_are_class_weights(tmp_path):
    words = ["task=wine", "loss=cross_entropy", "engine.epochs=1", *PLAIN]
    found = [
        losses(train(tmp_path, *words, f"loss.class_weights={w}"))
        for w in ("[1,2,3]", "[1.0,2.0,3.0]")
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("weights", "says"), [("[1,-2,3]", "a number from 0 up"), ("[0,0,0]", "all 0")]
)
def test_row_02_weights_that_make_no_loss_are_refused(tmp_path, capsys, weights, says):
    assert main(["task=wine", f"loss.class_weights={weights}", *PLAIN, f"output={tmp_path}"]) == 2
    assert says in capsys.readouterr().err


def numbers(group):
    """(option, key, whole numbers in the place of its numbers) of every part of a group."""
    for name in list_group_options(get_builtin_conf(), group):
        own = yaml.safe_load((get_builtin_conf() / group / f"{name}.yaml").read_text())
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
        optimizer = build_part(node("optimizer", name, **{key: each}), [{"params": weights}])
        weights[0].grad = torch.full((2, 2), 0.3)
        optimizer.step()
        moved.append(weights[0].detach().clone())
    assert torch.equal(*moved)


BINARY = "a,y\n" + "".join(
    f"{(7 * n) % 10 - 5},{'yes' if n % 5 == 0 else 'no'}\n" for n in range(60)
)


@pytest.mark.parametrize("loss", ["auto", "bce", "focal"])
def test_row_16_two_classes_have_weights(tmp_path, loss):
    Path("t.csv").write_text(BINARY)
    words = [
        "task=csv",
        "data.path=t.csv",
        "data.target=y",
        "model=linear",
        f"loss={loss}",
        "engine.epochs=1",
        *PLAIN,
    ]
    for given in ("balanced", "[1,4]"):
        found = losses(train(tmp_path, *words, f"loss.class_weights={given}"))
        assert found != losses(train(tmp_path, *words))


def test_row_16_balanced_weights_have_the_mean_one_and_labels_have_their_own():
    one = lambda field, **own: build_part(node("loss", "bce", **own), field)  # noqa: E731
    zero, yes, no = torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1)
    plain, balanced = one(YES), one(YES, class_weights="balanced")
    assert float(balanced(zero, yes)) == pytest.approx(float(plain(zero, yes)) / (2 * 0.2))
    assert float(balanced(zero, no)) == pytest.approx(float(plain(zero, no)) / (2 * 0.8))
    labels, given = one(LABELS, class_weights="balanced"), one(LABELS, class_weights=[1, 2, 3])
    log2 = float(torch.tensor(2.0).log())
    assert float(labels(torch.zeros(1, 3), torch.ones(1, 3))) == pytest.approx(
        log2 * (1 / 0.2 + 1 + 1 / 1.8) / 3
    )
    assert float(given(torch.zeros(1, 3), torch.ones(1, 3))) == pytest.approx(log2 * 2)
    assert float(given(torch.zeros(1, 3), torch.zeros(1, 3))) == pytest.approx(log2)


@pytest.mark.parametrize("name", ["bce", "focal", "cross_entropy"])
def test_row_16_weights_of_another_number_are_refused(name):
    field = CLASS if name == "cross_entropy" else YES
    with pytest.raises(UserError, match="1 class weights for [23] classes"):
        build_part(node("loss", name, class_weights=[1]), field)


# Row 21: counting


@pytest.mark.parametrize(
    ("every", "total"), [(0.1, 10), (0.07, 100), (0.3, 10), (0.33, 100), (0.2, 7)]
)
def test_row_21_the_rate_drops_on_time(every, total):
    schedule = build_part(node("scheduler", "step", every=every, factor=0.5))
    hundredths = round(every * 100)
    for step in range(total):
        assert schedule(ScheduleState(step, total, [])) == 0.5 ** (
            step * 100 // (total * hundredths)
        )


# Row 3: a batch of one row

NORMED = [
    name
    for name in list_group_options(get_builtin_conf(), "model")
    if "batch_norm" in node("model", name)
]
SMALL = {
    "convnet": ["model.filters=[4,4,4]", "model.dense=[]"],
    "residual": ["model.filters=[4]", "model.pool=[2]"],
    "inception": ["model.filters=[4]", "model.dense=[4]"],
    "separable": ["model.filters=[[4,4]]"],
    "dense": ["model.units=[4]"],
    "dcgan": ["objective=adversarial", "model.generator=[8,4]", "model.discriminator=[4,4]"],
}
SKIP = ("tickets", "separable_book", "convnet_150")  # settings of others, for data of their own
BASE = [
    "model.architecture=mobilenet_v3_small",
    "model.weights=null",
    "model.unfreeze=all",
    "model.cache=false",
]
SMALL["pretrained"] = [*BASE, "model.preprocess=normalize"]
EDGE = ["task=digits", "protocol=few_rows", "protocol.validation=5", "engine.epochs=2", *PLAIN]


@pytest.mark.parametrize("model", ["pretrained", *(name for name in NORMED if name not in SKIP)])
def test_row_03_a_last_row_alone_is_left_out_and_said(tmp_path, model):
    own = [f"model={model}", *SMALL[model], *(["model.batch_norm=true"] if model in NORMED else [])]
    run = train(tmp_path, *EDGE, *own, "protocol.train=9", "engine.batch_size=4")
    (result,) = lines(run / "results.jsonl")
    assert "leaves out one of 9" in result["note"]
    assert warned(run, "leaves out one of 9") == 1


def of_table(tmp_path, file, *words, code=0):
    common = [
        "task=csv",
        f"data.path={CASES}/{file}.csv",
        "data.target=y",
        "data.test=0",
        "engine.epochs=1",
    ]
    return train(
        tmp_path,
        *common,
        "engine.batch_size=16",
        "model.batch_norm=true",
        *PLAIN,
        *words,
        code=code,
    )


def test_row_03_the_reported_tables_train(tmp_path):
    rows = len((CASES / "one_row_left.csv").read_text().splitlines()) - 1
    run = of_table(tmp_path, "one_row_left", "protocol.validation=9")
    assert (rows - 9) % 16 == 1 and f"leaves out one of {rows - 9}" in lines(run / "results.jsonl")[
        0
    ]["note"]
    assert (
        "leaves out one of 17"
        in lines(of_table(tmp_path, "bn", "protocol=whole") / "results.jsonl")[0]["note"]
    )


def test_row_03_folds_with_a_last_row_alone_are_stacked(tmp_path):
    """17 rows in 4 folds: one trains on 12, and three on 13 in batches of 4, which leave a row out."""
    words = ["protocol=kfold", "protocol.folds=4", "engine.batch_size=4", "engine.epochs=2"]
    found = [
        of_table(tmp_path, "bn", *words, f"protocol.stacked={way}") for way in ("false", "true")
    ]
    one, other = ({row["name"]: row for row in lines(run / "results.jsonl")} for run in found)
    assert {"leaves out one of 13" in row["note"] for row in other.values()} == {True, False}
    for name, row in one.items():
        assert other[name]["note"] == row["note"]
        assert other[name]["scores"]["loss"]["value"] == pytest.approx(
            row["scores"]["loss"]["value"], rel=1e-3
        )


@pytest.mark.parametrize("words", [["engine.batch_size=1"], ["engine.overfit=1"]])
def test_row_03_batches_of_one_row_are_refused_before_training(tmp_path, capsys, words):
    output = tmp_path / "runs"
    common = [
        "task=csv",
        f"data.path={CASES}/bn.csv",
        "data.target=y",
        "model.batch_norm=true",
        f"output={output}",
    ]
    assert main([*common, *words, *PLAIN]) == 2
    assert "batch normalization needs two rows in a batch" in capsys.readouterr().err
    assert not [*output.rglob("history.jsonl")]


def test_row_03_cut_where_a_row_is_left_out_a_run_goes_on_to_the_same_bits(tmp_path):
    def made(name):
        torch.manual_seed(0)
        found = trainer(tmp_path / name, batch_size=7, epochs=3, save_every=0)
        torch.manual_seed(1)
        model = build_part(node("model", "dense", units=[4], batch_norm=True), SPEC)
        return wired(model, found.settings, tmp_path / name, node("optimizer", "rmsprop"))

    whole, cut = made("whole"), made("cut")
    whole.fit()
    assert whole.optimization.steps_taken == {"model": 3 * 7}, (
        "50 rows are 7 batches of 7 and one row"
    )
    pause = cut._should_stop
    cut._should_stop = lambda learn: (
        setattr(cut, "interrupted", 15 * (cut.position == 7 and learn)),
        pause(learn),
    )[1]
    with pytest.raises(TrainingInterrupted):
        cut.fit()
    again = made("cut")
    again.restore(checkpoint.load(tmp_path / "cut" / "last.pt"))
    assert again.position == 7
    again.fit()
    assert same(weights(whole), weights(again)) and whole.history == again.history


# Row 6: steps that are none


def half(tmp_path, *words):
    common = [
        "task=wine",
        "model.units=[4]",
        "engine.precision=fp16",
        "engine.batch_size=64",
        "engine.epochs=4",
    ]
    return train(tmp_path, *common, *PLAIN, *words)


def test_row_06_updates_beyond_fp16_are_no_steps_and_are_told(tmp_path):
    run = half(tmp_path, "loss_weights={grower: 1e7}")
    (result,) = lines(run / "results.jsonl")
    assert (
        "8 of 8 updates were skipped" in result["note"] and "nothing was learned" in result["note"]
    )
    assert warned(run, "updates were skipped") == 1
    state = checkpoint.load(run / "checkpoints" / "fit" / "last.pt")
    assert state["learner"]["taken"] == {"model": 0} and state["learner"]["skipped"] == 8


def test_row_06_schedule_average_and_bound_count_steps_that_were_taken(tmp_path):
    run = half(
        tmp_path,
        "loss_weights={grower: 3e2}",
        "engine.epochs=40",
        "engine.max_steps=9",
        "engine.ema=0.5",
    )
    state = checkpoint.load(run / "checkpoints" / "fit" / "last.pt")["learner"]
    assert state["taken"] == {"model": 9} and state["skipped"] > 0
    assert (
        f"{state['skipped']} of {state['skipped'] + 9} updates"
        in lines(run / "results.jsonl")[0]["note"]
    )


def test_row_06_bf16_without_units_for_it_is_told_once(tmp_path, monkeypatch):
    for units, count in ((set(), 1), ({"fpu"}, 0)):
        monkeypatch.setattr(device, "BF16_UNITS", units, raising=False)
        words = [
            "task=wine",
            "model.units=[4]",
            "engine.precision=bf16",
            "engine.epochs=1",
            "protocol=kfold",
            *PLAIN,
        ]
        run = train(tmp_path, *words)
        assert warned(run, "no bf16 units") == count
        assert all(
            ("no bf16 units" in row["note"]) == bool(count) for row in lines(run / "results.jsonl")
        )


# Row 30 and 33: the unit of what is predicted, and what has to be beaten


def houses(rows=120):
    """Prices around a million, rooms, and a column that nothing tells of."""
    a, b, c = (np.random.default_rng(n).uniform(-1, 1, rows) for n in range(3))
    noise = np.exp(np.random.default_rng(4).normal(size=rows))
    lines = [
        f"{x:.4f},{y:.4f},{1e6 + 3e5 * x + 2e5 * y:.0f},{5 + 2 * x:.3f},{z:.4f}"
        for x, y, z in zip(a, b, noise, strict=True)
    ]
    Path("houses.csv").write_text("a,b,price,rooms,luck\n" + "\n".join(lines) + "\n")
    return np.genfromtxt("houses.csv", delimiter=",", names=True)


def on_houses(tmp_path, *words):
    return train(
        tmp_path, "task=csv", "data.path=houses.csv", "data.drop=[luck]", "data.test=0", *words
    )


def scored(run):
    (result,) = lines(run / "results.jsonl")
    return {
        name: (each["value"], result["baseline"][name]["value"])
        for name, each in result["scores"].items()
    }


def test_row_30_prices_in_dollars_are_learned_with_the_defaults(tmp_path):
    houses()
    run = on_houses(tmp_path, "data.target=price", "data.drop=[rooms,luck]", *PLAIN)
    scores = scored(run)
    assert scores["mae"][0] < scores["mae"][1] / 4 and scores["mae"][1] > 1e5, "in dollars"
    assert scores["loss"][0] < 0.1 < scores["loss"][1], "in standard deviations, and that is said"
    assert "price in standard deviations" in lines(run / "results.jsonl")[0]["note"]


def test_row_30_predictions_and_truths_are_in_dollars_and_every_fold_has_its_own_scale(tmp_path):
    prices = houses()["price"]
    words = ["protocol=kfold", "protocol.folds=3", "engine.epochs=30", *PLAIN]
    run = on_houses(tmp_path, "data.target=price", "data.drop=[rooms,luck]", *words)
    for fold in ("fold-1", "fold-2", "fold-3"):
        kept = np.load(run / "predictions" / f"{fold}-val.npz")
        np.testing.assert_array_equal(
            kept["target/price"].ravel(), prices[kept["row"]].astype(np.float32)
        )
        errors = np.abs(kept["output/price"] - kept["target/price"]).ravel()
        np.testing.assert_allclose(kept["value/mae"], errors, rtol=1e-3, atol=0.5)
        (step,) = json.loads((run / "preparation" / f"{fold}.json").read_text())["price"]
        learned = np.delete(prices, kept["row"])
        assert (step["mean"], step["scale"]) == pytest.approx((learned.mean(), learned.std()))


def test_row_30_two_targets_of_different_scale_are_both_learned(tmp_path):
    houses()
    scores = scored(on_houses(tmp_path, "data.target=[price,rooms]", "engine.epochs=60", *PLAIN))
    for target in ("price", "rooms"):
        assert scores[f"{target}_mae"][0] < scores[f"{target}_mae"][1] / 4


def test_row_30_a_target_that_is_not_learned_is_told_beside_its_own_baseline(tmp_path):
    houses()
    run = on_houses(
        tmp_path, "data.target=[price,luck]", "data.drop=[rooms]", "engine.epochs=60", *PLAIN
    )
    note, (value, bar) = lines(run / "results.jsonl")[0]["note"], scored(run)["luck_mae"]
    assert (
        value >= bar
        and "luck is no better than its baseline: luck_mae" in note
        and "price is no" not in note
    )


def test_row_30_configs_of_an_older_dlrun_learn_numbers_as_they_are():
    houses()
    own = {**node("data", "csv", path="houses.csv", target="price"), "text": None}
    del own["standardize_target"]
    assert build_part(own).preprocessors["price"] == ()


def test_row_30_the_suggested_rate_is_where_the_loss_falls_and_not_where_it_is_noise():
    rates = np.geomspace(1e-7, 10, 100)
    for seed in range(40):
        noise = np.random.default_rng(seed).standard_normal(100)
        losses = (1 - 0.8 / (1 + (3e-3 / rates) ** 2) + 50 * rates**2) * (1 + 0.25 * noise)
        found = choose_lr(LRCurve(rates, losses, smooth_losses(list(losses))))
        assert found.rate is None or 3e-4 <= found.rate <= 3e-2


def test_row_30_batches_grow_with_the_table():
    engine = build_part(node("engine", "table"))
    sizes = [
        engine.with_batch_size(rows).batch_rows for rows in (1, 60, 4000, 8000, 16512, 39000, 10**6)
    ]
    assert sizes == [16, 16, 16, 32, 64, 128, 512]
    assert build_part(node("engine", "small")).with_batch_size(10**6).batch_rows == 16


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_row_33_the_baseline_of_each_measure_is_its_own_best_constant(tmp_path, loss):
    luck = houses()["luck"]
    words = [
        "data.target=luck",
        "data.drop=[rooms,price]",
        f"loss={loss}",
        "metric=[mae,rmse,mse,r2]",
    ]
    run = on_houses(tmp_path, *words, "engine.epochs=1", *PLAIN)
    held = np.load(run / "predictions" / "fit-val.npz")["row"]
    learned, val, scores = np.delete(luck, held), luck[held], scored(run)
    assert scores["mae"][1] == pytest.approx(np.abs(val - np.median(learned)).mean(), rel=1e-4)
    assert scores["mse"][1] == pytest.approx(np.square(val - learned.mean()).mean(), rel=1e-4)
    of, parts = build_part(node("loss", loss), Field("number", (1,))), []
    for rows in (learned, val):
        parts.append(
            torch.tensor((rows - learned.mean()) / learned.std(), dtype=torch.float32)[:, None]
        )
    loss_of = lambda rows, answer: float(of(torch.full_like(rows, float(answer)), rows))  # noqa: E731
    tried = min(np.linspace(-2, 2, 4001), key=lambda answer: loss_of(parts[0], answer))
    assert scores["loss"][1] == pytest.approx(loss_of(parts[1], tried), rel=1e-2)


def test_row_33_always_yes_is_the_baseline_of_f1(tmp_path):
    Path("t.csv").write_text(BINARY)
    words = [
        "task=csv",
        "data.path=t.csv",
        "data.target=y",
        "data.test=0",
        "model=linear",
        "engine.epochs=1",
        *PLAIN,
    ]
    run = train(tmp_path, *words, "metric=[f1,precision,accuracy]")
    yes, scores = np.load(run / "predictions" / "fit-val.npz")["target/y"].mean(), scored(run)
    assert scores["f1"][1] == pytest.approx(2 * yes / (1 + yes)) and scores["precision"][
        1
    ] == pytest.approx(yes)
    assert scores["accuracy"][1] == pytest.approx(1 - yes)


def test_row_33_weights_move_the_baseline_of_the_loss(tmp_path):
    """Balanced classes weigh the same together, so that equal shares are best."""
    run = weighted(tmp_path, "protocol.validation=0.3", "engine.epochs=1")
    kept = np.load(run / "predictions" / "fit-val.npz")
    names = [
        line.rpartition(",")[2] for line in (CASES / "weights_train.csv").read_text().split()[1:]
    ]
    learned, held = np.delete(names, kept["row"]), np.array(names)[kept["row"]]
    each = [len(learned) / (3 * (learned == name).sum()) for name in held]
    assert scored(run)["loss"][1] == pytest.approx(np.log(3) * np.mean(each), rel=1e-3)


def test_row_33_a_workflow_asks_the_constant_for_the_answer_of_its_measure():
    kinds = {"price": "number"}
    for asked, answer in (
        ("auto", "median"),
        ("mae", "median"),
        ("rmse", "prior"),
        ("r2", "prior"),
    ):
        raw = Dataset({"price": np.arange(4.0)}, {}, kinds, {})
        course = CandidatePlan({}, None, (), select_metric(raw, asked).constant)
        assert next(course.initial_stages(None)).patch["model"]["answer"] == answer
