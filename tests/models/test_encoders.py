"""Laws of the encoders: padding changes nothing, the order in which steps are read, and how many weights there are."""

from __future__ import annotations

import pytest
import torch
from laboratory import node
from torch import nn

from dlrun.config.instantiate import build_part
from dlrun.config.parts import get_builtin_conf, list_group_options
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Spec
from dlrun.models.sequence.masking import move_padding_last, pool_steps, reverse_steps

SHORT = {
    "embedding": {"units": 5, "ends": "average"},
    "conv1d": {"filters": [3, 4], "kernel": 2, "pool": [2, 1]},
    "conv_gru": {"filters": [3, 4], "kernel": 2, "pool": [2, 1], "units": [4, 3]},
    "transformer": {"embedding": 8, "dense": 6, "blocks": 2},
    **dict.fromkeys(("rnn", "lstm", "gru"), {"units": [6, 4], "embedding": 5}),
}
WORDS, SERIES = Field("tokens", (), 50), Field("series", (9, 3))
READERS = [
    name for name in list_group_options(get_builtin_conf(), "encoder") if name != "convnet"
]  # of images
CELLS = ("rnn", "lstm", "gru")
VARIANTS = [(name, {}) for name in READERS] + [
    *((cell, {"bidirectional": both, "reverse": turn, "ends": ends})
      for cell in CELLS for both in (False, True) for turn in (False, True) for ends in ("last", "average", "max")),
    ("lstm", {"activation": ["tanh", "relu"]}),
    ("embedding", {"ends": "max"}),
    ("conv1d", {"ends": "average"}),
]  # fmt: skip


def reader(name, field=WORDS, **changes):
    torch.manual_seed(3)
    return build_part(node("encoder", name, **{**SHORT[name], **changes}))(field).eval()


def texts(lengths, width, side, seed=1):
    """The same words for the same lengths and seed, wherever they are put."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        words = torch.randint(1, 50, (length,), generator=generator)
        row[slice(width - length, width) if side == "front" else slice(0, length)] = words
    return rows


def test_every_reader_is_tested():
    assert set(READERS) == set(SHORT) and len(READERS) == 7


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_masked_padding_changes_nothing(name, changes):
    lengths = [9, 4, 1, 7, 12, 0, 3, 12] * 5  # enough rows that they are read in groups
    built = reader(name, **changes)
    wanted = torch.cat(
        [
            built(texts(lengths, 12, "back")[row : row + 1, : max(1, n)])
            for row, n in enumerate(lengths)
        ]
    )
    for side, width in (("front", 12), ("back", 12), ("front", 31), ("back", 40)):
        assert torch.allclose(built(texts(lengths, width, side)), wanted, atol=1e-6), (side, width)


@pytest.mark.parametrize("name", [name for name in READERS if name != "embedding"])
def test_without_a_mask_padding_is_read_like_a_word(name):
    built = reader(name, mask=False)
    apart = [built(texts([4, 9], width, "back")) for width in (12, 20)]
    assert (
        not torch.allclose(*apart, atol=1e-4) or name == "conv1d"
    )  # whose largest answers may be those of words
    words = texts([12, 12], 12, "back")
    assert torch.allclose(built(words), reader(name, mask=True)(words), atol=1e-6)


@pytest.mark.parametrize("field", [WORDS, SERIES], ids=["words", "series"])
@pytest.mark.parametrize("init", ["torch", "keras"])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("name", [name for name in READERS if name != "embedding"])
def test_gradients_reach_every_weight(name, mask, init, field):
    torch.manual_seed(0)
    target = {"y": Field("binary", (1,), prior=torch.tensor([0.5]))}
    changes = {**SHORT[name], "mask": mask}
    if name in CELLS:
        changes |= {"bidirectional": True, "dropout": 0.2, "recurrent_dropout": 0.2}
    model = build_part(
        node("model", name, encoder=node("encoder", name, **changes), init=init),
        Spec({"x": field}, target),
    )
    x = texts([9, 6, 12, 12], 12, "front") if field is WORDS else torch.randn(4, *SERIES.shape)
    model.train()({"x": x})["y"].square().sum().backward()
    assert all(
        weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters()
    )
    unmoved = {key for key, weight in model.named_parameters() if not weight.grad.any()}
    assert not unmoved


@pytest.mark.parametrize("cell", CELLS)
def test_reversed_is_to_read_the_sequence_from_its_end(cell):
    forth, back = reader(cell), reader(cell, reverse=True)
    back.load_state_dict(forth.state_dict())
    words = texts([8, 8, 8], 8, "back")
    assert torch.allclose(back(words), forth(words.flip(1)), atol=1e-6)
    forth, back = reader(cell, SERIES), reader(cell, SERIES, reverse=True)
    back.load_state_dict(forth.state_dict())
    series = torch.randn(4, *SERIES.shape)
    assert torch.equal(back(series), forth(series.flip(1)))


@pytest.mark.parametrize("cell", CELLS)
def test_what_is_answered_at_a_step_knows_no_later_one(cell):
    body = reader(cell, SERIES).body
    series = torch.randn(4, *SERIES.shape)
    later = series.clone()
    later[:, 5:] += torch.randn(4, 4, 3)
    (before,), (after,) = body.read(series, None)[0], body.read(later, None)[0]
    assert torch.equal(before[:5], after[:5]) and not torch.allclose(before[5:], after[5:])


def test_words_are_moved_to_the_front_with_their_order_and_their_number():
    packed, lengths = move_padding_last(torch.tensor([[0, 0, 3, 4], [5, 0, 6, 0], [0, 0, 0, 0]]), 1)
    assert packed.tolist() == [[3, 4, 0, 0], [5, 6, 0, 0], [0, 0, 0, 0]] and lengths.tolist() == [
        2,
        2,
        1,
    ]
    packed, lengths = move_padding_last(torch.tensor([[0, 7]]), 3)
    assert packed.tolist() == [[7, 0, 0]] and lengths.tolist() == [3]


def test_steps_turn_round_within_their_row():
    x = torch.arange(8.0).reshape(4, 2, 1)  # rows 0 2 4 6 and 1 3 5 7
    assert reverse_steps(x, torch.tensor([3, 4]))[:, :, 0].T.tolist() == [
        [4, 2, 0, 6],
        [7, 5, 3, 1],
    ]
    assert reverse_steps(x, None)[:, :, 0].T.tolist() == [[6, 4, 2, 0], [7, 5, 3, 1]]


def test_padded_steps_count_neither_in_the_average_nor_in_the_largest():
    x = torch.tensor([[[1.0], [-3.0], [100.0]], [[-2.0], [-4.0], [-6.0]]])
    lengths = torch.tensor([2, 3])
    assert pool_steps(x, lengths, "average").tolist() == [[-1], [-4]]
    assert pool_steps(x, lengths, "max").tolist() == [[1], [-2]]
    assert pool_steps(x, None, "average")[0].item() == pytest.approx(98 / 3)


def weights_of(name, field, dense=(), **settings):
    spec = Spec({"x": field}, {"y": Field("binary", (1,), prior=torch.tensor([0.5]))})
    model = build_part(
        node("model", name, encoder=node("encoder", name, **settings), dense=list(dense)), spec
    )
    return sum(weight.numel() for weight in model.parameters())


def test_parameters_are_as_many_as_in_the_book():
    """Where a figure is of a recurrent net, torch's second bias comes on top: one number a gate and unit."""
    reviews, weather = Field("tokens", (500,), 10000), Field("series", (240, 14))
    assert weights_of("embedding", Field("tokens", (20,), 10000)) == 80161
    assert weights_of("embedding", Field("tokens", (100,), 10000), [32], units=100) == 1320065
    assert weights_of("conv1d", reviews, mask=False) == 1315937
    assert weights_of("rnn", reviews) == 322113 + 32
    assert weights_of("lstm", reviews) == 328353 + 4 * 32
    assert weights_of("lstm", reviews, embedding=128) == 1280000 + 20608 + 33 + 4 * 32
    assert weights_of("conv_gru", weather) == 13697 + 3 * 32


@pytest.mark.parametrize("name", ["conv1d", "conv_gru"])
def test_sequences_of_which_nothing_would_be_left_are_refused_with_what_would_do(name):
    with pytest.raises(
        UserError, match="8 steps are too few for kernel=4 and pool=\\[3, 1\\].*15 steps"
    ):
        reader(name, Field("series", (8, 3)), kernel=4, pool=[3, 1])
    least = reader(name, Field("series", (15, 3)), kernel=4, pool=[3, 1])
    assert least(torch.randn(2, 15, 3)).isfinite().all()
    for mask in (True, False):  # texts of any length are filled up
        assert (
            reader(name, kernel=4, pool=[3, 1], mask=mask)(texts([2, 5], 5, "front"))
            .isfinite()
            .all()
        )


@pytest.mark.parametrize(("name", "field", "changes", "said"), [
    ("embedding", SERIES, {}, "reads words"),
    ("embedding", WORDS, {"ends": "flatten"}, "one length"),
    ("conv1d", WORDS, {"ends": "flatten"}, "one length"),
    ("conv1d", WORDS, {"pool": [2]}, "a number for each of filters"),
    ("lstm", WORDS, {"activation": ["tanh", "relu", "tanh"]}, "3 names for 2 layers"),
    ("lstm", WORDS, {"freeze": True}, "drawn at random"),
    ("gru", SERIES, {"vectors": "glove.6B.100d.txt"}, "the input is a series"),
    ("transformer", WORDS, {"heads": 3}, "heads=3"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused(name, field, changes, said):
    with pytest.raises(UserError, match=said):
        reader(name, field, **changes)


def test_an_input_that_cannot_be_read_is_named():
    spec = Spec({"weather": SERIES}, {"y": Field("binary", (1,), prior=torch.tensor([0.5]))})
    with pytest.raises(UserError, match="'weather'.*reads words"):
        build_part(node("model", "embedding"), spec)


def test_a_text_longer_than_the_positions_is_refused():
    with pytest.raises(UserError, match="12 steps is longer than positions=10"):
        reader("transformer", positions=10)(texts([12, 3], 12, "front"))
    assert reader("transformer", positions=10)(texts([9, 3], 12, "front")).isfinite().all()


def test_starting_weights_are_those_of_keras():
    torch.manual_seed(0)
    spec = Spec(
        {"x": Field("tokens", (), 2000)}, {"y": Field("binary", (1,), prior=torch.tensor([0.5]))}
    )
    parts = {
        name: build_part(node("model", name, init="keras"), spec).readers["x"]
        for name in ("lstm", "conv1d")
    }
    parts["transformer"] = build_part(node("model", "transformer", init="keras"), spec).readers["x"]
    assert all(float(p.words.weight.detach().abs().max()) <= 0.05 for p in parts.values())
    lstm = parts["lstm"].body.layers[0][0].native
    state = lstm.weight_hh_l0.detach()
    assert torch.allclose(state.T @ state, torch.eye(32), atol=1e-5)
    assert (
        lstm.bias_ih_l0.reshape(4, 32).sum(1).tolist() == [0, 32, 0, 0]
        and not lstm.bias_hh_l0.any()
    )
    assert near(lstm.weight_ih_l0, (6 / (32 + 4 * 32)) ** 0.5)
    convolution = next(part for part in parts["conv1d"].modules() if isinstance(part, nn.Conv1d))
    assert near(convolution.weight, (6 / (7 * (128 + 32))) ** 0.5) and not convolution.bias.any()
    attention = next(
        part for part in parts["transformer"].modules() if isinstance(part, nn.MultiheadAttention)
    )
    assert near(attention.in_proj_weight[:256], (6 / 512) ** 0.5)


def near(weight, bound):
    """Whether these weights are uniform between -bound and bound."""
    weight = weight.detach()
    return (
        float(weight.abs().max()) <= bound
        and abs(float(weight.std()) / (bound / 3**0.5) - 1) < 0.05
    )
