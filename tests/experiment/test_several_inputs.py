"""Several inputs and targets: the weighted sum of losses, losses and measures by target, and the made-up tasks."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from laboratory import node

from dlrun.cli.main import main
from dlrun.config.compatibility import get_target_names_error
from dlrun.config.instantiate import build_part
from dlrun.core.dataset import Dataset
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Spec, Step
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.objectives import losses
from dlrun.objectives.supervised import Supervised
from dlrun.training.meter import Meter

TASKS = {"questions": {"rows": 400, "answers": 40}, "social": {"rows": 200}, "tickets": {"rows": 300},
         "similarity": {"rows": 300}}  # fmt: skip
SOCIAL = {
    "age": Field("number", (1,)),
    "income": Field("category", (), 10),
    "gender": Field("binary", (1,)),
}
WEIGHTS = {"age": 0.25, "income": 1.0, "gender": 10.0}


def an_objective(weights=WEIGHTS, l2=0.0):
    torch.manual_seed(0)
    spec = Spec({"x": Field("number", (6,))}, SOCIAL)
    model = build_part(node("model", "dense", units=[5], l2=l2), spec)
    chosen = {
        "age": losses.mse(SOCIAL["age"]),
        **{n: losses.auto(SOCIAL[n]) for n in ("income", "gender")},
    }
    return Supervised(model, chosen, weights)


def a_batch(rows=9):
    x, age = torch.randn(rows, 6), 40 + 10 * torch.randn(rows, 1)
    return {
        "x": x,
        "age": age,
        "income": torch.randint(0, 10, (rows,)),
        "gender": torch.rand(rows, 1).round(),
    }


@pytest.mark.parametrize("weights", [WEIGHTS, {}, {"gender": 0.0}])
def test_the_loss_is_the_weighted_sum_and_so_is_its_gradient(weights):
    objective, batch = an_objective(weights), a_batch()
    (step,) = objective.steps(batch)
    said = objective.model(batch)
    F = torch.nn.functional
    alone = {
        "age": (said["age"] - batch["age"]).square().mean(),
        "income": F.nll_loss(said["income"].log_softmax(1), batch["income"]),
        "gender": F.binary_cross_entropy(said["gender"].sigmoid(), batch["gender"]),
    }
    wanted = sum(weights.get(name, 1.0) * loss for name, loss in alone.items())
    assert abs(float(step.loss.detach()) - float(wanted.detach())) < 1e-6 * float(wanted.detach())
    assert all(
        torch.allclose(step.parts[name], weights.get(name, 1.0) * alone[name], rtol=1e-6)
        for name in alone
    )
    own = list(objective.parameters())
    for one, other in zip(
        torch.autograd.grad(step.loss, own), torch.autograd.grad(wanted, own), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_rows_parts_are_means_over_rows_and_add_up_to_the_loss_without_the_penalty():
    objective = an_objective(l2=0.01)
    meter = Meter({}, SOCIAL, torch.device("cpu"))
    batches = [a_batch(9), a_batch(3)]
    for batch in batches:
        for step in objective.steps(batch):
            meter.add(step, batch, len(batch["x"]))
    state = meter.state()
    again = Meter({}, SOCIAL, torch.device("cpu"))
    again.restore(state)
    scores = {name: score.value for name, score in again.scores().items()}
    assert scores == {name: score.value for name, score in meter.scores().items()}
    assert list(scores) == ["loss", "loss_age", "loss_income", "loss_gender"]
    parts = sum(scores[f"loss_{name}"] for name in SOCIAL)
    assert scores["loss"] == pytest.approx(
        parts + float(objective.model.penalty().detach()), rel=1e-6
    )
    means = [
        objective.target_losses(objective.model(batch), batch)["age"].item() for batch in batches
    ]
    assert scores["loss_age"] == pytest.approx((9 * means[0] + 3 * means[1]) / 12, rel=1e-6)


def test_a_checkpoint_from_before_there_were_parts_is_taken():
    meter = Meter({}, SOCIAL, torch.device("cpu"))
    meter.add(Step("model", torch.tensor(2.0)), {}, 4)
    state = meter.state()
    del state["parts"]
    state["pending"] = [entry[:5] for entry in state["pending"]]
    again = Meter({}, SOCIAL, torch.device("cpu"))
    again.restore(state)
    assert again.scores()["loss"].value == 2.0


def test_one_target_has_no_parts():
    spec = Spec({"x": Field("number", (6,))}, {"age": SOCIAL["age"]})
    objective = Supervised(
        build_part(node("model", "linear"), spec), {"age": losses.mse(SOCIAL["age"])}
    )
    (step,) = objective.steps(a_batch())
    assert step.parts == {}


def test_settings_by_target_name_targets_that_are_there():
    assert get_target_names_error({"losses": {"age": {}}, "metrics": None}, ["age"]) is None
    assert (
        get_target_names_error({"loss_weights": {"aeg": 1}}, ["age", "income"])
        == "loss_weights names aeg; the targets are age, income"
    )


def results(folder):
    lines = [
        line for path in folder.rglob("results.jsonl") for line in path.read_text().splitlines()
    ]
    return [json.loads(line) for line in lines]


def values(scores):
    return {name: score["value"] for name, score in scores.items()}


def test_each_target_has_its_own_loss_and_measures(tmp_path):
    words = [
        "task=tickets",
        "data.rows=300",
        "engine.epochs=2",
        "engine.device=cpu",
        f"output={tmp_path}",
    ]
    words += [
        "+loss@losses.priority=huber",
        "losses.priority.delta=0.5",
        "loss_weights={department: 3}",
    ]
    words += [
        "+metric@metrics.priority=[r2]",
        "+metric@metrics.department=[f1,top_k]",
        "metrics.department.top_k.k=2",
    ]
    assert main(words) == 0
    (result,) = results(tmp_path)
    names = [
        "loss",
        "loss_priority",
        "loss_department",
        "priority_r2",
        "department_f1",
        "department_top_k",
    ]
    assert list(result["scores"]) == names == list(result["baseline"])
    found = values(result["scores"])
    assert found["loss"] == pytest.approx(
        found["loss_priority"] + found["loss_department"], rel=1e-5
    )
    (run,) = tmp_path.glob("tickets/dense/*")
    with np.load(run / "predictions" / "fit-val.npz") as said:
        gap = np.abs(said["output/priority"] - said["target/priority"])
    assert found["loss_priority"] == pytest.approx(
        np.where(gap < 0.5, gap**2 / 2, 0.5 * gap - 0.125).mean(), rel=1e-4
    )
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert all("loss_department" in row["values"] for row in history) and len(history) == 4
    page = (run / "report.html").read_text()
    assert "loss_department" in page and "department_f1" in page
    assert main(["compare", str(run), str(run)]) == 0


def test_a_part_of_the_loss_can_be_watched(tmp_path):
    words = [
        "task=tickets",
        "data.rows=300",
        "preset=smoke",
        "callback=[early_stopping]",
        f"output={tmp_path}",
    ]
    assert main([*words, "callback.early_stopping.monitor=val/loss_priority"]) == 0
    assert main([*words, "callback.early_stopping.monitor=val/loss_prority"]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "task=social +loss@losses.aeg=mse",
            "losses names aeg; the targets are age, income, gender",
        ),
        ("task=social +loss@losses.age=bce", "losses.age=bce on a number target"),
        ("task=social +loss@losses.age=hubr", "no loss 'hubr': did you mean 'huber'"),
        ("task=social +loss@losses.age=huber losses.age.delta=-1", "losses.age.delta=-1"),
        ("task=social +metric@metrics.gender=[mae]", "metrics.gender=mae on a binary target"),
        ("task=social +metric@metrics.sex=[accuracy]", "metrics names sex"),
        ("task=social loss=cross_entropy", "loss=cross_entropy on a number target"),
        ("task=social metric=[mae]", "metric=mae on a category target"),
        ("task=social losses=3", "+loss@losses.TARGET=NAME"),
        ("task=social +losses.age=3", "+loss@losses.age=NAME"),
        ("task=social +loss_weights.aeg=1", "loss_weights names aeg"),
        ("task=digits loss_weights.digit=2", "to add one, +loss_weights.digit=NUMBER"),
        ("task=social losses.age=huber", "to add one, +loss@losses.age=NAME"),
        ("task=social loss_weights.age=-1", "loss_weights="),
        ("task=questions data.answers=30", "a multiple of 20"),
        ("task=questions data.words=100", "data.words=100 are too few"),
        ("task=tickets data.tags=3", "data.tags=3"),
    ],
)
def test_wrong_words_get_exit_code_2_and_one_message(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def invented(task, **settings):
    raw = build_part(node("data", task, **{**TASKS[task], **settings}))
    return raw, prepare(raw, np.arange(len(raw) - 50), np.arange(len(raw) - 50, len(raw)))


@pytest.mark.parametrize("task", TASKS)
def test_invented_rows_are_marked_repeat_and_do_not_touch_the_test_rows(task):
    raw, data = invented(task)
    _, again = invented(task)
    assert "SYNTHETIC" in raw.note and len(raw) == TASKS[task]["rows"] * 4 // 5
    test = raw.test()
    assert {len(column) for column in test.values()} == {
        TASKS[task]["rows"] // 5
    } and test.keys() == raw.dev.keys()
    one, other = next(data.train.batches(20)), next(again.train.batches(20))
    assert all(torch.equal(dense(one[name]), dense(other[name])) for name in raw.targets)
    words = raw.read_vocabulary()
    for name, kind in raw.inputs.items():
        if kind == "tokens":
            assert (
                words[1]
                and data.spec.inputs[name].labels == words
                and int(one[name].max()) < len(words)
            )


def dense(tensor):
    return tensor.to_dense() if tensor.layout == torch.sparse_csr else tensor


SMALL = {
    "questions": {
        "encoder": node("encoder", "embedding", units=24, ends="average"),
        "encoders": {},
    },
    "social": {"encoder": node("encoder", "embedding", units=16, ends="average")},
    "similarity": {
        "encoder": node("encoder", "embedding", units=16, ends="average"),
        "dense": [32],
    },
    "tickets": {},
}


@pytest.mark.parametrize("task", TASKS)
def test_what_is_invented_can_be_learnt(task):
    """Held-out loss falls below the constant answer's, with a small reader in place of the book's."""
    raw, data = invented(task, rows=1500, words=400)
    torch.manual_seed(0)
    model = build_part(
        node("model", {"similarity": "siamese"}.get(task, task), **SMALL[task]), data.spec
    )
    fields = data.spec.targets
    objective = Supervised(model, {name: losses.auto(field) for name, field in fields.items()})
    constant = Supervised(build_part(node("model", "constant"), data.spec), objective.losses)
    optimizer = torch.optim.Adam(objective.parameters(), 0.02)
    held_out = next(data.val.batches(50))
    for epoch in range(8):
        for batch in data.train.batches(64, seed=1, epoch=epoch):
            (step,) = objective.steps(batch)
            step.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        found, bar = (next(each.steps(held_out)) for each in (objective.eval(), constant))
    assert found.loss < 0.9 * bar.loss
    for name in found.parts:
        assert found.parts[name] < bar.parts[name], name


def test_columns_that_share_steps_learn_their_words_from_the_training_rows_of_both():
    step = build_part(node("text", "sequence", size=20, length=4))
    left, right = (
        np.array(texts, object)
        for texts in (["one two", "two", "held"], ["three one", "three", "out"])
    )
    raw = Dataset({"l": left, "r": right, "y": np.array([0.0, 1.0, 1.0])}, {"l": "tokens", "r": "tokens"}, {"y": "binary"},
              {"l": (step,), "r": (step,)}, shared_vocabularies=(("l", "r"),))  # fmt: skip
    data = prepare(raw, np.array([0, 1]), np.array([2]))
    first, second = data.spec.inputs["l"], data.spec.inputs["r"]
    assert first == second and set(first.labels) == {"", "▯", "one", "two", "three"}
    batch = next(data.val.batches(1))
    assert (
        int(batch["l"].max()) == int(batch["r"].max()) == 1
    )  # words of held-out rows have no numbers
    apart = prepare(
        Dataset(raw.dev, raw.inputs, raw.targets, raw.preprocessors), np.array([0, 1]), None
    )
    assert apart.spec.inputs["l"].labels != apart.spec.inputs["r"].labels


def a_table(path, rows=200):
    """Texts, a category and a number, from which a price and a class follow."""
    draw = random.Random(3)
    lines = ["title,body,town,rooms,price,kind"]
    for _ in range(rows):
        kind, town, rooms = draw.choice(["flat", "house"]), draw.choice("abc"), draw.randint(1, 6)
        words = ["garden", "roof"] if kind == "house" else ["lift", "floor"]
        body = " ".join(draw.choices([*words, "nice", "view", "calm", "old"], k=8))
        price = 1.25 * rooms + 2 * "abc".index(town) + (3.5 if kind == "house" else 0)
        lines.append(f"a {draw.choice(words)},{body},{town},{rooms},{price},{kind}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_texts_a_category_and_numbers_of_ones_own_with_two_targets(tmp_path, capsys):
    table = a_table(tmp_path / "homes.csv")
    words = [
        "task=csv",
        f"data.path={table}",
        "data.target=[price,kind]",
        "data.texts=[title,body]",
        "text=sequence",
    ]
    words += [
        "text.length=10",
        "data.share_words=true",
        "model=lstm",
        "model.share=[[title,body]]",
        "model.dense=[16]",
    ]
    words += [
        "+loss@losses.price=huber",
        "loss_weights={price: 0.1}",
        "engine.epochs=6",
        "optimizer=adam",
    ]
    words += ["optimizer.lr=0.01", "test=true", f"output={tmp_path}/out"]
    assert main(words) == 0
    val, test = results(tmp_path / "out")
    for result in (val, test):
        assert (
            values(result["scores"])["kind_accuracy"]
            > 0.9
            > values(result["baseline"])["kind_accuracy"]
        )
        assert values(result["scores"])["loss_price"] < values(result["baseline"])["loss_price"]
    (run,) = (tmp_path / "out").glob("csv/lstm/*")
    capsys.readouterr()
    fresh = tmp_path / "new.csv"
    fresh.write_text(
        "title,body,town,rooms\na roof,garden garden calm,b,4\na lift,lift floor,a,2\n"
    )
    assert main(["predict", str(run), str(fresh)]) == 0
    said = capsys.readouterr().out
    assert "house" in said and "flat" in said and "price" in said


def test_unlike_words_are_refused_with_the_way_out(tmp_path, capsys):
    table = a_table(tmp_path / "homes.csv", 60)
    words = [
        "task=csv",
        f"data.path={table}",
        "data.target=kind",
        "data.texts=[title,body]",
        "text=sequence",
    ]
    assert main([*words, "model=lstm", "model.share=[[title,body]]", f"output={tmp_path}/out"]) == 2
    assert "data.share_words=true" in capsys.readouterr().err
    assert main([*words, "model=lstm", "+loss@losses.sort=mse", f"output={tmp_path}/out"]) == 2
    assert "losses names sort; the targets are kind" in capsys.readouterr().err


OWN = '''
import torch
from torch import nn


class Net(nn.Module):
    """A graph of one's own: posts → averaged word vectors; one hidden layer, and then another way for each target."""

    def __init__(self, spec, width):
        super().__init__()
        (self.text,) = spec.inputs
        self.words = nn.EmbeddingBag(spec.inputs[self.text].size, width, mode="mean")
        self.shared = nn.Linear(width, width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, field.num_outputs) for name, field in spec.targets.items()})

    def forward(self, batch):
        x = self.words(batch[self.text])
        deep = torch.relu(self.shared(x))
        return {name: head(deep if name == "income" else x + deep) for name, head in self.heads.items()}


def net(spec, *, width):
    return Net(spec, width)
'''


@pytest.mark.parametrize("made", ["Net", "net"])
def test_a_module_of_ones_own_answers_several_targets(made, tmp_path, monkeypatch):
    package = f"ownnets_{made.lower() if made == 'Net' else 'function'}"
    (tmp_path / f"{package}.py").write_text(OWN)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text(
        f"# My own graph.\n_target_: {package}.{made}\nwidth: 8\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "--config-dir",
        "mine",
        "task=social",
        "data.rows=200",
        "preset=smoke",
        "model=own",
        f"plugins=[{package}]",
    ]
    assert main([*words, "loss_weights={age: 0.25, gender: 10}", "output=out"]) == 0
    (result,) = results(tmp_path)
    assert {"loss_age", "income_accuracy", "gender_accuracy"} <= set(result["scores"])
    assert main([*words, "model.widht=3", "output=out"]) == 2


def test_refusals_of_a_combined_model_come_before_training(tmp_path):
    with pytest.raises(UserError, match="model.share names wrong"):
        build_part(
            node("model", "siamese", share=[["left", "wrong"]]), invented("similarity")[1].spec
        )
