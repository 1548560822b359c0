"""Recurrent nets: torch's native kernels where they can do it, a loop over the steps where they cannot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dlrun.models.layers import ACTIVATIONS
from dlrun.models.sequence.masking import NUM_GROUPS, pool_steps, reverse_steps

Cell = Literal["rnn", "lstm", "gru"]
State = tuple[Tensor, ...]  # (h,), and for an LSTM (h, c): each (B, units)
NATIVE_LAYERS: dict[str, Callable[[int, int], nn.RNNBase]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


@dataclass(frozen=True)
class DropoutRates:
    """Shares dropped in training, with one mask a sequence: of the inputs, and of the state on its way to the next."""

    inputs: float = 0.0
    state: float = 0.0


def rnn_step(
    given: Tensor, state: State, recur: Callable[[Tensor], Tensor], act: nn.Module
) -> State:
    """One step of a simple recurrent net: act(W x + U h)."""
    return (act(given + recur(state[0])),)


def lstm_step(
    given: Tensor, state: State, recur: Callable[[Tensor], Tensor], act: nn.Module
) -> State:
    """One step of an LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers 1999), in torch's order."""
    keep, forget, fresh, out = (given + recur(state[0])).chunk(4, 1)
    memory = forget.sigmoid() * state[1] + keep.sigmoid() * act(fresh)
    return out.sigmoid() * act(memory), memory


def gru_step(
    given: Tensor, state: State, recur: Callable[[Tensor], Tensor], act: nn.Module
) -> State:
    """One step of a GRU (Cho 2014) that resets after the product, as torch's and cuDNN's do."""
    (hidden,) = state
    reset, update, fresh = given.chunk(3, 1)
    old_reset, old_update, old_fresh = recur(hidden).chunk(3, 1)
    fresh = act(fresh + (reset + old_reset).sigmoid() * old_fresh)
    return (fresh + (update + old_update).sigmoid() * (hidden - fresh),)


STEP_FUNCTIONS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


def disable_cpu_autocast(kind: str) -> AbstractContextManager[object]:
    """Leaves autocast on the CPU, where torch's recurrent kernels know bfloat16 on some machines only."""
    left = kind == "cpu" and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if left else nullcontext()


def sample_dropout_mask(like: Tensor, share: float) -> Tensor:
    """A dropout mask (B, D), to be used for all steps of a sequence: 0, or 1 / (1 - share)."""
    return nn.functional.dropout(torch.ones_like(like), share)


class RecurrentLayer(nn.Module):
    """One layer that reads in one direction. Its weights are a native module's: torch's names, and its two biases.

    The native kernel reads, but for an activation other than tanh, and in training with dropout of the state: then a
    loop over the steps does the same. Dropout of the state has one mask a sequence, for all gates and steps (Gal &
    Ghahramani 2016), and leaves an LSTM's memory alone.
    """

    def __init__(
        self, cell: Cell, width: int, units: int, activation: str, drops: DropoutRates
    ) -> None:
        super().__init__()
        self.native = NATIVE_LAYERS[cell](width, units)
        self.cell, self.activation, self.drops = cell, ACTIVATIONS[activation](), drops
        self.plain = activation == "tanh"

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Inputs (T, B, width) → outputs (T, B, units) and the state after the last step."""
        if self.training and self.drops.inputs:
            x = x * sample_dropout_mask(x[0], self.drops.inputs)
        if not self.plain or (self.training and self.drops.state):
            return self._loop(x, state)
        x = x.float() if x.device.type == "cpu" else x
        first = None if state is None else tuple(part[None].to(x.dtype) for part in state)
        with disable_cpu_autocast(x.device.type):
            outputs, last = self.native(
                x, first if first is None or self.cell == "lstm" else first[0]
            )
        return outputs, tuple(part[0] for part in (last if self.cell == "lstm" else (last,)))

    def _loop(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        weight, bias = cast(Tensor, self.native.weight_hh_l0), cast(Tensor, self.native.bias_hh_l0)
        given = nn.functional.linear(
            x, cast(Tensor, self.native.weight_ih_l0), cast(Tensor, self.native.bias_ih_l0)
        )
        empty = x.new_zeros(x.shape[1], self.native.hidden_size)
        state = state or (empty,) * (2 if self.cell == "lstm" else 1)
        mask = (
            sample_dropout_mask(empty, self.drops.state)
            if self.training and self.drops.state
            else None
        )
        recur = lambda h: nn.functional.linear(h if mask is None else h * mask, weight, bias)  # noqa: E731
        outputs, step = [], STEP_FUNCTIONS[self.cell]
        for each in given.unbind(0):
            state = step(each, state, recur, self.activation)
            outputs.append(state[0])
        return torch.stack(outputs), state


class Recurrent(nn.Module):
    """Layers of recurrent units, the next one reading what the last one has answered at each step.

    layers: units and activation of each. ends: the state after the last step, or what all steps answered averaged,
    or the largest of it. Of a bidirectional layer both directions are laid side by side; each has read all steps in its
    last state.
    """

    def __init__(
        self,
        width: int,
        cell: Cell,
        layers: list[tuple[int, str]],
        drops: DropoutRates,
        both: bool,
        ends: str,
    ) -> None:
        super().__init__()
        self.layers, self.ends = nn.ModuleList(), ends
        for count, activation in layers:
            directions = [
                RecurrentLayer(cell, width, count, activation, drops) for _ in range(1 + both)
            ]
            self.layers.append(nn.ModuleList(directions))
            width = count * (1 + both)
        self.width = width
        self.drops, self.goes_on = drops, not both and ends == "last"
        self.groups = (
            NUM_GROUPS if cell == "lstm" else 1
        )  # the other kernels take nearly as long for few rows as for many

    @property
    def padding_prefix_shared(self) -> bool:
        """Whether rows that begin alike are in the same state after it, so that this has to be computed once only."""
        return self.goes_on and not (self.training and (self.drops.inputs or self.drops.state))

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, states: list[State] | None = None
    ) -> Tensor:
        """Steps (B, T, D), of which the first `lengths` of each row count, → (B, width)."""
        outputs, last = self.read(x, lengths, states)
        if self.ends != "last":
            return pool_steps(
                self._concat_outputs(outputs, lengths).transpose(0, 1), lengths, self.ends
            )
        if lengths is None:
            return torch.cat([state[0] for state in last[-1]], 1)
        rows = torch.arange(len(lengths), device=lengths.device)
        return torch.cat([answers[lengths - 1, rows] for answers in outputs], 1)

    def read(
        self, x: Tensor, lengths: Tensor | None, states: list[State] | None = None
    ) -> tuple[list[Tensor], list[list[State]]]:
        """What the last layer's directions answer, (T, B, units) in their own order, and all layers' last states.

        states: what each layer begins with, where there is one direction only.
        """
        x = x.transpose(0, 1).contiguous()
        outputs: list[Tensor] = []
        last: list[list[State]] = []
        for number, layer in enumerate(self.layers):
            x = self._concat_outputs(outputs, lengths) if number else x
            first = None if states is None else states[number]
            directions = list(cast(nn.ModuleList, layer))
            read = [
                directions[0](x, first),
                *(other(reverse_steps(x, lengths)) for other in directions[1:]),
            ]
            outputs = [answers for answers, _ in read]
            last.append([state for _, state in read])
        return outputs, last

    def _concat_outputs(self, outputs: list[Tensor], lengths: Tensor | None) -> Tensor:
        forth, *back = outputs
        return (
            torch.cat([forth, *(reverse_steps(answers, lengths) for answers in back)], 2)
            if back
            else forth
        )
