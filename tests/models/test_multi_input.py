"""Laws of the model of several inputs: what is shared, what is combined, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import yaml
from laboratory import node

from dlrun.cli.main import main
from dlrun.config.compatibility import ACCEPTS, NEEDS, get_input_error, get_model_part_name
from dlrun.config.instantiate import build_part
from dlrun.config.parts import get_builtin_conf, list_group_options
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Spec

WORDS = Field("tokens", (7,), 30)
INPUTS = {
    "left": WORDS,
    "right": WORDS,
    "walk": Field("series", (9, 2)),
    "town": Field("category", (), 5),
    "age": Field("number", (3,)),
    "picture": Field("image", (2, 12, 12)),
}
KINDS = {name: field.kind for name, field in INPUTS.items()}
TARGETS = {"price": Field("number", (1,)), "kind": Field("category", (), 4)}
SPEC = Spec(INPUTS, TARGETS)
LSTM = {"units": 6, "embedding": 5}


def lstm(**changes):
    return node("encoder", "lstm", **{**LSTM, **changes})


def model(spec=SPEC, reader=None, **settings):
    torch.manual_seed(0)
    return build_part(node("model", "combined", encoder=reader or lstm(), **settings), spec)


def a_batch(rows=5):
    torch.manual_seed(1)
    draw = lambda f: (  # noqa: E731
        torch.randint(1, f.size, (rows, *f.shape)) if f.size else torch.randn(rows, *f.shape)
    )
    return {name: draw(field) for name, field in INPUTS.items()}


def parameters(of):
    return sum(p.numel() for p in of.parameters())


@pytest.mark.parametrize("combine", ["concat", "add", "attention"])
@pytest.mark.parametrize("dense", [[], [7]])
def test_every_way_to_combine_answers_all_targets_and_all_weights_learn(combine, dense):
    built = model(
        combine=combine,
        dense=dense,
        encoders={"right": lstm(units=3), "picture": node("encoder", "convnet")},
    )
    answers = built(a_batch())
    assert {name: tuple(raw.shape) for name, raw in answers.items()} == {
        "price": (5, 1),
        "kind": (5, 4),
    }
    sum(raw.square().sum() for raw in answers.values()).backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert set(built.readers) == {"left", "right", "walk", "picture"}


@pytest.mark.parametrize("combine", ["concat", "add", "attention"])
def test_every_input_counts(combine):
    built, batch = (
        model(combine=combine, encoders={"picture": node("encoder", "convnet")}).eval(),
        a_batch(),
    )
    with torch.no_grad():
        before = built(batch)["kind"]
        for name in INPUTS:
            changed = {**batch, name: batch[name].flip(0)}
            assert not torch.allclose(built(changed)["kind"], before), name


def test_vectors_of_one_width_are_added_as_they_are_and_others_are_projected():
    texts = Spec({"left": WORDS, "right": WORDS}, TARGETS)
    built, batch = model(texts, combine="add").eval(), a_batch()
    assert (
        not built.combiner.projections and built.combiner.rest is None and built.combiner.width == 6
    )
    read = {name: built.readers[name](batch[name]) for name in ("left", "right")}
    with torch.no_grad():
        assert torch.allclose(built.combiner({**batch, **read}), read["left"] + read["right"])
    narrow = model(texts, combine="add", encoders={"right": lstm(units=4)})
    assert set(narrow.combiner.projections) == {"right"} and narrow.combiner.width == 6


def test_attention_is_an_average_by_weights_that_depend_on_the_vectors():
    combiner = model(Spec({"left": WORDS, "right": WORDS}, TARGETS), combine="attention").combiner
    vectors = {"left": torch.randn(4, 6), "right": torch.randn(4, 6)}
    with torch.no_grad():
        low, high = torch.minimum(*vectors.values()), torch.maximum(*vectors.values())
        found = combiner(vectors)
        assert (found >= low - 1e-6).all() and (found <= high + 1e-6).all()
        share = (found - vectors["right"]) / (vectors["left"] - vectors["right"])
        assert (
            share.std(1).max() < 1e-3 and share.mean(1).std() > 1e-3
        )  # one weight a row, not the same for all rows
        combiner.score.weight.zero_()
        assert torch.allclose(combiner(vectors), (vectors["left"] + vectors["right"]) / 2)


def test_inputs_that_share_a_reader_have_one_set_of_weights_and_both_teach_it():
    texts = Spec({"left": WORDS, "right": WORDS}, TARGETS)
    apart, shared = model(texts), model(texts, share=[["left", "right"]])
    assert list(shared.readers) == ["left"]
    one = parameters(shared.readers["left"])
    assert parameters(apart) - parameters(shared) == one
    batch = a_batch()
    gradients = []
    for silent in ((), ("left",), ("right",)):
        shared.zero_grad()
        read = {n: shared.readers["left"](batch[n]) for n in ("left", "right")}
        read = {n: v.detach() if n in silent else v for n, v in read.items()}
        sum(raw.sum() for raw in shared.tail(read).values()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in shared.readers.parameters()]))
    both, right, left = gradients
    assert (
        left.abs().sum() > 0
        and right.abs().sum() > 0
        and torch.allclose(both, left + right, atol=1e-5)
    )
    answers = shared.eval()({"left": batch["left"], "right": batch["left"]})
    assert torch.isfinite(answers["price"]).all()


def test_a_named_reader_may_be_shared():
    built = model(share=[["left", "right"]], encoders={"right": lstm(units=3)})
    assert set(built.readers) == {"right", "walk"} and built.read_by["left"] == "right"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"share": [["left", "write"]]},
            "model.share names write; the inputs are left .tokens., right",
        ),
        ({"share": [["left"]]}, "shares with nobody"),
        ({"share": [["town", "age"]]}, "town, age, which no encoder reads"),
        ({"encoders": {"lift": lstm()}}, "model.encoders names lift; the inputs are left"),
        (
            {"encoders": {"town": lstm()}},
            "model.encoders.town: an encoder reads tokens or series or image",
        ),
        ({"share": [["left", "walk"]]}, "left and walk are not alike .tokens and series"),
        (
            {"share": [["left", "right"]], "encoders": {"left": lstm(), "right": lstm()}},
            "names one for each",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_there_is(settings, says):
    with pytest.raises(UserError, match=says):
        model(**settings)


def test_texts_with_numbers_of_their_own_cannot_share():
    other = Spec({"left": WORDS, "right": Field("tokens", (7,), 31)}, TARGETS)
    with pytest.raises(UserError, match="30 and 31 different words.*share_words"):
        model(other, share=[["left", "right"]])


def test_a_picture_and_a_text_with_a_reader_each():
    spec = Spec({name: INPUTS[name] for name in ("picture", "left")}, TARGETS)
    picture = node("encoder", "convnet", filters=[4, 8])
    built = model(spec, encoders={"picture": picture}, combine="attention", dense=[6])
    assert built(a_batch())["kind"].shape == (5, 4) and built.readers["picture"].width == 8
    flat = build_part({**picture, "ends": "flatten"})(INPUTS["picture"])
    assert flat.width == 8 * 3 * 3
    with pytest.raises(UserError, match="reads an image, not tokens"):
        build_part(picture)(WORDS)


@pytest.mark.parametrize(
    "name",
    [name for name in list_group_options(get_builtin_conf(), "encoder") if name != "convnet"],
)
def test_every_reader_learns_in_half_precision_on_the_cpu(name):
    small = {
        "conv1d": {"kernel": 2, "pool": [2, 1]},
        "conv_gru": {"kernel": 2, "pool": [2, 1]},
    }.get(name, {})
    built = model(Spec({"left": WORDS}, TARGETS), node("encoder", name, **small))
    with torch.autocast("cpu", torch.bfloat16):
        answers = built(a_batch())
        loss = sum(raw.float().square().sum() for raw in answers.values())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())


def test_runs_are_called_after_the_reader_that_reads_everything():
    assert (
        get_model_part_name(node("model", "lstm")) == "lstm"
        and get_model_part_name(node("model", "embedding")) == "embedding"
    )
    assert (
        get_model_part_name(node("model", "dense")) == "dense"
        and get_model_part_name(node("model", "social")) == "conv1d"
    )
    assert get_model_part_name(node("model", "combined", encoders={"a": lstm()})) == "combined"


def test_models_with_a_reader_for_everything_are_in_the_tables():
    nodes = {
        name: yaml.safe_load((get_builtin_conf() / "model" / f"{name}.yaml").read_text())
        for name in MODELS
    }
    plain = [
        n
        for n, found in nodes.items()
        if "combined" in found.get("defaults", []) and not found.get("encoders")
    ]
    assert len(plain) >= 7
    for name in plain:
        called = get_model_part_name(node("model", name))
        assert "tokens" in ACCEPTS[called] and "tokens" in NEEDS[called], name


MODELS = list_group_options(get_builtin_conf(), "model")


@pytest.mark.parametrize(
    ("settings", "inputs", "says"),
    [
        (
            {},
            {"review": "bag"},
            "model=lstm needs tokens or a series, but the data give bag 'review'.*data.length=500",
        ),
        (
            {},
            {"x": "number"},
            "model=lstm needs tokens or a series.*models that can read it: constant, dense",
        ),
        (
            {"encoders": {"walk": node("encoder", "convnet")}},
            KINDS,
            "model.encoders.walk: convnet reads image",
        ),
        (
            {"encoders": {"picture": lstm()}},
            KINDS,
            "model.encoders.picture: lstm reads tokens or series",
        ),
        ({"encoders": {"walk": node("encoder", "embedding")}}, KINDS, "embedding reads tokens"),
        ({"share": [["left", "rigth"]]}, KINDS, "model.share names rigth"),
    ],
)
def test_a_config_is_told_before_data_are_prepared(settings, inputs, says):
    with pytest.raises(UserError, match=says):
        raise UserError(get_input_error(node("model", "lstm", **settings), inputs) or "nothing")


def test_what_can_be_is_not_refused():
    assert get_input_error(node("model", "lstm", share=[["left", "right"]]), KINDS) is None
    assert (
        get_input_error(
            node("model", "combined", encoders={"picture": node("encoder", "convnet")}),
            {"picture": "image"},
        )
        is None
    )
    assert get_input_error({"_target_": "mine.net"}, {"x": "bag"}) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "task=similarity model.share=[[left,write]]",
            "model.share names write; the inputs are left (tokens)",
        ),
        ("task=similarity model.combine=multiply", "one of concat, add, attention"),
        ("task=similarity +encoder@model.encoders.lift=lstm", "model.encoders names lift"),
        (
            "task=similarity +encoder@model.encoders.left=lstn",
            "no encoder 'lstn': did you mean 'lstm'",
        ),
        (
            "task=similarity +encoder@model.encoders.left=lstm model.encoders.left.units=0",
            "model.encoders.left.units",
        ),
        (
            "task=similarity +encoder@model.encoders.left=lstm +model.encoders.left.unit=3",
            "no setting 'model.encoders.left.unit'",
        ),
        (
            "task=similarity +model.encoders.left=lstm",
            "model.encoders.left='lstm': choose an encoder by name",
        ),
        ("task=similarity model.encoder.units=none", "model.encoder.units='none'"),
        ("task=similarity encoder@model.encoder=gruu", "no encoder 'gruu': did you mean 'gru'"),
        (
            "task=imdb model=lstm",
            "model=lstm needs tokens or a series, but task=imdb gives bag 'review'",
        ),
        ("task=wine model=gru", "model=gru needs tokens or a series"),
        (
            "task=tickets model=dense +encoder@model.encoders.body=lstm",
            "no setting 'model.encoders'",
        ),
    ],
)
def test_wrong_words_get_exit_code_2_and_one_message(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
