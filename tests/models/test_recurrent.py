"""Recurrent encoders against torch's own modules, the loop over steps against the kernels, and dropout by sequence."""

from __future__ import annotations

import math

import pytest
import torch
from test_encoders import CELLS, SERIES, WORDS, reader, texts
from torch import nn

from dlrun.models.sequence.recurrent import NATIVE_LAYERS, DropoutRates, RecurrentLayer

MODULES = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def by_torch(built, cell, both, layers=2, units=6):
    """torch's own module of several layers, with the weights of a reader."""
    body, words = built.body, built.words
    native = MODULES[cell](words.embedding_dim, units, layers, batch_first=True, bidirectional=both)
    for number, layer in enumerate(body.layers):
        for direction, suffix in zip(layer, ("", "_reverse"), strict=False):
            for key, weight in direction.native.named_parameters():
                getattr(native, key.replace("_l0", f"_l{number}{suffix}")).data.copy_(weight)
    return native


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_unmasked_it_is_torch_s_module_on_the_padded_batch_bit_for_bit(cell, both):
    built = reader(cell, units=[6, 6], bidirectional=both, mask=False)
    words = texts([9, 2, 12], 12, "front")
    state = by_torch(built, cell, both)(built.words(words))[1]
    hidden = state[0] if cell == "lstm" else state
    wanted = torch.cat(list(hidden[-1 - both :]), 1)
    assert torch.allclose(built(words), wanted, atol=1e-6)
    assert both or torch.equal(built(words), wanted)  # torch multiplies both directions at once


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_masked_it_is_torch_s_module_on_packed_sequences(cell, both):
    built = reader(cell, units=[6, 6], bidirectional=both)
    lengths = [9, 2, 12, 1, 7] * 8
    words = texts(lengths, 12, "back")
    packed = nn.utils.rnn.pack_padded_sequence(
        built.words(words), lengths, batch_first=True, enforce_sorted=False
    )
    state = by_torch(built, cell, both)(packed)[1]
    hidden = state[0] if cell == "lstm" else state
    assert torch.allclose(built(words), torch.cat(list(hidden[-1 - both :]), 1), atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_in_front_is_read_once_with_the_same_answer_and_gradient(cell):
    lengths = torch.randint(0, 30, (40,), generator=torch.Generator().manual_seed(4)).tolist()
    words = texts([*lengths, 0, 30], 60, "front")
    one, other = (reader(cell, mask=False).train() for _ in range(2))
    seen = []
    other.body.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[:2]))
    whole, parts = one._read(words), other(words)
    assert (
        len(seen) == (4 if cell == "lstm" else 1)
        and sum(map(math.prod, seen)) < 0.6 * words.numel()
    )
    assert torch.allclose(whole, parts, atol=1e-6)
    for answer in (whole, parts):
        answer.square().sum().backward()
    for weight, again in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(weight.grad, again.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"dropout": 0.5}, {"recurrent_dropout": 0.5}, {"bidirectional": True}]
)
def test_where_rows_do_not_share_a_state_the_whole_batch_is_read(changes):
    built = reader("gru", mask=False, **changes).train()
    seen = []
    built.body.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[:2]))
    built(texts([3] * 20 + [40] * 20, 40, "front"))
    assert seen == [(40, 40)]


@pytest.mark.parametrize("cell", CELLS)
def test_the_loop_over_steps_is_the_native_kernel(cell):
    torch.manual_seed(0)
    direction = RecurrentLayer(cell, 5, 7, "tanh", DropoutRates())
    x = torch.randn(11, 4, 5)
    start = tuple(torch.randn(4, 7) for _ in range(1 + (cell == "lstm")))
    for state in (None, start):
        (one, last), (other, end) = direction(x, state), direction._loop(x, state)
        assert torch.allclose(one, other, atol=1e-5)
        assert len(last) == len(end) == len(start)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(last, end, strict=True))
        weights = list(direction.parameters())
        gradients = [torch.autograd.grad(outputs.cos().sum(), weights) for outputs in (one, other)]
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients, strict=True))


def test_another_activation_is_another_function():
    torch.manual_seed(0)
    direction = RecurrentLayer("gru", 5, 7, "relu", DropoutRates())
    outputs, _ = direction(100 * torch.randn(11, 4, 5))
    assert float(outputs.detach().max()) > 1  # beyond what tanh answers
    loop = nn.RNN(5, 7, nonlinearity="relu")
    simple = RecurrentLayer("rnn", 5, 7, "relu", DropoutRates())
    simple.native.load_state_dict(loop.state_dict())
    x = torch.randn(11, 4, 5)
    assert torch.allclose(simple(x)[0], loop(x)[0], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_the_state_has_one_mask_a_sequence_for_all_steps(cell, monkeypatch):
    """Of what the recurrent weights are given, the same places are zero at every step, and others in other rows."""
    torch.manual_seed(0)
    direction = RecurrentLayer(cell, 5, 40, "tanh", DropoutRates(state=0.5)).train()
    given = []
    linear = nn.functional.linear

    def watched(x, weight, bias):
        given.append(x.detach()) if weight is direction.native.weight_hh_l0 else None
        return linear(x, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", watched)
    outputs, _ = direction(torch.randn(9, 16, 5))
    dropped = torch.stack(given[1:]) == 0  # before the first step the state is zero
    assert dropped.shape == (8, 16, 40) and torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert 0.4 < float(dropped.float().mean()) < 0.6 and len(dropped[0].unique(dim=0)) == 16
    assert torch.allclose(
        given[3][~dropped[2]], 2 * outputs[2].detach()[~dropped[2]]
    )  # what is kept counts twice
    given.clear()
    direction.eval()(torch.randn(9, 16, 5))
    assert not given  # the native kernel, and no dropout


def test_inputs_have_one_mask_a_sequence_for_all_steps():
    torch.manual_seed(0)
    direction = RecurrentLayer("gru", 30, 4, "tanh", DropoutRates(inputs=0.5)).train()
    seen = []
    direction.native.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    direction(torch.ones(9, 16, 30))
    direction.eval()(torch.ones(9, 16, 30))
    masked, whole = seen
    assert torch.equal(masked, masked[:1].expand_as(masked)) and masked.unique().tolist() == [0, 2]
    assert len(masked[0].unique(dim=0)) == 16 and (whole == 1).all()


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_is_off_in_evaluation_and_a_hair_of_it_changes_nothing(cell):
    changes = {"dropout": 1e-9, "recurrent_dropout": 1e-9}
    for field, x in (
        (WORDS, texts([9, 4, 12], 12, "front")),
        (SERIES, torch.randn(3, *SERIES.shape)),
    ):
        plain, almost = reader(cell, field), reader(cell, field, **changes)
        assert torch.allclose(almost.train()(x), plain(x), atol=1e-5)
        much = reader(cell, field, dropout=0.5, recurrent_dropout=0.5)
        assert torch.equal(much(x), plain(x)) and not torch.allclose(
            much.train()(x), plain(x), atol=1e-3
        )


def test_the_cells_are_torch_s():
    assert NATIVE_LAYERS == MODULES
