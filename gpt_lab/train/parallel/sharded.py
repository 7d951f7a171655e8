"""Sharded data parallelism: weights, gradients and optimizer state are divided among the ranks by rows.

Optimizers see this rank's rows as plain tensors, which is the same to all that treat numbers one by one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from gpt_lab.optim.matrix.muon import MuonRule
from gpt_lab.registry import register
from gpt_lab.train import checkpoint
from gpt_lab.train.checkpoint import MODEL, TRAINING, Content
from gpt_lab.train.parallel.owned_matrices import DividedMatrices, Place
from gpt_lab.train.parallel.process_group import Joined
from gpt_lab.train.parallel.sharded_file import Rows, fill, prepare, read_into, read_rows

STATE_OF = re.compile(r"optimizer\.state\.(\d+)\.")
"""Begins the names of an optimizer's tensors in a checkpoint, with the number of the parameter."""


class Share(NamedTuple):
    """This rank's rows of a parameter.

    Fields:
        whole: the sharded parameter. here: the rows, a plain tensor in its memory. first: number of the first of them.
    """

    whole: DTensor
    here: nn.Parameter
    first: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.whole.shape)


def passing_on(module: nn.Module) -> None:
    """Has a sharded module take lists and dictionaries themselves, where fully_shard would give it copies.

    Layers leave losses there, and what later ones read.
    """

    def packed(module: nn.Module, args: Any, kwargs: Any) -> Any:
        def pack(one: Any) -> Any:
            return one if isinstance(one, Tensor) else lambda: one

        return tuple(map(pack, args)), {name: pack(one) for name, one in kwargs.items()}

    def unpacked(module: nn.Module, args: Any, kwargs: Any) -> Any:
        def unpack(one: Any) -> Any:
            return one if isinstance(one, Tensor) else one()

        return tuple(map(unpack, args)), {name: unpack(one) for name, one in kwargs.items()}

    module.register_forward_pre_hook(packed, prepend=True, with_kwargs=True)
    module.register_forward_pre_hook(unpacked, with_kwargs=True)


@register("parallel", "fsdp")
class Shards(Joined):
    """Every device keeps a share of weights, gradients and optimizer state; layers are put together as they compute.

    Paper: Zhao et al. 2023, arXiv:2304.11277

    torch's fully_shard (FSDP2), each layer by itself, all else together. For optimizers that treat numbers one by one,
    and optim=muon, whose matrices are put together on one device each.

    accumulate: gradients of a step's micro-batches. whole: summed on each device and exchanged once; sharded: exchanged
        after each micro-batch, so that no device holds more than its share.
    """

    def __init__(self, *, accumulate: Literal["whole", "sharded"] = "whole") -> None:
        super().__init__()
        self.accumulate = accumulate

    def place(self, model: nn.Module, device: str) -> None:
        mesh = init_device_mesh(device, (self.number,))
        for module in (*model.blocks, model):  # type: ignore[misc]
            fully_shard(module, mesh=mesh)
            passing_on(module)
        model.to(device)  # buffers
        self._model: Any = model
        self._shares = {p: self._share(p) for p in model.parameters()}

    def _share(self, whole: Any) -> Share:
        return Share(whole, nn.Parameter(whole.to_local()), first_row(whole.shape[0], self.rank, self.number))

    def fit(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._moved: list[Share] = []
        for group in optimizer.param_groups:
            shares = [self._shares[p] for p in group["params"]]
            group["params"] = [share.here for share in shares]
            self._moved += shares  # in the order in which the optimizer numbers them
        if isinstance(optimizer, MuonRule):
            optimizer.matrices = DividedMatrices(
                self.rank, self.number, {one.here: self._place(one) for one in self._moved}
            )

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return [share.here for share in self._shares.values()]

    def exchanging(self, last: bool) -> AbstractContextManager[Any]:
        self._model.set_requires_gradient_sync(last or self.accumulate == "sharded")
        return contextlib.nullcontext()

    def settle(self) -> None:
        for share in self._shares.values():
            grad, share.whole.grad = share.whole.grad, None
            share.here.grad = None if grad is None else grad.to_local()  # type: ignore[attr-defined]

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return self.sum(super().norm(gradients).square()).sqrt()

    def forget(self) -> None:
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _place(self, share: Share) -> Place:
        begins = [first_row(share.shape[0], rank, self.number) for rank in range(self.number + 1)]
        return Place(share.shape, tuple(after - before for before, after in itertools.pairwise(begins)))

    def save(self, content: Content, path: Path, state: Mapping[str, Any]) -> None:
        if self.rank == 0:
            checkpoint.save(path, *content, state, write=lambda tensors, file: self._lead(tensors, file))
        elif self._write(content.model.state_dict(), ""):
            self._write(checkpoint.training_tensors(content.optimizer)[0], "")

    def restore(self, content: Content, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        with checkpoint.fitting(path):
            read_into(path / MODEL, self._marked(content.model.state_dict()))
            with safe_open(path / TRAINING, framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
            found = {}
            for name, shape in shapes.items():
                share = self._share_of(name)
                if share is not None and shape == share.shape:
                    found[name] = read_rows(path / TRAINING, name, share.first, len(share.here))
                else:
                    found[name] = read_rows(path / TRAINING, name)
            checkpoint.restore_training(found, state, content.optimizer, content.scaler)
        return state

    def _lead(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        """Writes a file with the other ranks, which have been asked to.

        Raises:
            OSError: one of them could not.
        """
        try:
            prepare(file, self._marked(tensors))
        except OSError:
            self._write({}, None)
            raise
        self._write(tensors, str(file))

    def _write(self, tensors: Mapping[str, Tensor], file: str | None) -> bool:
        """Writes this rank's rows into a file that the first rank has made; whether that was all right everywhere.

        Args:
            file: its path, at the first rank; None: it could not be made.

        Raises:
            OSError: at the first rank, if one could not write.
        """
        told = [file]
        dist.broadcast_object_list(told, 0)
        if told[0] is None:
            return False
        failed = 0
        try:
            fill(Path(told[0]), self._marked(tensors), replicated=self.rank == 0)
        except OSError as error:
            failed = error.errno or errno.EIO
        worst = max(int(one) for one in self.gather(torch.tensor([failed])))
        if worst and self.rank == 0:
            raise OSError(worst, os.strerror(worst))
        return not worst

    def _marked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor | Rows]:
        """A checkpoint's tensors, those of which the others have rows too as such."""
        return {name: self._rows(self._share_of(name), tensor) for name, tensor in tensors.items()}

    def _rows(self, share: Share | None, tensor: Tensor) -> Tensor | Rows:
        if isinstance(tensor, DTensor):
            here = tensor.to_local()
            return Rows(here, first_row(tensor.shape[0], self.rank, self.number), tuple(tensor.shape))
        if share is not None and tensor.shape == share.here.shape:
            return Rows(tensor, share.first, share.shape)
        return tensor

    def _share_of(self, name: str) -> Share | None:
        """The share that a tensor of the optimizer's is of; None: of none."""
        number = STATE_OF.match(name)
        return None if number is None else self._moved[int(number[1])]


def first_row(rows: int, rank: int, ranks: int) -> int:
    """Where a rank's rows begin: each has as many, but the last ones fewer."""
    return min(rank * -(-rows // ranks), rows)
