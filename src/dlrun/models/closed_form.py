"""A linear model that scikit-learn solves, instead of the loop: the yardstick between a constant and a network."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, Positive
from dlrun.core.errors import Refused
from dlrun.core.types import Batch, Field, Spec
from dlrun.data.loading.images import Pixels, Streamed
from dlrun.data.loading.sequences import Sequences
from dlrun.data.loading.table import Bag, Plain, Stored, Table
from dlrun.models.layers import BagProduct, safe

log = logging.getLogger("dlrun")
Layer = tuple[np.ndarray, np.ndarray]  # weights (F, outputs) and biases (outputs,)

LARGE = 10_000_000  # stored cells of a matrix above which 32 bits have to do
COUNTED = 1024  # rows of words at a time
UNSEEN = math.log(1e-7)  # logit of a class without a training row; those of the others add up to 0
EDGE = 0.01  # fractions are kept this far from 0 and 1, where their logit has no end


class Solved(nn.Module):
    """One linear layer to each target, in buffers: nothing to train. Answers target name → raw output (B, outputs).

    All weights are zero until `solve`.
    """

    def __init__(self, spec: Spec, ask: Ask) -> None:
        super().__init__()
        self.spec, self.ask = spec, ask
        width = sum(map(columns, spec.inputs.values()))
        for name, field in spec.targets.items():
            self.register_buffer(f"weight_{safe(name)}", torch.zeros(width, field.outputs))
            self.register_buffer(f"bias_{safe(name)}", torch.zeros(field.outputs))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self._answer(name, batch) for name in self.spec.targets}

    def _answer(self, target: str, batch: Batch) -> Tensor:
        """Inputs times weights, plus the bias."""
        total, low = self.get_buffer(f"bias_{safe(target)}"), 0
        for name, field in self.spec.inputs.items():
            weight = self.get_buffer(f"weight_{safe(target)}")[low : low + columns(field)]
            total = added(total, batch[name], weight, field)
            low += columns(field)
        return total

    def solve(self, table: Table) -> None:
        """Set the weights to scikit-learn's answer on these rows; says in the log where it ran out of iterations.

        Raises Refused when an input holds a missing number.
        """
        x = matrix(self.spec.inputs, table)
        for name, field in self.spec.targets.items():
            column = table.columns[name]
            assert isinstance(column, Plain)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                weight, bias = SOLVERS[field.kind](x, column.values.cpu().numpy(), field, self.ask)
            self.get_buffer(f"weight_{safe(name)}").copy_(torch.from_numpy(weight))
            self.get_buffer(f"bias_{safe(name)}").copy_(torch.from_numpy(bias))
            report(name, said, self.ask)


@dataclass(frozen=True)
class Ask:
    """What is asked of scikit-learn. c: inverse strength of the L2 penalty; iterations: at most so many."""

    c: float
    iterations: int


def columns(field: Field) -> int:
    """How many columns of the matrix an input takes: one a level of a category, or one a word that is counted."""
    return field.size if field.kind in ("category", "bag", "tokens") else field.outputs


def added(total: Tensor, values: Tensor, weight: Tensor, field: Field) -> Tensor:
    """What is there plus an input times its weights; bags, words and categories are looked up, not multiplied."""
    if field.kind == "bag":
        return BagProduct.apply(values, weight, total)  # type: ignore[no-any-return]
    if field.kind == "tokens":
        return total + nn.functional.embedding_bag(values, weight, mode="sum", padding_idx=0)
    if field.kind == "category":
        return total + nn.functional.embedding(values, weight)
    return total + values.flatten(1) @ weight


def matrix(inputs: dict[str, Field], table: Table) -> Any:
    """All inputs side by side (N, F): scipy CSR where one of them is a bag or a category, else dense."""
    from scipy.sparse import csr_array, hstack, issparse

    parts = [_part(name, field, table.columns[name]) for name, field in inputs.items()]
    if len(parts) == 1:
        whole = parts[0]
    elif any(map(issparse, parts)):
        whole = hstack([csr_array(part) for part in parts], format="csr")
    else:
        whole = np.concatenate(parts, 1)
    return whole.astype(np.float64) if whole.size <= LARGE else whole  # a sparse one counts what it stores


def _part(name: str, field: Field, column: Stored) -> Any:
    from scipy.sparse import csr_array

    if isinstance(column, Bag):
        return column.to(torch.device("cpu")).matrix
    if field.kind == "tokens":
        return counts(column, field.size)
    assert not isinstance(column, Sequences)
    values = (column.values if isinstance(column, Plain) else column.whole()).cpu().numpy()
    rows = len(column)
    if field.kind == "category":
        ones, starts = np.ones(rows, np.float32), np.arange(rows + 1, dtype=np.int32)
        return csr_array((ones, values.astype(np.int32), starts), shape=(rows, field.size))
    flat = values.reshape(rows, -1).astype(np.float32)
    if not np.isfinite(flat).all():
        raise Refused(f"model=linear_solved cannot read missing numbers, and input '{name}' has some: fill them in")
    return flat / np.float32(255) if isinstance(column, Pixels | Streamed) else flat


def counts(column: Stored, size: int) -> Any:
    """How often each word occurs in each row (N, size), scipy CSR; 0 is padding, and not counted."""
    from scipy.sparse import csr_array, vstack

    parts = []
    for batch in column.batches(slice(0, len(column)), COUNTED):
        there = batch.cpu() > 0
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)]).numpy()
        words = batch.cpu()[there].numpy()
        parts.append(csr_array((np.ones(len(words), np.float32), words, starts), shape=(len(batch), size)))
        parts[-1].sum_duplicates()
    return vstack(parts, format="csr")


def classes(x: Any, y: np.ndarray, field: Field, ask: Ask) -> Layer:
    """Logits (F, size) of a multinomial logistic regression; a class without a row gets a very low one."""
    weight, bias = np.zeros((x.shape[1], field.size)), np.full(field.size, UNSEEN)
    seen = np.unique(y)
    bias[seen] = 0
    if len(seen) > 1:
        found = _logistic(x, y.reshape(-1), ask)
        two = seen[1:] if len(seen) == 2 else seen  # of two classes scikit-learn solves the logit of the second
        weight[:, two], bias[two] = found.coef_.T, found.intercept_
    return weight, bias


def labels(x: Any, y: np.ndarray, field: Field, ask: Ask) -> Layer:
    """Logits (F, labels) of one logistic regression a label; one that all rows, or none, have needs no input."""
    weight, bias = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    for label, answers in enumerate(y.T):
        if answers.min() == answers.max():
            bias[label] = -UNSEEN if answers[0] else UNSEEN
            continue
        found = _logistic(x, answers.astype(int), ask)
        weight[:, label], bias[label] = found.coef_[0], found.intercept_[0]
    return weight, bias


def numbers(x: Any, y: np.ndarray, field: Field, ask: Ask) -> Layer:
    """Ridge regression (F, outputs)."""
    from sklearn.linear_model import Ridge

    flat = y.reshape(len(y), -1).astype(x.dtype)
    found = Ridge(alpha=1 / ask.c, max_iter=ask.iterations, tol=1e-6).fit(x, flat)
    return found.coef_.reshape(flat.shape[1], -1).T, np.reshape(found.intercept_, -1)


def fractions(x: Any, y: np.ndarray, field: Field, ask: Ask) -> Layer:
    """Ridge regression of the logits of fractions."""
    inside = y.clip(EDGE, 1 - EDGE)
    return numbers(x, np.log(inside / (1 - inside)), field, ask)


SOLVERS: dict[str, Callable[[Any, np.ndarray, Field, Ask], Layer]] = {
    "category": classes,
    "binary": labels,
    "multilabel": labels,
    "number": numbers,
    "fraction": fractions,
}


def _logistic(x: Any, y: np.ndarray, ask: Ask) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=ask.c, max_iter=ask.iterations).fit(x, y)


def report(target: str, said: list[warnings.WarningMessage], ask: Ask) -> None:
    """One line in the log for all warnings of convergence; other warnings are passed on."""
    from sklearn.exceptions import ConvergenceWarning

    other = [warning for warning in said if not issubclass(warning.category, ConvergenceWarning)]
    for warning in other:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if len(other) < len(said):
        log.info(
            "linear_solved: '%s' is not quite solved after %d iterations; scaled inputs, a smaller model.c or more "
            "model.iterations help",
            target,
            ask.iterations,
        )


def linear_solved(spec: Spec, *, c: Positive, iterations: Count) -> nn.Module:
    """Logistic regression for classes and labels, ridge regression for numbers, by scikit-learn on the training rows.

    c: inverse strength of the L2 penalty beside the sum of the rows' losses; ridge's alpha is 1/c.
    """
    return Solved(spec, Ask(c, iterations))
