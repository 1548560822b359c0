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
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec
from dlrun.data.loading.images import ImageColumn, LazyImageColumn
from dlrun.data.loading.sequences import SequenceColumn
from dlrun.data.loading.table import DenseColumn, SparseCounts, StoredColumn, Table
from dlrun.models.layers import SparseLinear, escape_name
from dlrun.models.model import Model

log = logging.getLogger("dlrun")
LinearWeights = tuple[np.ndarray, np.ndarray]  # weights (F, outputs) and biases (outputs,)

MAX_DENSE_VALUES = 10_000_000  # stored cells of a matrix above which 32 bits have to do
COUNT_CHUNK = 1024  # rows of words at a time
UNSEEN_LOGIT = math.log(
    1e-7
)  # logit of a class without a training row; those of the others add up to 0
LOGIT_EPSILON = 0.01  # fractions are kept this far from 0 and 1, where their logit has no end


class ClosedFormLinear(Model):
    """One linear layer to each target, in buffers: nothing to train. Answers target name → raw output (B, outputs).

    All weights are zero until `solve`.
    """

    def __init__(self, spec: Spec, ask: SolverOptions) -> None:
        super().__init__()
        self.spec, self.ask = spec, ask
        width = sum(map(count_columns, spec.inputs.values()))
        for name, field in spec.targets.items():
            self.register_buffer(
                f"weight_{escape_name(name)}", torch.zeros(width, field.num_outputs)
            )
            self.register_buffer(f"bias_{escape_name(name)}", torch.zeros(field.num_outputs))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self._predict_target(name, batch) for name in self.spec.targets}

    def _predict_target(self, target: str, batch: Batch) -> Tensor:
        """Inputs times weights, plus the bias."""
        total, low = self.get_buffer(f"bias_{escape_name(target)}"), 0
        for name, field in self.spec.inputs.items():
            weight = self.get_buffer(f"weight_{escape_name(target)}")[
                low : low + count_columns(field)
            ]
            total = add_product(total, batch[name], weight, field)
            low += count_columns(field)
        return total

    def solve(self, table: Table) -> None:
        """Set the weights to scikit-learn's answer on these rows; says in the log where it ran out of iterations.

        Raises UserError when an input holds a missing number.
        """
        x = build_matrix(self.spec.inputs, table)
        for name, field in self.spec.targets.items():
            column = table.columns[name]
            assert isinstance(column, DenseColumn)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                weight, bias = SOLVERS[field.kind](x, column.values.cpu().numpy(), field, self.ask)
            self.get_buffer(f"weight_{escape_name(name)}").copy_(torch.from_numpy(weight))
            self.get_buffer(f"bias_{escape_name(name)}").copy_(torch.from_numpy(bias))
            log_convergence(name, said, self.ask)


@dataclass(frozen=True)
class SolverOptions:
    """What is asked of scikit-learn. c: inverse strength of the L2 penalty; iterations: at most so many."""

    c: float
    iterations: int


def count_columns(field: Field) -> int:
    """How many columns of the matrix an input takes: one a level of a category, or one a word that is counted."""
    return field.size if field.kind in ("category", "bag", "tokens") else field.num_outputs


def add_product(total: Tensor, values: Tensor, weight: Tensor, field: Field) -> Tensor:
    """What is there plus an input times its weights; bags, words and categories are looked up, not multiplied."""
    if field.kind == "bag":
        return SparseLinear.apply(values, weight, total)  # type: ignore[no-any-return]
    if field.kind == "tokens":
        return total + nn.functional.embedding_bag(values, weight, mode="sum", padding_idx=0)
    if field.kind == "category":
        return total + nn.functional.embedding(values, weight)
    return total + values.flatten(1) @ weight


def build_matrix(inputs: dict[str, Field], table: Table) -> Any:
    """All inputs side by side (N, F): scipy CSR where one of them is a bag or a category, else dense."""
    from scipy.sparse import csr_array, hstack, issparse

    parts = [
        _build_column_matrix(name, field, table.columns[name]) for name, field in inputs.items()
    ]
    if len(parts) == 1:
        whole = parts[0]
    elif any(map(issparse, parts)):
        whole = hstack([csr_array(part) for part in parts], format="csr")
    else:
        whole = np.concatenate(parts, 1)
    return (
        whole.astype(np.float64) if whole.size <= MAX_DENSE_VALUES else whole
    )  # a sparse one counts what it stores


def _build_column_matrix(name: str, field: Field, column: StoredColumn) -> Any:
    from scipy.sparse import csr_array

    if isinstance(column, SparseCounts):
        return column.to(torch.device("cpu")).matrix
    if field.kind == "tokens":
        return count_words(column, field.size)
    assert not isinstance(column, SequenceColumn)
    values = (
        (column.values if isinstance(column, DenseColumn) else column.materialize()).cpu().numpy()
    )
    rows = len(column)
    if field.kind == "category":
        ones, starts = np.ones(rows, np.float32), np.arange(rows + 1, dtype=np.int32)
        return csr_array((ones, values.astype(np.int32), starts), shape=(rows, field.size))
    flat = values.reshape(rows, -1).astype(np.float32)
    if not np.isfinite(flat).all():
        raise UserError(
            f"model=linear_solved cannot read missing numbers, and input '{name}' has some: fill them in"
        )
    return flat / np.float32(255) if isinstance(column, ImageColumn | LazyImageColumn) else flat


def count_words(column: StoredColumn, size: int) -> Any:
    """How often each word occurs in each row (N, size), scipy CSR; 0 is padding, and not counted."""
    from scipy.sparse import csr_array, vstack

    parts = []
    for batch in column.batches(slice(0, len(column)), COUNT_CHUNK):
        there = batch.cpu() > 0
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)]).numpy()
        words = batch.cpu()[there].numpy()
        parts.append(
            csr_array((np.ones(len(words), np.float32), words, starts), shape=(len(batch), size))
        )
        parts[-1].sum_duplicates()
    return vstack(parts, format="csr")


def solve_classes(x: Any, y: np.ndarray, field: Field, ask: SolverOptions) -> LinearWeights:
    """Logits (F, size) of a multinomial logistic regression; a class without a row gets a very low one."""
    weight, bias = np.zeros((x.shape[1], field.size)), np.full(field.size, UNSEEN_LOGIT)
    seen = np.unique(y)
    bias[seen] = 0
    if len(seen) > 1:
        found = _logistic_regression(x, y.reshape(-1), ask)
        two = (
            seen[1:] if len(seen) == 2 else seen
        )  # of two classes scikit-learn solves the logit of the second
        weight[:, two], bias[two] = found.coef_.T, found.intercept_
    return weight, bias


def solve_labels(x: Any, y: np.ndarray, field: Field, ask: SolverOptions) -> LinearWeights:
    """Logits (F, labels) of one logistic regression a label; one that all rows, or none, have needs no input."""
    weight, bias = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    for label, answers in enumerate(y.T):
        if answers.min() == answers.max():
            bias[label] = -UNSEEN_LOGIT if answers[0] else UNSEEN_LOGIT
            continue
        found = _logistic_regression(x, answers.astype(int), ask)
        weight[:, label], bias[label] = found.coef_[0], found.intercept_[0]
    return weight, bias


def solve_numbers(x: Any, y: np.ndarray, field: Field, ask: SolverOptions) -> LinearWeights:
    """Ridge regression (F, outputs)."""
    from sklearn.linear_model import Ridge

    flat = y.reshape(len(y), -1).astype(x.dtype)
    found = Ridge(alpha=1 / ask.c, max_iter=ask.iterations, tol=1e-6).fit(x, flat)
    return found.coef_.reshape(flat.shape[1], -1).T, np.reshape(found.intercept_, -1)


def solve_fraction(x: Any, y: np.ndarray, field: Field, ask: SolverOptions) -> LinearWeights:
    """Ridge regression of the logits of fractions."""
    inside = y.clip(LOGIT_EPSILON, 1 - LOGIT_EPSILON)
    return solve_numbers(x, np.log(inside / (1 - inside)), field, ask)


SOLVERS: dict[str, Callable[[Any, np.ndarray, Field, SolverOptions], LinearWeights]] = {
    "category": solve_classes,
    "binary": solve_labels,
    "multilabel": solve_labels,
    "number": solve_numbers,
    "fraction": solve_fraction,
}


def _logistic_regression(x: Any, y: np.ndarray, ask: SolverOptions) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=ask.c, max_iter=ask.iterations).fit(x, y)


def log_convergence(target: str, said: list[warnings.WarningMessage], ask: SolverOptions) -> None:
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
    return ClosedFormLinear(spec, SolverOptions(c, iterations))
