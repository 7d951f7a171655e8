"""Data parallelism: each rank has the whole model and a share of each step's rows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpt_lab.optim.matrix.muon import MuonRule
from gpt_lab.registry import register
from gpt_lab.train.checkpoint import Content
from gpt_lab.train.parallel.owned_matrices import ReplicatedMatrices
from gpt_lab.train.parallel.process_group import Joined
from gpt_lab.train.parallel.ranks import Forward


class Pass(nn.Module):
    """A pass of a model as a module of its own, whatever of the model it calls."""

    def __init__(self, model: nn.Module, compute: Forward) -> None:
        super().__init__()
        self.model = model
        self.compute = compute

    def forward(self, *rows: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.compute(*rows)


@register("parallel", "ddp")
class Replicas(Joined):
    """Every device has the whole model and a share of each step's rows; gradients are summed as they come.

    Paper: Li et al. 2020, arXiv:2006.15704

    torch's DistributedDataParallel. Over the micro-batches of a step gradients are exchanged once, and optim=muon
    orthogonalises a share of the matrices on each device. Memory of weights, gradients and optimizer is that of one
    device.
    """

    def fit(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if isinstance(optimizer, MuonRule):
            optimizer.matrices = ReplicatedMatrices(self.rank, self.number)

    def forward(self, model: nn.Module, compute: Forward) -> Forward:
        inside = Pass(model, compute)
        buffers = [name for name, _ in inside.named_buffers()]  # none differs between ranks
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(inside, buffers)
        self._pass = DistributedDataParallel(inside)
        return self._pass

    def exchanging(self, last: bool) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self._pass.no_sync()

    def save(self, content: Content, path: Path, state: Mapping[str, Any]) -> None:
        if self.rank == 0:
            content.save(path, state)
