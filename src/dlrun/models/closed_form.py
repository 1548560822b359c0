"""A linear model that scikit-learn solves: the yardstick between a constant and a network."""

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

from dlrun.config.annotations import Count, Positive
from dlrun.core.dataset import StoredColumn
from dlrun.core.errors import UserError
from dlrun.core.types import Batch, Field, Spec
from dlrun.data.loading.table import DenseColumn, SparseCounts, Table
from dlrun.models.layers import SparseLinear, escape_name
from dlrun.models.model import Model

log = logging.getLogger("dlrun")
LinearWeights = tuple[np.ndarray, np.ndarray]  # weights (F, outputs) and biases (outputs,)

MAX_DENSE_VALUES = 10_000_000  # with more stored values, 32 bits have to do
COUNT_CHUNK = 1024  # rows of words that are counted at a time
UNSEEN_LOGIT = math.log(1e-7)  # of a class without a training row; the others' add up to 0
LOGIT_EPSILON = 0.01  # fractions are kept this far from 0 and 1, where their logit is infinite


class ClosedFormLinear(Model):
    """One linear layer a target, in buffers: nothing to train. All weights are zero until `solve`.

    Attributes:
        spec: Inputs and targets.
        options: How scikit-learn solves it.
    """

    def __init__(self, spec: Spec, options: SolverOptions) -> None:
        super().__init__()
        self.spec, self.options = spec, options
        # buffers, not parameters: an optimizer finds nothing to train
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
            high = low + count_columns(field)
            weight = self.get_buffer(f"weight_{escape_name(target)}")[low:high]
            total = add_product(total, batch[name], weight, field)
            low = high
        return total

    def solve(self, table: Table) -> None:
        """Set the weights to scikit-learn's solution on the training rows.

        A line in the log names a target whose solver ran out of iterations.

        Args:
            table: The training rows.

        Raises:
            UserError: An input holds a missing number.
        """
        x = build_matrix(self.spec.inputs, table)
        for name, field in self.spec.targets.items():
            column = table.columns[name]
            assert isinstance(column, DenseColumn)
            # scikit-learn warns through Python; one line in the log is enough
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                weight, bias = SOLVERS[field.kind](
                    x, column.values.cpu().numpy(), field, self.options
                )
            self.get_buffer(f"weight_{escape_name(name)}").copy_(torch.from_numpy(weight))
            self.get_buffer(f"bias_{escape_name(name)}").copy_(torch.from_numpy(bias))
            log_convergence(name, caught, self.options)


@dataclass(frozen=True)
class SolverOptions:
    """Options of scikit-learn's solvers.

    Attributes:
        c: Inverse strength of the L2 penalty.
        iterations: How many a solver may take.
    """

    c: float
    iterations: int


def count_columns(field: Field) -> int:
    """Return how many columns of the matrix an input takes: one a class, or one a word."""
    return field.size if field.kind in ("category", "bag", "tokens") else field.num_outputs


def add_product(total: Tensor, values: Tensor, weight: Tensor, field: Field) -> Tensor:
    """Return a total plus an input times its weights.

    Bags, words and classes are looked up, not multiplied.

    Args:
        total: (outputs,) or (B, outputs).
        values: The input's column (B, …).
        weight: (F, outputs).
        field: The input.
    """
    if field.kind == "bag":
        # the bag stays sparse
        return SparseLinear.apply(values, weight, total)  # type: ignore[no-any-return]
    if field.kind == "tokens":
        # summed word vectors equal counts times weights; padding adds nothing
        return total + nn.functional.embedding_bag(values, weight, mode="sum", padding_idx=0)
    if field.kind == "category":
        return total + nn.functional.embedding(values, weight)
    return total + values.flatten(1) @ weight


def build_matrix(inputs: dict[str, Field], table: Table) -> Any:
    """Return all inputs concatenated (N, F): scipy CSR if one is a bag or a category, else dense.

    Args:
        inputs: The inputs by name.
        table: The rows.
    """
    from scipy.sparse import csr_array, hstack, issparse

    blocks = [
        _build_column_matrix(name, field, table.columns[name]) for name, field in inputs.items()
    ]
    if len(blocks) == 1:
        matrix = blocks[0]
    elif any(map(issparse, blocks)):
        matrix = hstack([csr_array(block) for block in blocks], format="csr")
    else:
        matrix = np.concatenate(blocks, 1)
    # the size of a sparse matrix counts what it stores
    return matrix.astype(np.float64) if matrix.size <= MAX_DENSE_VALUES else matrix


def _build_column_matrix(name: str, field: Field, column: StoredColumn) -> Any:
    from scipy.sparse import csr_array

    if isinstance(column, SparseCounts):
        return column.to(torch.device("cpu")).matrix
    if field.kind == "tokens":
        return count_words(column, field.size)
    stored = column.materialize()
    values, rows = stored.cpu().numpy(), len(column)
    if field.kind == "category":
        # one-hot rows: a single 1 in each
        ones, starts = np.ones(rows, np.float32), np.arange(rows + 1, dtype=np.int32)
        return csr_array((ones, values.astype(np.int32), starts), shape=(rows, field.size))
    flat = values.reshape(rows, -1).astype(np.float32)
    if not np.isfinite(flat).all():
        raise UserError(
            f"model=linear_solved cannot read missing numbers, and input '{name}' has some: "
            "fill them in"
        )
    # stored images are uint8; models see them in [0, 1]
    return flat / np.float32(255) if stored.dtype == torch.uint8 else flat


def count_words(column: StoredColumn, size: int) -> Any:
    """Return how often each word occurs in each row, scipy CSR (N, size).

    Args:
        column: Word numbers (N, T); 0 is padding and not counted.
        size: Number of words.
    """
    from scipy.sparse import csr_array, vstack

    chunks = []
    for batch in column.batches(slice(0, len(column)), COUNT_CHUNK):
        is_word = batch.cpu() > 0
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), is_word.sum(1).cumsum(0)]).numpy()
        words = batch.cpu()[is_word].numpy()
        chunks.append(
            csr_array((np.ones(len(words), np.float32), words, starts), shape=(len(batch), size))
        )
        # a word that occurs twice in a row has two entries until they are added
        chunks[-1].sum_duplicates()
    return vstack(chunks, format="csr")


def solve_classes(x: Any, y: np.ndarray, field: Field, options: SolverOptions) -> LinearWeights:
    """Solve a multinomial logistic regression; a class without a row gets a very low bias.

    Args:
        x: Inputs (N, F), dense or CSR.
        y: The target (N, …).
        field: The target.
        options: Of the solver.

    Returns:
        Weights (F, outputs) and biases (outputs,).
    """
    # all classes begin unseen; those with rows get their solution below
    weight, bias = np.zeros((x.shape[1], field.size)), np.full(field.size, UNSEEN_LOGIT)
    classes = np.unique(y)
    bias[classes] = 0
    if len(classes) > 1:
        regression = _logistic_regression(x, y.reshape(-1), options)
        # of two classes scikit-learn solves the logit of the second only
        solved = classes[1:] if len(classes) == 2 else classes
        weight[:, solved], bias[solved] = regression.coef_.T, regression.intercept_
    return weight, bias


def solve_labels(x: Any, y: np.ndarray, field: Field, options: SolverOptions) -> LinearWeights:
    """Solve one logistic regression a label; a constant label needs its bias only."""
    weight, bias = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    for label, label_values in enumerate(y.T):
        if label_values.min() == label_values.max():
            # a constant label has no slope, and scikit-learn refuses a single class
            bias[label] = -UNSEEN_LOGIT if label_values[0] else UNSEEN_LOGIT
            continue
        regression = _logistic_regression(x, label_values.astype(int), options)
        weight[:, label], bias[label] = regression.coef_[0], regression.intercept_[0]
    return weight, bias


def solve_numbers(x: Any, y: np.ndarray, field: Field, options: SolverOptions) -> LinearWeights:
    """Solve a ridge regression; see `solve_classes`."""
    from sklearn.linear_model import Ridge

    flat = y.reshape(len(y), -1).astype(x.dtype)
    # ridge weighs the penalty where logistic regression weighs the rows
    regression = Ridge(alpha=1 / options.c, max_iter=options.iterations, tol=1e-6).fit(x, flat)
    return regression.coef_.reshape(flat.shape[1], -1).T, np.reshape(regression.intercept_, -1)


def solve_fraction(x: Any, y: np.ndarray, field: Field, options: SolverOptions) -> LinearWeights:
    """Solve a ridge regression of the logits of fractions; see `solve_classes`."""
    inside = y.clip(LOGIT_EPSILON, 1 - LOGIT_EPSILON)
    return solve_numbers(x, np.log(inside / (1 - inside)), field, options)


SOLVERS: dict[str, Callable[[Any, np.ndarray, Field, SolverOptions], LinearWeights]] = {
    "category": solve_classes,
    "binary": solve_labels,
    "multilabel": solve_labels,
    "number": solve_numbers,
    "fraction": solve_fraction,
}


def _logistic_regression(x: Any, y: np.ndarray, options: SolverOptions) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=options.c, max_iter=options.iterations).fit(x, y)


def log_convergence(
    target: str, caught: list[warnings.WarningMessage], options: SolverOptions
) -> None:
    """Log one line for all convergence warnings, and pass other warnings on.

    Args:
        target: Name of the target.
        caught: Warnings of its solver.
        options: Of the solver.
    """
    from sklearn.exceptions import ConvergenceWarning

    unrelated = [
        warning for warning in caught if not issubclass(warning.category, ConvergenceWarning)
    ]
    # other warnings are passed on as if nobody had listened
    for warning in unrelated:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if len(unrelated) < len(caught):
        log.info(
            "linear_solved: '%s' is not quite solved after %d iterations; scaled inputs, a smaller "
            "model.c or more model.iterations help",
            target,
            options.iterations,
        )


def linear_solved(spec: Spec, *, c: Positive, iterations: Count) -> nn.Module:
    """Logistic regression for classes and labels, ridge regression for numbers, by scikit-learn.

    Args:
        spec: Inputs and targets.
        c: Inverse strength of the L2 penalty beside the sum of the rows' losses; ridge's alpha is
            1/c.
        iterations: How many a solver may take.
    """
    return ClosedFormLinear(spec, SolverOptions(c, iterations))
