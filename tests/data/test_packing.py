"""Packing against references that try everything, on toy documents; statistics by counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpt_lab.data import packing
from gpt_lab.data.packing import BestFit, BosAligned, Stream, Windows, pieces
from gpt_lab.errors import DataError

EOT = 0
SIZES = [3, 17, 5, 8, 1, 40, 12, 7, 2, 30, 9, 6, 4, 11, 8, 8, 3, 25]
"""Pairs of each toy document: its tokens and its end."""


def toy(sizes: list[int] = SIZES) -> Stream:
    """Documents whose tokens are all different."""
    stream, token = [EOT], 1
    for size in sizes:
        stream += [*range(token, token + size - 1), EOT]
        token += size - 1
    return Stream(np.array(stream, dtype=np.uint16), EOT)


def bounds(stream: Stream) -> list[tuple[int, int]]:
    places = stream.bounds().tolist()
    return list(itertools.pairwise(places))


def epoch(made: packing.Packed) -> list[list[packing.Run]]:
    """The rows of the first epoch, in their order."""
    return [made._row(i) for i in range(len(made._block(0)))]


def best_fit(runs: list[packing.Run], length: int) -> list[list[packing.Run]]:
    """Looks through all pieces for each place, and at all of their lengths."""
    left, rows = list(runs), []
    while left:
        row, room = [], length
        while room and left:
            fitting = [run for run in left if run[1] <= room]
            chosen = max(fitting, key=lambda run: (run[1], run[0])) if fitting else min(left, key=lambda run: run[::-1])
            left.remove(chosen)
            row.append((chosen[0], min(chosen[1], room)))
            room -= row[-1][1]
        if not room:
            rows.append(row)
    return rows


@pytest.mark.parametrize("length", [1, 4, 8, 10, 16, 100])
def test_best_fit_is_that_of_a_search_over_all(length: int) -> None:
    made = BestFit(toy(), length, seed=3)
    whole, short = [], []
    for start, end in bounds(toy()):
        beginning = (end - start) % length
        short += [(start, beginning)] if beginning else []
        whole += [[(at, length)] for at in range(start + beginning, end, length)]
    assert sorted(epoch(made)) == sorted(whole + best_fit(short, length))


@pytest.mark.parametrize("length", [1, 4, 8, 10, 16, 100])
def test_bos_aligned_is_that_of_one_document_after_the_other(length: int) -> None:
    made = BosAligned(toy(), length, seed=3)
    documents = [bounds(toy())[i] for i in made._chosen(0)]
    rows, row = [], []
    for start, end in documents:
        for at in range(start, end):  # pair by pair
            row.append(at)
            if len(row) == length:
                rows.append(row)
                row = []
                break
    assert sorted([at for s, n in row for at in range(s, s + n)] for row in epoch(made)) == sorted(rows)
    assert all(toy().tokens[row[0][0]] == EOT for row in epoch(made))


@pytest.mark.parametrize("kind", [BosAligned, BestFit])
def test_rows_hold_pairs_of_the_stream_and_a_number_is_a_row(kind: type[packing.Packed]) -> None:
    """Over many epochs, however the sequences are asked for, also by a process that begins anew."""
    stream, length = toy(), 10
    after = {int(a): int(b) for a, b in zip(stream.tokens[:-1], stream.tokens[1:], strict=True) if a != EOT}
    made = kind(stream, length, seed=1)
    inputs, targets = made.take(0, 150)
    assert inputs.shape == targets.shape == (150, length)
    assert all(
        after[a] == b for a, b in zip(inputs.ravel().tolist(), targets.ravel().tolist(), strict=True) if a != EOT
    )
    for row in inputs:  # no token without its document's beginning, but in rows that are one piece
        assert row[0] == EOT or EOT not in row
    fresh = kind(stream, length, seed=1)
    for first, number in [(140, 10), (0, 3), (77, 40), (3, 1)]:
        again = fresh.take(first, number)
        assert (again[0] == inputs[first : first + number]).all() and (
            again[1] == targets[first : first + number]
        ).all()
    assert not (kind(stream, length, seed=2).take(0, 150)[0] == inputs).all()


def test_blocks_of_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "DOCUMENTS", 5)
    made = BestFit(toy(), 10, seed=0)
    per_epoch = [len(made._block(block)) for block in range(8)]
    assert made._blocks == 4 and all(per_epoch)
    seen = [made._chosen(block).tolist() for block in range(4)]
    assert sorted(itertools.chain(*seen)) == list(range(len(SIZES))), "an epoch has each document once"
    rows = [made._row(i) for i in range(sum(per_epoch))]
    assert rows == [row for block in range(8) for row in made._block(block)]


def test_golden_rows() -> None:
    """The order of the data is part of what a seed means: it must never change."""
    first = [[0, 149, 150, 151, 152, 153, 154, 155, 0, 86], [*range(172, 182)]]
    assert BestFit(toy(), 10, 0).take(0, 2)[0].tolist() == first
    assert BosAligned(toy(), 10, 1).take(7, 1)[0].tolist() == [[0, 129, 130, 131, 0, 19, 20, 21, 22, 0]]


def test_statistics_are_those_of_counting() -> None:
    stream, length = toy(), 16
    total = sum(SIZES)
    for kind in (BestFit, BosAligned):
        made = kind(stream, length, seed=0)
        rows = epoch(made)
        runs = [run for row in rows for run in row]
        whole = sum((start, end - start) in runs for start, end in bounds(stream))
        found = made.statistics()
        assert found == pytest.approx((1 - len(rows) * length / total, 1 - whole / len(SIZES), 1.0))
    assert "% of the tokens dropped, " in str(found)
    windows = Windows(stream, length, seed=0)
    offset = int(windows._order.starts(0, 1)[0]) % length
    covered = windows._order.windows * length
    places = [(start - offset, end - 1 - offset) for start, end in bounds(stream)]
    whole = sum(a >= 0 and b < covered and a // length == b // length for a, b in places)
    assert windows.statistics() == pytest.approx((1 - covered / total, 1 - whole / len(SIZES), 1.0))


def test_pieces_cover_each_document_once() -> None:
    documents = np.array(bounds(toy()))
    short, counts, whole = pieces(documents[:, 0], documents[:, 1], 8)
    runs = [*zip(short.tolist(), counts.tolist(), strict=True), *((start, 8) for start in whole.tolist())]
    assert sorted(at for start, count in runs for at in range(start, start + count)) == list(range(sum(SIZES)))
    assert set(short.tolist()) <= set(documents[:, 0].tolist())


def test_a_row_that_no_text_fills() -> None:
    with pytest.raises(DataError, match="no row of 500 tokens can be filled: give more text"):
        BestFit(toy(), 500, seed=0).take(0, 1)
