"""Recurrent nets: torch's native kernels where they can do it, else a loop over the steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dlrun.models.layers import ACTIVATIONS
from dlrun.models.sequence.masking import NUM_GROUPS, SequenceBody, pool_steps, reverse_steps

Cell = Literal["rnn", "lstm", "gru"]
State = tuple[Tensor, ...]  # (h,), and for an LSTM (h, c): each (B, units)
NATIVE_LAYERS: dict[str, Callable[[int, int], nn.RNNBase]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


@dataclass(frozen=True)
class DropoutRates:
    """Shares that are dropped in training, with one mask a sequence.

    Attributes:
        inputs: Of the inputs of a layer.
        state: Of the state on its way to the next step.
    """

    inputs: float = 0.0
    state: float = 0.0


def rnn_step(
    projected: Tensor, state: State, recur: Callable[[Tensor], Tensor], act: nn.Module
) -> State:
    """Return the state after one step of a simple recurrent net: act(W x + U h).

    Args:
        projected: W x + b of this step, of all gates (B, gates · units).
        state: Before the step.
        recur: h → U h + c, of all gates.
        act: Activation of the candidate.
    """
    return (act(projected + recur(state[0])),)


def lstm_step(
    projected: Tensor, state: State, recur: Callable[[Tensor], Tensor], act: nn.Module
) -> State:
    """Return the state after one step of an LSTM, its gates in torch's order.

    Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers 1999.

    Args:
        projected: W x + b of this step, of all gates (B, gates · units).
        state: Before the step.
        recur: h → U h + c, of all gates.
        act: Activation of the candidate.
    """
    input_gate, forget_gate, candidate, output_gate = (projected + recur(state[0])).chunk(4, 1)
    memory = forget_gate.sigmoid() * state[1] + input_gate.sigmoid() * act(candidate)
    return output_gate.sigmoid() * act(memory), memory


def gru_step(
    projected: Tensor, state: State, recur: Callable[[Tensor], Tensor], act: nn.Module
) -> State:
    """Return the state after one step of a GRU (Cho 2014).

    It resets after the product, as torch's and cuDNN's do.

    Args:
        projected: W x + b of this step, of all gates (B, gates · units).
        state: Before the step.
        recur: h → U h + c, of all gates.
        act: Activation of the candidate.
    """
    (hidden,) = state
    reset, update, candidate = projected.chunk(3, 1)
    state_reset, state_update, state_candidate = recur(hidden).chunk(3, 1)
    candidate = act(candidate + (reset + state_reset).sigmoid() * state_candidate)
    return (candidate + (update + state_update).sigmoid() * (hidden - candidate),)


STEP_FUNCTIONS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


def disable_cpu_autocast(kind: str) -> AbstractContextManager[object]:
    """Leave autocast on the CPU: recurrent kernels know bfloat16 on some machines only."""
    is_active = kind == "cpu" and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_active else nullcontext()


def sample_dropout_mask(like: Tensor, share: float) -> Tensor:
    """Return a mask (B, D) for all steps of a sequence: 0, or 1 / (1 - share)."""
    # torch scales what is left by 1 / (1 - share)
    return nn.functional.dropout(torch.ones_like(like), share)


class RecurrentLayer(nn.Module):
    """One layer that reads in one direction.

    torch's native kernel reads, but for an activation other than tanh, and in training with dropout
    of the state: then a loop over the steps does the same. Dropout of the state has one mask a
    sequence, for all gates and steps (Gal & Ghahramani 2016), and does not touch an LSTM's memory.

    Attributes:
        native: The native module. It holds the weights: torch's names, and its two biases.
        cell: rnn, lstm or gru.
        activation: Of the candidate state.
        drops: What is dropped in training.
        is_native: Whether the native kernel knows the activation.
    """

    def __init__(
        self, cell: Cell, width: int, units: int, activation: str, drops: DropoutRates
    ) -> None:
        super().__init__()
        self.native = NATIVE_LAYERS[cell](width, units)
        self.cell, self.activation, self.drops = cell, ACTIVATIONS[activation](), drops
        self.is_native = activation == "tanh"

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read a sequence.

        Args:
            x: (T, B, width).
            state: Before the first step; None for zeros.

        Returns:
            The state h after each step (T, B, units), and the whole state after the last one.
        """
        if self.training and self.drops.inputs:
            x = x * sample_dropout_mask(x[0], self.drops.inputs)
        if not self.is_native or (self.training and self.drops.state):
            return self._loop(x, state)
        # see `disable_cpu_autocast`
        x = x.float() if x.device.type == "cpu" else x
        initial = None if state is None else tuple(tensor[None].to(x.dtype) for tensor in state)
        with disable_cpu_autocast(x.device.type):
            outputs, last_state = self.native(
                x, initial if initial is None or self.cell == "lstm" else initial[0]
            )
        return outputs, tuple(
            tensor[0] for tensor in (last_state if self.cell == "lstm" else (last_state,))
        )

    def _loop(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        weight, bias = cast(Tensor, self.native.weight_hh_l0), cast(Tensor, self.native.bias_hh_l0)
        # the inputs of all steps at once: only the recurrence itself needs a loop
        projected = nn.functional.linear(
            x, cast(Tensor, self.native.weight_ih_l0), cast(Tensor, self.native.bias_ih_l0)
        )
        zeros = x.new_zeros(x.shape[1], self.native.hidden_size)
        state = state or (zeros,) * (2 if self.cell == "lstm" else 1)
        mask = None
        if self.training and self.drops.state:
            mask = sample_dropout_mask(zeros, self.drops.state)

        def recur(h: Tensor) -> Tensor:
            return nn.functional.linear(h if mask is None else h * mask, weight, bias)

        outputs, step = [], STEP_FUNCTIONS[self.cell]
        for step_input in projected.unbind(0):
            state = step(step_input, state, recur, self.activation)
            outputs.append(state[0])
        return torch.stack(outputs), state


class Recurrent(SequenceBody):
    """Layers of recurrent units, each reading what the one before returned at each step.

    The two directions of a bidirectional layer are concatenated; the last state of each has read
    all steps.

    Attributes:
        layers: One list of directions a layer.
        ends: last (the last state), average or max over the steps.
        width: Of the output.
        drops: What is dropped in training.
        goes_on: Whether reading can go on from a state: one direction, of which the last state
            counts.
        groups: Into how many groups of like length a batch is cut.
    """

    def __init__(
        self,
        width: int,
        cell: Cell,
        layers: list[tuple[int, str]],
        drops: DropoutRates,
        bidirectional: bool,
        ends: str,
    ) -> None:
        super().__init__()
        self.layers, self.ends = nn.ModuleList(), ends
        for count, activation in layers:
            directions = [
                RecurrentLayer(cell, width, count, activation, drops)
                for _ in range(1 + bidirectional)
            ]
            self.layers.append(nn.ModuleList(directions))
            width = count * (1 + bidirectional)
        self.width = width
        self.drops, self.goes_on = drops, not bidirectional and ends == "last"
        # the other kernels take nearly as long for few rows as for many
        self.groups = NUM_GROUPS if cell == "lstm" else 1

    @property
    def padding_prefix_shared(self) -> bool:
        """Whether rows that begin alike share a state after it, which is then computed once."""
        return self.goes_on and not (self.training and (self.drops.inputs or self.drops.state))

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, states: list[State] | None = None
    ) -> Tensor:
        """Read a batch of sequences.

        Args:
            x: (B, T, D).
            lengths: How many steps of each row count (B,); None for all.
            states: Of each layer before the first step; None for zeros.

        Returns:
            (B, width).
        """
        outputs, last_states = self.read(x, lengths, states)
        if self.ends != "last":
            steps = self._concat_outputs(outputs, lengths)
            return pool_steps(steps.transpose(0, 1), lengths, self.ends)
        if lengths is None:
            return torch.cat([state[0] for state in last_states[-1]], 1)
        # the last step that counts is another one in each row
        rows = torch.arange(len(lengths), device=lengths.device)
        return torch.cat([output[lengths - 1, rows] for output in outputs], 1)

    def read(
        self, x: Tensor, lengths: Tensor | None, states: list[State] | None = None
    ) -> tuple[list[Tensor], list[list[State]]]:
        """Read a batch of sequences, and return every step.

        Args:
            x: (B, T, D).
            lengths: How many steps of each row count (B,); None for all.
            states: Of each layer before the first step, where there is one direction only.

        Returns:
            Output of each direction of the last layer (T, B, units), in the order in which it
            reads, and the last states of all layers.
        """
        # torch's recurrent modules take steps first
        x = x.transpose(0, 1).contiguous()
        outputs: list[Tensor] = []
        last_states: list[list[State]] = []
        for index, layer in enumerate(self.layers):
            x = self._concat_outputs(outputs, lengths) if index else x
            initial = None if states is None else states[index]
            directions = list(cast(nn.ModuleList, layer))
            results = [
                directions[0](x, initial),
                *(direction(reverse_steps(x, lengths)) for direction in directions[1:]),
            ]
            outputs = [output for output, _ in results]
            last_states.append([state for _, state in results])
        return outputs, last_states

    def _concat_outputs(self, outputs: list[Tensor], lengths: Tensor | None) -> Tensor:
        forward, *backward = outputs
        if not backward:
            return forward
        return torch.cat([forward, *(reverse_steps(output, lengths) for output in backward)], 2)
