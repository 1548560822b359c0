"""The common-sense baseline: the same answer for every row, of each measure the one that is best by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.core.types import Batch, Field, Spec
from dlrun.models.named import safe

Answer = Literal["prior", "median", "yes", "loss"]
Answers = dict[Answer, Tensor]  # raw ones (outputs,), by what they are best by
Loss = Callable[[Tensor, Tensor], Tensor]

GAIN = 1e-4  # of the loss: an answer that is no more than so much better is not another one
BETWEEN = 20  # steps from the mean to the median, in which the best answer of a loss between squares and sizes lies


class Constant(nn.Module):
    """Answers the same for every row. Has nothing to learn.

    answers: of each target those that there are; one that is not there is the prior. which: the one that is given now.
    """

    def __init__(self, spec: Spec, answers: Mapping[str, Answers], which: Answer) -> None:
        super().__init__()
        self.targets, self.answers, self.which = spec.targets, answers, which
        for name in spec.targets:
            self.register_buffer(f"answer_{safe(name)}", self.answer(name, which).clone())

    def answer(self, target: str, which: Answer) -> Tensor:
        """The raw answer for a target."""
        found = self.answers[target]
        return found.get(which, found["prior"])

    def give(self, which: Answer) -> None:
        """From here on answer what is best by this."""
        self.which = which
        for name in self.targets:
            self.get_buffer(f"answer_{safe(name)}").copy_(self.answer(name, which))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rows = len(next(iter(batch.values())))
        answers = {name: self.get_buffer(f"answer_{safe(name)}") for name in self.targets}
        return {name: answer.expand(rows, *self.targets[name].answered) for name, answer in answers.items()}


def constant(spec: Spec, *, answer: Literal["prior", "median", "yes"] = "prior") -> nn.Module:
    """The same for every row: the class frequencies or the mean of the training rows (prior), their median, or yes."""
    return Constant(spec, {name: answers_of(field) for name, field in spec.targets.items()}, answer)


def best_constant(spec: Spec, losses: Mapping[str, Loss], values: Mapping[str, Tensor]) -> Constant:
    """What a model has to beat. values: target → its training rows, where they are in memory."""
    found = {name: answers_of(field) for name, field in spec.targets.items()}
    for name, loss in losses.items():
        found[name]["loss"] = best_by(loss, spec.targets[name], found[name], values.get(name))
    return Constant(spec, found, "loss")


def answers_of(field: Field) -> Answers:
    """The answers that make sense for every row of a target. Mean and squares go together, median and sizes; always to
    say yes is best by precision, recall and F1."""
    found: Answers = {"prior": raw_prior(field)}
    if field.median is not None:
        found["median"] = raw_of(field, field.median)
    if field.kind in ("binary", "multilabel"):
        found["yes"] = found["prior"].clamp_min(1e-3)  # the order of labels is kept
    return found


def raw_prior(field: Field) -> Tensor:
    """The prior as a raw output (outputs,)."""
    if field.prior is None:
        raise ValueError("a constant answer needs a prior, and this target has none")
    return raw_of(field, field.prior)


def raw_of(field: Field, said: Tensor) -> Tensor:
    """Shares or numbers as a raw output (outputs,): log-odds or log-frequencies where the last layer squashes."""
    said = said.float().reshape(-1)
    if field.kind in ("category", "tokens"):
        return said.clamp_min(1e-7).log()
    if field.kind in ("binary", "multilabel", "fraction"):
        return said.clamp(1e-6, 1 - 1e-6).logit()
    return said


def best_by(loss: Loss, field: Field, known: Answers, values: Tensor | None) -> Tensor:
    """The answer with the least loss over the training rows: the prior, unless another one is clearly better."""
    if field.kind == "tokens" or (field.kind in ("number", "fraction") and values is None):
        return known["prior"]
    if field.kind in ("number", "fraction"):
        assert values is not None
        ends = known["prior"].to(values.device), known.get("median", known["prior"]).to(values.device)
        others = [torch.lerp(*ends, step / BETWEEN) for step in range(BETWEEN, 0, -1)]
        of = lambda answer: float(loss(answer.expand(len(values), -1), values))  # noqa: E731
        best = min(others, key=of).to(known["prior"].device)
        found = known["median"] if "median" in known and torch.equal(best, known["median"]) else best
        return found if of(best.to(values.device)) < of(ends[0]) * (1 - GAIN) else known["prior"]
    assert field.prior is not None
    shares, start = field.prior.float().reshape(1, -1), known["prior"][None]
    found = descended(lambda raw: loss(raw, shares), start)
    return found[0] if float(loss(found, shares)) < float(loss(start, shares)) * (1 - GAIN) else known["prior"]


def descended(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth loss is least, looked for from a start: BFGS (Liu & Nocedal 1989)."""
    raw = start.clone().requires_grad_()
    search = torch.optim.LBFGS([raw], max_iter=50, line_search_fn="strong_wolfe")

    def again() -> Tensor:
        search.zero_grad()
        value = loss(raw)
        value.backward()
        return value

    with torch.enable_grad():
        search.step(again)  # type: ignore[arg-type]
    return raw.detach() if bool(raw.isfinite().all()) else start
