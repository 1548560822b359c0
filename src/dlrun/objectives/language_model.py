"""Learn how a text goes on, as any target is learnt, and write: token after token, each drawn from what is likely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, Fraction, NonNegative
from dlrun.core.artifacts import Writing
from dlrun.core.errors import Refused
from dlrun.core.types import Batch, Score, Spec
from dlrun.data.loading.sequences import Windows
from dlrun.data.loading.table import Table
from dlrun.data.preprocessing.language import Tokens, glue, joined
from dlrun.evaluation.metrics import over_rows
from dlrun.evaluation.split_metrics import FINISHES
from dlrun.models.baselines import common_sense
from dlrun.models.bigram import MOST, Bigram, bigram
from dlrun.models.language.sampling import chances
from dlrun.objectives.context import Given
from dlrun.objectives.supervised import Supervised

Reader = Callable[[Tensor, Any], tuple[Tensor, Any]]  # tokens (1, T), state or None → logits (1, size), state


@dataclass(frozen=True)
class Again:
    """Reads with a model that carries no state: what it has read so far, as far as a window reaches, is its state."""

    model: nn.Module
    names: tuple[str, str]
    length: int

    def __call__(self, tokens: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        window = (tokens if before is None else torch.cat([before, tokens], 1))[:, -self.length :]
        logits = self.model({self.names[0]: window})[self.names[1]]
        return (logits[:, -1] if logits.dim() == 3 else logits), window


@dataclass(frozen=True)
class Writer:
    """Writes with a model. text: the tokens (n,) of the training text. least: it has learnt of no fewer before."""

    read: Reader
    tokens: Tokens
    text: Tensor
    length: int
    least: int
    usual: dict[str, Any]

    def write(
        self,
        *,
        prompt: str = "",
        temperature: list[NonNegative] | None = None,
        length: Count | None = None,
        top_k: Count | None = None,
        top_p: Fraction | None = None,
    ) -> Iterator[Writing]:
        """How a prompt may go on, once for each temperature; without one, a passage of the training text."""
        asked, strange = self.tokens.numbers(prompt)
        if strange:
            yield Writing(f"(left out, for the training text has none: {' '.join(map(repr, strange))})\n")
        if asked and len(asked) < self.least:
            yield Writing(f"(before it, the model reads {self.least - len(asked)} tokens of the training text)\n")
        begun = asked or self.passage(self.length)
        yield Writing(f"{joined(self.tokens.tokens(begun), self.tokens.unit)}\n")
        read = [*self.passage(self.least - len(begun)), *begun]
        first = self.read(self.text.new_tensor([read]), None)
        for each in self.usual["temperature"] if temperature is None else temperature:
            yield Writing(f"\n--- temperature {each:g} ---\n")
            draw = lambda logits, heat=each: chances(logits, heat, top_k, top_p)  # noqa: E731
            yield from self._go_on(first, begun[-1], length or self.usual["length"], draw)
            yield Writing("\n")

    def passage(self, count: int) -> list[int]:
        """So many tokens of the training text from a random place on; none where that is none."""
        count = min(count, len(self.text))
        if count <= 0:
            return []
        start = int(torch.randint(len(self.text) - count + 1, ()))
        return self.text[start : start + count].tolist()  # type: ignore[no-any-return]

    def _go_on(
        self, read: tuple[Tensor, Any], last: int, length: int, draw: Callable[[Tensor], Tensor]
    ) -> Iterator[Writing]:
        """Draw so many tokens, one after the other, each read before the next one."""
        (logits, state), (before,) = read, self.tokens.tokens([last])
        for _ in range(length):
            number = torch.multinomial(draw(logits[0]), 1)
            (token,) = self.tokens.tokens(number.tolist())
            yield Writing(glue(before, token, self.tokens.unit) + token)
            before = token
            logits, state = self.read(number[None], state)


@dataclass
class Beside:
    """Measures a bigram on the split that a fit is scored on."""

    spec: Spec
    train: Table

    @cached_property
    def counted(self) -> Bigram:
        """The pairs of the training rows."""
        found = cast(Bigram, bigram(self.spec)).to(next(iter(self.train.columns.values())).place)
        found.solve(self.train)
        return found

    def judge(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The bits of a bigram, which knows the token before and no more: a stiffer bar than how often each occurs."""
        return {"bits_bigram": over_rows(torch.cat([self.counted.nats(batch) for batch in batches]), FINISHES["bits"])}


def language(given: Given, *, length: Count, temperature: list[NonNegative]) -> Supervised:
    """The model's next tokens against those of the text, and what it writes, `length` tokens at each `temperature`.

    A model that has a state of its own and answers at each place is asked for one token after the other; any other
    reads the window before each. Raises Refused for data that are no text.
    """
    spec, steps = given.data.spec, given.data.learnt
    (name, about), (target, answer) = next(iter(spec.inputs.items())), next(iter(spec.targets.items()))
    if not steps.get(name) or not isinstance(steps[name][-1], Tokens):
        raise Refused(f"objective=language learns how a text goes on, and '{name}' is no such text: it needs "
                      "task=nietzsche, task=shakespeare or task=text_file")  # fmt: skip
    tokens: Any = steps[name][-1]
    every, model, window = answer.kind == "tokens", given.model, about.shape[0]
    carried = getattr(model, "read", None) if every else None
    read: Any = carried or Again(model, (name, target), window)
    usual = {"length": length, "temperature": temperature}
    writer = Writer(read, tokens, seen(given.data.train, name), window, 1 if every else window, usual)
    bar: Any = common_sense(spec)
    bar.note = f"baseline: how often each {tokens.unit} occurs"
    simple = lambda: Supervised(bar, given.losses, given.weights)  # noqa: E731
    made = Supervised(model, given.losses, given.weights, given.augment, simple)
    made.makes, made.shown = {"text": writer.write}, ("text",)
    if about.size <= MOST:
        made.judge = Beside(spec, given.data.train).judge  # type: ignore
    return made


def seen(train: Any, name: str) -> Tensor:
    """The tokens that the training windows lie on."""
    column: Windows = train.columns[name]
    return column.values[int(column.first.min()) : int(column.first.max()) + len(column.offsets)].long()
