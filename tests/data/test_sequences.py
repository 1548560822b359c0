"""Columns of sequences: what a batch of them holds, on which side it is filled up, and in what order rows come."""

from __future__ import annotations

import pytest
import torch

from dlrun.data.loading.sequences import (
    BATCHES_PER_POOL,
    SequenceColumn,
    WindowColumn,
    bucket_by_length,
)
from dlrun.data.loading.table import DenseColumn, Table

LENGTHS = [3, 0, 5, 1, 4, 2, 5, 1, 3, 2]


def texts(pad="front", fixed=True, length=5, lengths=LENGTHS):
    starts = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.arange(1, int(starts[-1]) + 1, dtype=torch.int32)
    return SequenceColumn(values, starts, int(starts[-1]) + 1, length, pad, fixed)


def row(column, number):
    return column.values[column.starts[number] : column.starts[number + 1]].tolist()


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("pad", ["front", "back"])
def test_a_batch_holds_its_rows_filled_up_on_their_side(pad, fixed):
    column = texts(pad, fixed)
    rows = torch.tensor([4, 1, 1, 7, 0, 3])
    for size in (1, 2, 4, 6):
        batches = list(column.batches(rows, size))
        assert [len(batch) for batch in batches] == [len(part) for part in rows.split(size)]
        for batch, part in zip(batches, rows.split(size), strict=True):
            longest = max(1, *(LENGTHS[number] for number in part.tolist()), 1)
            assert batch.dtype == torch.int64 and batch.shape[1] == (5 if fixed else longest)
            for found, number in zip(batch.tolist(), part.tolist(), strict=True):
                words = row(column, number)
                empty = [0] * (batch.shape[1] - len(words))
                assert found == (empty + words if pad == "front" else words + empty)


def test_rows_by_slice_are_rows_by_number():
    column = texts()
    some = torch.cat(list(column.batches(slice(2, 9), 3)))
    assert torch.equal(some, torch.cat(list(column.batches(torch.arange(2, 9), 3))))
    assert len(column) == len(LENGTHS) and torch.cat(
        list(column.batches(slice(None), 4))
    ).shape == (10, 5)


def test_only_a_column_of_one_length_has_a_shape():
    assert texts().shape == (5,) and texts().lengths is None
    assert texts(fixed=False).shape == () and texts(fixed=False).lengths.tolist() == LENGTHS


def test_texts_without_a_word_are_padding():
    column = texts(lengths=[0, 0])
    assert torch.cat(list(column.batches(slice(None), 2))).tolist() == [[0] * 5] * 2
    assert torch.cat(list(texts(lengths=[0, 0], fixed=False).batches(slice(None), 2))).tolist() == [
        [0],
        [0],
    ]


def many(rows=3000, fixed=False, pad="back"):
    lengths = torch.randint(0, 200, (rows,), generator=torch.Generator().manual_seed(2)).tolist()
    column = texts(pad, fixed, 200, lengths)
    return Table(
        {"text": column, "number": DenseColumn(torch.arange(rows)[:, None])}
    ), torch.tensor(lengths)


def numbers(table, **kwargs):
    return [batch["number"][:, 0] for batch in table.batches(32, **kwargs)]


def test_every_row_is_there_once_in_an_order_of_its_epoch():
    table, _ = many()
    first, again, other, third = (
        torch.cat(numbers(table, seed=s, epoch=e)) for s, e in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert torch.equal(first, again) and torch.equal(first.sort().values, torch.arange(3000))
    assert not torch.equal(first, other) and not torch.equal(first, third)
    assert torch.equal(torch.cat(numbers(table)), torch.arange(3000))  # without a seed as they lie


def test_batches_from_the_middle_on_are_the_rest_of_the_epoch():
    table, _ = many()
    whole, rest = numbers(table, seed=1), numbers(table, seed=1, start=40)
    assert len(whole) == 94 and all(
        torch.equal(a, b) for a, b in zip(whole[40:], rest, strict=True)
    )


def test_all_columns_of_a_batch_are_of_the_same_rows():
    table, lengths = many()
    for batch in table.batches(32, seed=3):
        assert torch.equal((batch["text"] != 0).sum(1), lengths[batch["number"][:, 0]])


def test_rows_of_about_one_length_make_a_batch_and_little_is_padding():
    (table, lengths), (plain, _) = many(), many(fixed=True)
    batches = list(table.batches(32, seed=1))
    cells = sum(batch["text"].numel() for batch in batches)
    assert (
        cells
        < 1.03 * float(lengths.sum())
        < 0.6 * sum(b["text"].numel() for b in plain.batches(32, seed=1))
    )
    means = torch.tensor([float((batch["text"] != 0).sum(1).float().mean()) for batch in batches])
    assert (
        abs(float(torch.corrcoef(torch.stack([means, torch.arange(94.0)]))[0, 1])) < 0.5
    )  # not from short to long


def test_only_the_last_batch_is_smaller_and_neighbors_are_drawn_from_a_few_thousand():
    lengths = torch.randint(0, 99, (10_007,))
    order = torch.randperm(10_007)
    size = 8
    found = bucket_by_length(order, lengths, size, torch.Generator().manual_seed(0))
    assert torch.equal(found.sort().values, torch.arange(10_007))
    places = torch.empty_like(order).scatter_(0, order, torch.arange(10_007))
    assert all(
        len(places[rows].div(size * BATCHES_PER_POOL, rounding_mode="floor").unique()) == 1
        for rows in found.split(size)
    )


@pytest.mark.parametrize("size", [1, 3, 7])
def test_windows_are_parts_of_one_series(size):
    series = torch.randn(40, 3)
    column = WindowColumn(series, torch.tensor([0, 5, 5, 30, 12, 1, 2]), torch.arange(0, 10, 2))
    batches = list(column.batches(slice(None), size))
    assert [len(batch) for batch in batches] == [len(part) for part in torch.arange(7).split(size)]
    found = torch.cat(batches)
    assert found.shape == (7, *column.shape) == (7, 5, 3)
    for window, first in zip(found, column.first.tolist(), strict=True):
        assert torch.equal(window, series[first : first + 10 : 2])
    assert torch.equal(column.materialize(), found)
    assert torch.equal(torch.cat(list(column.batches(torch.tensor([6, 0]), size))), found[[6, 0]])


def test_windows_copy_nothing_of_their_series():
    series = torch.zeros(40, 3)
    column = WindowColumn(series, torch.arange(30), torch.arange(10))
    series[12] = 7
    assert column.values is series and (next(column.batches(torch.tensor([3]), 1))[0, 9] == 7).all()


def test_a_column_goes_to_a_device_whole():
    meta = torch.device("meta")
    for column in (texts(), WindowColumn(torch.zeros(9, 2), torch.arange(3), torch.arange(4))):
        moved = column.to(meta)
        assert moved.device == meta and moved.shape == column.shape and len(moved) == len(column)
