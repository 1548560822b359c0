"""Language models: learn the next token as any target, and generate text token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, Fraction, NonNegative
from dlrun.core.errors import UserError
from dlrun.core.objective import ObjectiveContext, TextSample
from dlrun.core.types import Batch, Score, Spec
from dlrun.data.loading.sequences import WindowColumn
from dlrun.data.preprocessing.language import TokenEncoder, get_token_separator, join_tokens
from dlrun.evaluation.metrics import nats_to_bits, score_from_rows
from dlrun.models.baselines import build_baseline
from dlrun.models.bigram import MAX_TOKENS, Bigram, bigram
from dlrun.models.language.language_model import token_probabilities
from dlrun.models.model import as_model
from dlrun.objectives.supervised import Supervised

# tokens (1, T), state or None → logits of the next token (1, size), state
NextTokenFunction = Callable[[Tensor, Any], tuple[Tensor, Any]]


@dataclass(frozen=True)
class SlidingContextModel:
    """Reads with a model that carries no state: the last tokens, up to a window, are its state.

    Attributes:
        model: Input → target → logits (1, size), or (1, T, size) for every token.
        names: Of the input and of the target.
        length: Tokens of the window.
    """

    model: nn.Module
    names: tuple[str, str]
    length: int

    def __call__(self, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        window = (tokens if context is None else torch.cat([context, tokens], 1))[:, -self.length :]
        logits = self.model({self.names[0]: window})[self.names[1]]
        return (logits[:, -1] if logits.dim() == 3 else logits), window


@dataclass(frozen=True)
class TextGenerator:
    """Generates text with a model.

    Attributes:
        read: Reads tokens and gives the logits of the next one.
        tokens: Text ↔ token numbers.
        text: Tokens (n,) of the training text.
        length: Tokens of a passage that stands in for a missing prompt.
        min_context: Tokens that the model needs before a prediction, as in training.
        defaults: Of `length` and `temperature`.
    """

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
        """Continue a prompt, once for each temperature.

        Args:
            prompt: Empty for a passage of the training text.
            temperature: 0 takes the likeliest token, 1 draws as the model predicts; null: the
                task's.
            length: Tokens to generate; null: the task's.
            top_k: Draw among this many likeliest tokens only.
            top_p: Draw among the likeliest tokens that together have this probability.

        Yields:
            Pieces of text.
        """
        prompt_tokens, unknown = self.tokens.encode(prompt)
        if unknown:
            yield TextSample(
                f"(left out, for the training text has none: {' '.join(map(repr, unknown))})\n"
            )
        if prompt_tokens and len(prompt_tokens) < self.min_context:
            missing = self.min_context - len(prompt_tokens)
            yield TextSample(
                f"(before it, the model reads {missing} tokens of the training text)\n"
            )
        start_tokens = prompt_tokens or self.sample_text(self.length)
        yield TextSample(f"{join_tokens(self.tokens.decode(start_tokens), self.tokens.unit)}\n")
        # A short prompt is preceded by training text: in training the model had this much context.
        read = [*self.sample_text(self.min_context - len(start_tokens)), *start_tokens]
        first = self.read(self.text.new_tensor([read]), None)
        for heat in self.defaults["temperature"] if temperature is None else temperature:
            yield TextSample(f"\n--- temperature {heat:g} ---\n")
            probabilities = partial(token_probabilities, temperature=heat, top_k=top_k, top_p=top_p)
            yield from self._generate_tokens(
                first, start_tokens[-1], length or self.defaults["length"], probabilities
            )
            yield TextSample("\n")

    def sample_text(self, count: int) -> list[int]:
        """So many tokens of the training text from a random position on; [] for none."""
        count = min(count, len(self.text))
        if count <= 0:
            return []
        start = int(torch.randint(len(self.text) - count + 1, ()))
        return self.text[start : start + count].tolist()  # type: ignore[no-any-return]

    def _generate_tokens(
        self,
        first_read: tuple[Tensor, Any],
        last: int,
        length: int,
        probabilities: Callable[[Tensor], Tensor],
    ) -> Iterator[TextSample]:
        """Draw so many tokens, one after the other, each read before the next one."""
        (logits, state), (previous,) = first_read, self.tokens.decode([last])
        for _ in range(length):
            number = torch.multinomial(probabilities(logits[0]), 1)
            (token,) = self.tokens.decode(number.tolist())
            yield TextSample(get_token_separator(previous, token, self.tokens.unit) + token)
            previous = token
            logits, state = self.read(number[None], state)


@dataclass
class BigramBaseline:
    """Measures a bigram on the split that a fit is scored on."""

    spec: Spec
    train: Any

    @cached_property
    def fitted_model(self) -> Bigram:
        """The pairs of the training rows."""
        model = cast(Bigram, bigram(self.spec)).to(next(iter(self.train.columns.values())).device)
        model.solve(self.train)
        return model

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The bits of a bigram, which knows only the previous token.

        A stronger baseline than frequencies.
        """
        return {
            "bits_bigram": score_from_rows(
                torch.cat([self.fitted_model.row_cross_entropy(batch) for batch in batches]),
                nats_to_bits,
            )
        }


def language(
    context: ObjectiveContext, *, length: Count, temperature: list[NonNegative]
) -> Supervised:
    """Next-token prediction, and text generation.

    A model that carries a state and predicts every token reads one token after the other when it
    generates; any other reads the last window before each token.

    Args:
        context: Its data are windows of one text.
        length: Tokens of a sample.
        temperature: One sample each.

    Raises:
        UserError: if the data are not a text.
    """
    spec, model = context.data.spec, context.model
    tokens = _get_token_encoder(context)
    make_baseline = lambda: Supervised(baseline, context.losses, context.weights)  # noqa: E731
    baseline: Any = build_baseline(spec)
    # It stands beside the result.
    baseline.note = f"baseline: how often each {tokens.unit} occurs"
    objective = Supervised(model, context.losses, context.weights, context.augment, make_baseline)
    writer = _build_generator(context, tokens, {"length": length, "temperature": temperature})
    objective.generators, objective.default_samples = {"text": writer.generate}, ("text",)
    # Its table has size² numbers.
    if next(iter(spec.inputs.values())).size <= MAX_TOKENS:
        objective.split_scorer = BigramBaseline(spec, context.data.train).split_scores
    return objective


def _get_token_encoder(context: ObjectiveContext) -> Any:
    """The step that turned the text into tokens; raises UserError where the data are no text."""
    name = next(iter(context.data.spec.inputs))
    steps = context.data.preprocessors.get(name)
    if not steps or not isinstance(steps[-1], TokenEncoder):
        raise UserError(
            f"objective=language learns how a text goes on, and '{name}' is no such text: "
            "it needs task=nietzsche, task=shakespeare or task=text_file"
        )
    return steps[-1]


def _build_generator(
    context: ObjectiveContext, tokens: Any, defaults: dict[str, Any]
) -> TextGenerator:
    """What writes samples with the model, window by window or one token after the other."""
    spec = context.data.spec
    (name, input_field), (target, target_field) = (
        next(iter(spec.inputs.items())),
        next(iter(spec.targets.items())),
    )
    predicts_every_token, window = target_field.kind == "tokens", input_field.shape[0]
    token_reader = as_model(context.model).token_reader() if predicts_every_token else None
    reader: Any = token_reader or SlidingContextModel(context.model, (name, target), window)
    return TextGenerator(
        reader,
        tokens,
        get_training_tokens(context.data.train, name),
        window,
        1 if predicts_every_token else window,
        defaults,
    )


def get_training_tokens(train: Any, name: str) -> Tensor:
    """The tokens that the training windows lie on."""
    column: WindowColumn = train.columns[name]
    return column.values[
        int(column.first.min()) : int(column.first.max()) + len(column.offsets)
    ].long()
