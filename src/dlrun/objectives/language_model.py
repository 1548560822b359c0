"""Learn how a text goes on, as any target is learnt, and write: token after token, each drawn from what is likely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, Fraction, NonNegative
from dlrun.core.artifacts import TextSample
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Score, Spec
from dlrun.data.loading.sequences import WindowColumn
from dlrun.data.preprocessing.language import TokenEncoder, get_token_separator, join_tokens
from dlrun.evaluation.mean_scores import score_from_rows
from dlrun.evaluation.metrics import nats_to_bits
from dlrun.models.baselines import build_baseline
from dlrun.models.bigram import MAX_TOKENS, Bigram, bigram
from dlrun.models.language.sampling import token_probabilities
from dlrun.models.model import as_model
from dlrun.objectives.context import ObjectiveContext
from dlrun.objectives.supervised import Supervised

NextTokenFunction = Callable[
    [Tensor, Any], tuple[Tensor, Any]
]  # tokens (1, T), state or None → logits (1, size), state


@dataclass(frozen=True)
class SlidingContextModel:
    """Reads with a model that carries no state: what it has read so far, as far as a window reaches, is its state."""

    model: nn.Module
    names: tuple[str, str]
    length: int

    def __call__(self, tokens: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        window = (tokens if before is None else torch.cat([before, tokens], 1))[:, -self.length :]
        logits = self.model({self.names[0]: window})[self.names[1]]
        return (logits[:, -1] if logits.dim() == 3 else logits), window


@dataclass(frozen=True)
class TextGenerator:
    """Writes with a model. text: the tokens (n,) of the training text. least: it has learnt of no fewer before."""

    read: NextTokenFunction
    tokens: TokenEncoder
    text: Tensor
    length: int
    min_context: int
    defaults: dict[str, Any]

    def generate(
        self,
        *,
        prompt: str = "",
        temperature: list[NonNegative] | None = None,
        length: Count | None = None,
        top_k: Count | None = None,
        top_p: Fraction | None = None,
    ) -> Iterator[TextSample]:
        """How a prompt may go on, once for each temperature; without one, a passage of the training text."""
        asked, strange = self.tokens.encode(prompt)
        if strange:
            yield TextSample(
                f"(left out, for the training text has none: {' '.join(map(repr, strange))})\n"
            )
        if asked and len(asked) < self.min_context:
            yield TextSample(
                f"(before it, the model reads {self.min_context - len(asked)} tokens of the training text)\n"
            )
        begun = asked or self.sample_text(self.length)
        yield TextSample(f"{join_tokens(self.tokens.decode(begun), self.tokens.unit)}\n")
        read = [*self.sample_text(self.min_context - len(begun)), *begun]
        first = self.read(self.text.new_tensor([read]), None)
        for each in self.defaults["temperature"] if temperature is None else temperature:
            yield TextSample(f"\n--- temperature {each:g} ---\n")
            draw = lambda logits, heat=each: token_probabilities(logits, heat, top_k, top_p)  # noqa: E731
            yield from self._generate_tokens(
                first, begun[-1], length or self.defaults["length"], draw
            )
            yield TextSample("\n")

    def sample_text(self, count: int) -> list[int]:
        """So many tokens of the training text from a random place on; none where that is none."""
        count = min(count, len(self.text))
        if count <= 0:
            return []
        start = int(torch.randint(len(self.text) - count + 1, ()))
        return self.text[start : start + count].tolist()  # type: ignore[no-any-return]

    def _generate_tokens(
        self, read: tuple[Tensor, Any], last: int, length: int, draw: Callable[[Tensor], Tensor]
    ) -> Iterator[TextSample]:
        """Draw so many tokens, one after the other, each read before the next one."""
        (logits, state), (before,) = read, self.tokens.decode([last])
        for _ in range(length):
            number = torch.multinomial(draw(logits[0]), 1)
            (token,) = self.tokens.decode(number.tolist())
            yield TextSample(get_token_separator(before, token, self.tokens.unit) + token)
            before = token
            logits, state = self.read(number[None], state)


@dataclass
class BigramBaseline:
    """Measures a bigram on the split that a fit is scored on."""

    spec: Spec
    train: Any

    @cached_property
    def fitted_model(self) -> Bigram:
        """The pairs of the training rows."""
        found = cast(Bigram, bigram(self.spec)).to(next(iter(self.train.columns.values())).device)
        found.solve(self.train)
        return found

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The bits of a bigram, which knows the token before and no more: a stiffer bar than how often each occurs."""
        return {
            "bits_bigram": score_from_rows(
                torch.cat([self.fitted_model.row_cross_entropy(batch) for batch in batches]),
                nats_to_bits,
            )
        }


def language(
    given: ObjectiveContext, *, length: Count, temperature: list[NonNegative]
) -> Supervised:
    """The model's next tokens against those of the text, and what it writes, `length` tokens at each `temperature`.

    A model that has a state of its own and answers at each place is asked for one token after the other; any other
    reads the window before each. Raises UserError for data that are no text.
    """
    spec, steps = given.data.spec, given.data.preprocessors
    (name, about), (target, answer) = (
        next(iter(spec.inputs.items())),
        next(iter(spec.targets.items())),
    )
    if not steps.get(name) or not isinstance(steps[name][-1], TokenEncoder):
        raise UserError(f"objective=language learns how a text goes on, and '{name}' is no such text: it needs "
                      "task=nietzsche, task=shakespeare or task=text_file")  # fmt: skip
    tokens: Any = steps[name][-1]
    every, model, window = answer.kind == "tokens", given.model, about.shape[0]
    carried = as_model(model).token_reader() if every else None
    read: Any = carried or SlidingContextModel(model, (name, target), window)
    usual = {"length": length, "temperature": temperature}
    writer = TextGenerator(
        read,
        tokens,
        get_training_tokens(given.data.train, name),
        window,
        1 if every else window,
        usual,
    )
    bar: Any = build_baseline(spec)
    bar.note = f"baseline: how often each {tokens.unit} occurs"
    simple = lambda: Supervised(bar, given.losses, given.weights)  # noqa: E731
    made = Supervised(model, given.losses, given.weights, given.augment, simple)
    made.generators, made.default_samples = {"text": writer.generate}, ("text",)
    if about.size <= MAX_TOKENS:
        made.split_scorer = BigramBaseline(spec, given.data.train).split_scores
    return made


def get_training_tokens(train: Any, name: str) -> Tensor:
    """The tokens that the training windows lie on."""
    column: WindowColumn = train.columns[name]
    return column.values[
        int(column.first.min()) : int(column.first.max()) + len(column.offsets)
    ].long()
