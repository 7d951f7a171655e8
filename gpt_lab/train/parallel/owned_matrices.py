"""Newton-Schulz over the ranks: each matrix has an owner, which alone makes it orthogonal.

Replicas pass on what they have made; where each rank has some rows only, these travel to the owner and back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gpt_lab.optim.matrix.muon import Matrices, Work


def owners(shapes: Sequence[tuple[int, int]], ranks: int) -> list[int]:
    """The owner of each matrix: the largest first, always to the rank with the least to do."""
    load = [0] * ranks
    found = [0] * len(shapes)
    work = [min(shape) ** 2 * max(shape) for shape in shapes]
    for number in sorted(range(len(shapes)), key=lambda one: (-work[one], one)):
        found[number] = load.index(min(load))
        load[found[number]] += work[number]
    return found


class ReplicatedMatrices(Matrices):
    """Of parameters that every rank has whole."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks

    def orthogonal(
        self, params: Sequence[tuple[Tensor, Sequence[int]]], parts: Sequence[Tensor], work: Work
    ) -> Sequence[Tensor]:
        owner = owners([(part.shape[0], part.shape[1]) for part in parts], self.ranks)
        mine = work([part for part, one in zip(parts, owner, strict=True) if one == self.rank])
        sizes = [
            sum(part.numel() for part, one in zip(parts, owner, strict=True) if one == rank)
            for rank in range(self.ranks)
        ]
        sent = torch.zeros(max(sizes), dtype=parts[0].dtype, device=parts[0].device)
        if mine:
            torch.cat([made.flatten() for made in mine], out=sent[: sizes[self.rank]])
        all_of = torch.empty(self.ranks, max(sizes), dtype=sent.dtype, device=sent.device)
        dist.all_gather_into_tensor(_bytes(all_of.flatten()), _bytes(sent))
        found, used = [], [0] * self.ranks
        for part, one in zip(parts, owner, strict=True):
            found.append(all_of[one, used[one] : used[one] + part.numel()].view(part.shape))
            used[one] += part.numel()
        return found


class Place(NamedTuple):
    """Where a parameter is whose rows the ranks have in turn: its shape, and how many rows each rank has."""

    shape: tuple[int, ...]
    counts: tuple[int, ...]


class DividedMatrices(Matrices):
    """Of parameters of which each rank has rows; a stack is divided between its matrices.

    Args:
        places: of each parameter, by what is here of it.
    """

    def __init__(self, rank: int, ranks: int, places: Mapping[Tensor, Place]) -> None:
        self.rank, self.ranks, self.places = rank, ranks, places

    def shapes(self, p: Tensor, rows: Sequence[int]) -> Sequence[tuple[int, int]]:
        shape = self.places[p].shape
        if len(shape) == 3:
            return [(shape[1], shape[2])] * len(p)
        return [(number, shape[1]) for number in rows or shape[:1]]

    def parts(self, p: Tensor, like: Tensor, rows: Sequence[int]) -> Sequence[Tensor]:
        if like.ndim == 3:
            return like.unbind(0)
        return like.split([place.counts[self.rank] for place in self._divided(p, rows) if place is not None])

    def orthogonal(
        self, params: Sequence[tuple[Tensor, Sequence[int]]], parts: Sequence[Tensor], work: Work
    ) -> Sequence[Tensor]:
        like = parts[0] if parts else params[0][0]
        places = [divided for p, rows in params for divided in self._divided(p, rows)]
        here = [part for part, place in zip(parts, places, strict=True) if place is None]
        rows_of = [place.counts for place in places if place is not None]
        wide = [place.shape[1] for place in places if place is not None]
        pieces = [part for part, place in zip(parts, places, strict=True) if place is not None]
        owner = owners([(sum(counts), width) for counts, width in zip(rows_of, wide, strict=True)], self.ranks)
        mine = [number for number, one in enumerate(owner) if one == self.rank]
        theirs = [[number for number, one in enumerate(owner) if one == rank] for rank in range(self.ranks)]
        # what goes to each rank: the rows here of its matrices; what comes from it: its rows of those of this rank
        going = [[pieces[number] for number in numbers] for numbers in theirs]
        coming = [[(rows_of[number][rank], wide[number]) for number in mine] for rank in range(self.ranks)]
        came = exchange(going, coming, like)
        whole = [torch.cat([came[rank][place] for rank in range(self.ranks)]) for place in range(len(mine))]
        made = work([*whole, *here])
        back = [made[place].split(list(rows_of[number])) for place, number in enumerate(mine)]
        going = [[split[rank] for split in back] for rank in range(self.ranks)]
        coming = [[(len(pieces[number]), wide[number]) for number in numbers] for numbers in theirs]
        came = exchange(going, coming, like)
        found = dict(
            zip((number for numbers in theirs for number in numbers), (t for ts in came for t in ts), strict=True)
        )
        divided, stacked = iter(found[number] for number in range(len(pieces))), iter(made[len(mine) :])
        return [next(stacked if place is None else divided) for place in places]

    def _divided(self, p: Tensor, rows: Sequence[int]) -> Sequence[Place | None]:
        """Of each of a parameter's matrices that are here: how the ranks have its rows; None: it is here as a whole."""
        if p.ndim == 3:
            return [None] * len(p)
        whole = self.places[p]
        ends = list(itertools.accumulate(rows or whole.shape[:1], initial=0))
        cuts = list(itertools.accumulate(whole.counts, initial=0))
        return [
            Place(
                (end - begin, whole.shape[1]),
                tuple(max(0, min(end, after) - max(begin, before)) for before, after in itertools.pairwise(cuts)),
            )
            for begin, end in itertools.pairwise(ends)
        ]


def exchange(
    going: Sequence[Sequence[Tensor]], coming: Sequence[Sequence[tuple[int, int]]], like: Tensor
) -> list[list[Tensor]]:
    """What every rank sends to this one, of these shapes, for what this one sends to each; all of one number type."""
    sent = [tensor for tensors in going for tensor in tensors]
    size = like.element_size()
    counts = [[math.prod(shape) for shape in shapes] for shapes in coming]
    buffer = torch.empty(sum(map(sum, counts)), dtype=like.dtype, device=like.device)
    flat = torch.cat([tensor.flatten() for tensor in sent]) if sent else buffer[:0]
    give = [size * sum(tensor.numel() for tensor in tensors) for tensors in going]
    take = [size * sum(of) for of in counts]
    dist.all_to_all_single(_bytes(buffer), _bytes(flat), take, give)
    parts = iter(buffer.split([count for of in counts for count in of]))
    return [[next(parts).view(shape) for shape in shapes] for shapes in coming]


def _bytes(flat: Tensor) -> Tensor:
    return flat.view(torch.uint8)
