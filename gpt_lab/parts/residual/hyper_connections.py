"""Several residual streams, which each branch reads, mixes and writes. Constructor: (shape, layer, attention, mlp,
make_norm, *, options); forward: (B, T, N, D), Flow -> (B, T, N, D).

Shape letters as in parts/base.py; N streams.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveInt
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.residual.base import Block, MakeNorm, Streams, norm_for
from gpt_lab.registry import register

EPS = 1e-6
"""As in DeepSeek-V4: of the norm of all streams, and what keeps a weight from being 0."""


class Copies(Streams):
    """Every stream begins as the embeddings; the head reads their mean."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def enter(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return x_BTD.unsqueeze(2).expand(-1, -1, self.count, -1)

    def leave(self, stream: Tensor, flow: Flow) -> Tensor:
        return stream.mean(2)


class Connection(nn.Module):
    """How one branch meets the streams: `weights` of (B, T, N, D).

    They are read (..., N, 1 + N), whose column 0 makes of the streams what the branch reads and whose others
    make the new streams of the old, and write (..., N), by which the branch's output is added to each; (B, T) in
    front, or nothing where they are the same for all tokens.
    """

    projected: int
    """Multiply-adds of a token with matrices, per channel of the model's width."""

    def weights(self, streams_BTND: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class HyperConnection(Connection):
    """Learned weights, and to each a share that the stream says: static + scale tanh(norm(stream) W).

    At first the branch reads stream `favoured`, all streams keep themselves, and the output is added to all.
    """

    def __init__(self, width: int, count: int, favoured: int, make_norm: MakeNorm | None) -> None:
        super().__init__()
        self.count = count
        reads_N1 = F.one_hot(torch.tensor([favoured]), count).t()
        self.static = nn.Parameter(torch.cat((reads_N1, torch.eye(count), torch.ones(count, 1)), dim=1).flatten())
        self.norm = None if make_norm is None else make_norm(width)
        self.projected = 0
        if make_norm is not None:
            self.dynamic = nn.Linear(width, count + 2, bias=False)
            self.scale = nn.Parameter(torch.full((2,), 0.01))
            self.projected = count * (count + 2)

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Zeros: at first the weights are the same for all tokens."""
        return torch.zeros_like(self.dynamic.weight) if name == "dynamic.weight" else None

    def weights(self, streams_BTND: Tensor) -> tuple[Tensor, Tensor]:
        static = self.static.view(self.count, -1)
        read, write = static[:, :-1], static[:, -1]
        if self.norm is None:
            return read, write
        said_BTNM = self.dynamic(self.norm(streams_BTND)).float().tanh()
        read_scale, write_scale = self.scale
        return read + read_scale * said_BTNM[..., :-1], write + write_scale * said_BTNM[..., -1]


class ManifoldConnection(Connection):
    """Weights that are positive, of which those between the streams are doubly stochastic; all streams say them.

    At first a branch reads a mean of the streams, mostly of stream `favoured` (equal shares would leave all streams
    equal for ever), the output is added to each once, and each stream keeps most of itself.
    """

    KEPT = 0.9
    """Share of itself that a stream keeps at first."""

    def __init__(self, width: int, count: int, favoured: int, iterations: int) -> None:
        super().__init__()
        self.count, self.iterations = count, iterations
        self.projected = count * count * (count + 2)
        self.project = nn.Linear(count * width, count * (count + 2), bias=False)
        self.scale = nn.Parameter(torch.full((3,), 0.01))
        pre_N = torch.full((count,), 0.5 / count)
        pre_N[favoured] += 0.5
        kept_NN = torch.full((count, count), (1 - self.KEPT) / (count - 1)).fill_diagonal_(self.KEPT)
        self.base = nn.Parameter(torch.cat((pre_N.logit(), torch.zeros(count), kept_NN.log().flatten())))

    def draw(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Zeros: at first the weights are the same for all tokens."""
        return torch.zeros_like(self.project.weight) if name == "project.weight" else None

    def weights(self, streams_BTND: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(streams_BTND.device.type, enabled=False):
            flat = F.rms_norm(streams_BTND.flatten(2).float(), (self.project.in_features,), eps=EPS)
            said = F.linear(flat, self.project.weight.float())
            sizes = (self.count, self.count, self.count * self.count)
            pre, post, mix = (
                part * scale + base
                for part, scale, base in zip(said.split(sizes, -1), self.scale, self.base.split(sizes), strict=True)
            )
            mix_BTNN = sinkhorn(mix.unflatten(-1, (self.count, self.count)), self.iterations)
            return torch.cat(((pre.sigmoid() + EPS).unsqueeze(-1), mix_BTNN), dim=-1), 2 * post.sigmoid()


def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """exp(logits) (..., N, N) with rows and columns divided by their sums in turn, `iterations` times each."""
    matrix = logits.softmax(-1) + EPS
    matrix = matrix / (matrix.sum(-2, keepdim=True) + EPS)
    for _ in range(iterations - 1):
        matrix = matrix / (matrix.sum(-1, keepdim=True) + EPS)
        matrix = matrix / (matrix.sum(-2, keepdim=True) + EPS)
    return matrix


class _Connected(Block):
    """A pre-norm block whose branches are joined to N streams, each by a connection of its own."""

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        count: int,
        connect: Callable[[int], Connection],
    ) -> None:
        super().__init__(shape, layer, attention, mlp)
        self.width, self.count = shape.width, count
        self.attention_norm, self.mlp_norm = (norm_for(branch, shape, make_norm) for branch in (attention, mlp))
        self.attention_connection, self.mlp_connection = (
            None if getattr(branch, "absent", False) else connect((2 * layer + place) % count)
            for place, branch in enumerate((attention, mlp))
        )

    def streams(self, shape: Shape) -> Streams:
        return Copies(self.count)

    def forward(self, streams_BTND: Tensor, flow: Flow) -> Tensor:
        for connection, norm, branch in (
            (self.attention_connection, self.attention_norm, self.attend),
            (self.mlp_connection, self.mlp_norm, self.feed),
        ):
            if connection is None:
                continue
            read, write = connection.weights(streams_BTND)
            with torch.autocast(streams_BTND.device.type, enabled=False):  # a rounded stream would stay rounded
                mixed_BTMD = read.transpose(-1, -2).to(streams_BTND.dtype) @ streams_BTND
            y_BTD = branch(norm(mixed_BTMD[:, :, 0]), flow)
            streams_BTND = mixed_BTMD[:, :, 1:] + write.to(streams_BTND.dtype).unsqueeze(-1) * y_BTD.unsqueeze(2)
        return streams_BTND

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token: the weights that it says itself, and the mixing of its streams."""
        found = [one for one in (self.attention_connection, self.mlp_connection) if one is not None]
        return sum(2 * self.width * (one.projected + self.count * (1 + self.count)) for one in found)


@register("residual", "hyper_connections")
class HyperConnections(_Connected):
    """Several residual streams: learned weights say what of them a branch reads, how they mix, where it is added.

    Paper: Zhu et al. 2024, arXiv:2409.19606

    At first all streams are equal and the model is that of residual=pre: branch k (two a layer) reads stream k modulo
    their number, which is what makes them part. As in the paper the streams are copies of the embeddings; their sum at
    the end is a mean here, which the last norm does not tell apart. The norm before the dynamic weights is the model's
    (`norm`). Of all this only the dynamic weights' matrices are decayed, as in the paper.

    streams: how many.
    dynamic: whether each token adjusts the weights by what its streams hold (DHC); false: they are the same for all
        tokens (SHC).
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        streams: PositiveInt = 4,
        dynamic: bool = True,
    ) -> None:
        def connect(favoured: int) -> Connection:
            return HyperConnection(shape.width, streams, favoured, make_norm if dynamic else None)

        super().__init__(shape, layer, attention, mlp, make_norm, streams, connect)


@register("residual", "mhc")
class ManifoldConstrained(_Connected):
    """Hyper-connections whose mixing of the streams is doubly stochastic, so that depth neither amplifies nor fades it.

    Paper: Xie et al. 2025, arXiv:2512.24880

    What a branch reads has weights sigmoid(.), what it is added by 2 sigmoid(.), and the matrix between the streams is
    exp(.) after Sinkhorn-Knopp; all three are base + scale x (RMS norm of all streams) W, computed in fp32 as in
    DeepSeek-V4. W begins at 0, scale at 0.01, and base so that the model is that of residual=pre at first. DeepSeek-V4
    ends with learned weights for the head; here, as in the paper before it, streams begin as copies and end as a mean.
    Training keeps every iteration's matrix: iterations x 2 N^2 numbers a token and branch.

    streams: how many, 2 or more.
    iterations: of Sinkhorn-Knopp, each dividing rows and columns by their sums.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        streams: PositiveInt = 4,
        iterations: PositiveInt = 20,
    ) -> None:
        if streams < 2:
            raise ConfigError("residual=mhc mixes streams: use residual.streams=2 or more, or residual=pre")

        def connect(favoured: int) -> Connection:
            return ManifoldConnection(shape.width, streams, favoured, iterations)

        super().__init__(shape, layer, attention, mlp, make_norm, streams, connect)
