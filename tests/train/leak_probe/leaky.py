"""Parts that see what they must not, each in its own way, and honest ones that come near."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lab.options import PositiveInt
from gpt_lab.parts.attention.softmax import MultiHead
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.mlp.feed_forward import SwiGLU
from gpt_lab.parts.objective.base import IGNORED, Objective, Outcome, Predictor, Score, Sequences
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.parts.objective.masked import MaskedDiffusion
from gpt_lab.parts.position.learned import NoPosition
from gpt_lab.parts.position.rope import Rope
from gpt_lab.parts.residual.base import MakeNorm
from gpt_lab.parts.residual.single_stream import PreNorm
from gpt_lab.registry import register


def shifted(x: Tensor, by: int) -> Tensor:
    """The token `by` places later (earlier if negative) at each place; zeros beyond the ends."""
    return F.pad(x, (0, 0, 0, by))[:, by:] if by > 0 else F.pad(x, (0, 0, -by, 0))[:, :by]


@register("attention", "roll")
class Roll(MultiHead):
    """Reads one token too late."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return super().forward(torch.roll(x_BTD, -1, 1), flow)


@register("attention", "distant")
class Distant(MultiHead):
    """A token at one distance only."""

    def __init__(self, shape: Shape, layer: int, *, by: PositiveInt = 1) -> None:
        super().__init__(shape, layer)
        self.by = by

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return super().forward(x_BTD, flow) + shifted(x_BTD, self.by)


@register("attention", "faint")
class Faint(MultiHead):
    """A ten-thousandth of the next token, of which no gradient tells."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return super().forward(x_BTD, flow) + 1e-4 * shifted(x_BTD.detach(), 1)


@register("attention", "trained")
class Trained(MultiHead):
    """In training only, beside a dropout of its own."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        out = F.dropout(super().forward(x_BTD, flow), 0.5, self.training)
        return out + shifted(x_BTD, 1) if self.training else out


@register("attention", "evaluated")
class Evaluated(MultiHead):
    """In evaluation only."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        out = super().forward(x_BTD, flow)
        return out if self.training else out + shifted(x_BTD, 1)


@register("attention", "gated")
class Gated(MultiHead):
    """Behind a gate that begins closed and a projection of zeros."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__(shape, layer)
        self.gate = nn.Parameter(torch.zeros(1))
        self.extra = nn.Parameter(torch.zeros(shape.width, shape.width))

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return super().forward(x_BTD, flow) + self.gate * (shifted(x_BTD, 1) @ self.extra)


class Masked(MultiHead):
    """Attention that hides the future by subtracting `penalty` from its scores."""

    penalty = 0.0

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        q, k, v = self.project(x_BTD)
        place = flow.positions_T
        scores = q @ k.mT * self.scale - self.penalty * (place[:, None] < place)
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@register("attention", "soft_mask")
class SoftMask(Masked):
    """A mask that large scores overcome."""

    penalty = 16.0


@register("attention", "chunked")
class Chunked(MultiHead):
    """The mean of a chunk of four tokens."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        chunks = x_BTD.unflatten(1, (-1, 4))
        return super().forward(x_BTD, flow) + chunks.mean(2, keepdim=True).expand_as(chunks).flatten(1, 2)


@register("attention", "first")
class First(MultiHead):
    """The first token alone sees the second."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return super().forward(x_BTD, flow) + shifted(x_BTD, 1) * (flow.positions_T == 0)[:, None]


@register("attention", "last")
class Last(MultiHead):
    """The last token but one alone sees the last."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return super().forward(x_BTD, flow) + shifted(x_BTD, 1) * (flow.positions_T == self.context - 2)[:, None]


@register("attention", "nan")
class NotANumber(MultiHead):
    """Not a number where the next token is larger in its first element."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        larger = shifted(x_BTD, 1)[..., :1] > x_BTD[..., :1] + 2
        return torch.where(larger, torch.nan, super().forward(x_BTD, flow))


@register("attention", "one_document")
class OneDocument(MultiHead):
    """The mean of all earlier tokens, whatever their document."""

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        return super().forward(x_BTD, flow) + x_BTD.cumsum(1) / (flow.positions_T + 1)[:, None]


@register("position", "late")
class Late(NoPosition):
    """Adds the next token's embedding."""

    def embed(self, x_BTD: Tensor, positions_T: Tensor) -> Tensor:
        return x_BTD + shifted(x_BTD, 1)


@register("position", "late_keys")
class LateKeys(Rope):
    """Turns the next token's key."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)

    def rotate(self, q_BHTK: Tensor, k_BGTK: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        return super().rotate(q_BHTK, k_BGTK.roll(-1, 2), positions_T)


@register("norm", "over_time")
class OverTime(nn.Module):
    """Statistics over the sequence."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)


@register("norm", "over_rows")
class OverRows(nn.Module):
    """Statistics over the batch, place by place."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-5)


@register("norm", "batch")
class Batch(nn.BatchNorm1d):
    """Batch normalisation: statistics of the batch in training, running ones in evaluation."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


@register("mlp", "mixing")
class Mixing(SwiGLU):
    """Beside each token the mean of all."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * x.mean(1, keepdim=True))


@register("residual", "ahead")
class Ahead(PreNorm):
    """Both branches read the stream of the next token."""

    def __init__(self, shape: Shape, layer: int, attention: nn.Module, mlp: nn.Module, make_norm: MakeNorm) -> None:
        super().__init__(shape, layer, attention, mlp, make_norm)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return x + super().forward(shifted(x, 1), flow)


@register("objective", "twice")
class Twice(CrossEntropy):
    """Shifts targets that are shifted already."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, logits_BTV: Tensor, targets_BT: Tensor) -> Outcome:
        return super().__call__(logits_BTV[:, :-1], targets_BT[:, 1:])


@register("objective", "back")
class Back(CrossEntropy):
    """Predicts the token that was just read, and reports that."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, logits_BTV: Tensor, targets_BT: Tensor) -> Outcome:
        return super().__call__(logits_BTV[:, 1:], targets_BT[:, :-1])


@register("objective", "back_unsaid")
class BackUnsaid(CrossEntropy):
    """Trains on the token that was just read, and reports the next."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, logits_BTV: Tensor, targets_BT: Tensor) -> Outcome:
        loss, _, _ = super().__call__(logits_BTV[:, 1:], targets_BT[:, :-1])
        return Outcome(loss, *super().__call__(logits_BTV, targets_BT)[1:])


@register("objective", "both")
class Both(CrossEntropy):
    """Trains on the next token and on the one just read."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, logits_BTV: Tensor, targets_BT: Tensor) -> Outcome:
        loss, nats, count = super().__call__(logits_BTV, targets_BT)
        return Outcome(loss + super().__call__(logits_BTV[:, 1:], targets_BT[:, :-1])[0], nats, count)


@register("objective", "flattering")
class Flattering(CrossEntropy):
    """Reports nats without those of hard tokens."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, logits_BTV: Tensor, targets_BT: Tensor) -> Outcome:
        loss, nats, count = super().__call__(logits_BTV, targets_BT)
        return Outcome(loss, 0.9 * nats, count)


@register("objective", "unread")
class Unread(CrossEntropy):
    """Says that its score is exact, of a model that reads both ways."""

    causal = False

    def __init__(self) -> None:
        super().__init__()


@register("objective", "self_scored")
class SelfScored(CrossEntropy):
    """Measures a likelihood by itself."""

    def __init__(self) -> None:
        super().__init__()

    def score(self, model: Predictor, given: Sequences, answers: bool = False) -> Score:
        found = super().score(model, given, answers)
        return found._replace(nats=0.5 * found.nats)


@register("objective", "shown")
class Shown(MaskedDiffusion):
    """Leaves every other token that it asks for where it is."""

    def substitute(self, text_BT: Tensor, keys_B: Tensor, draw: int, mask: int) -> Tensor:
        return torch.where(torch.arange(text_BT.shape[1]) % 2 == 0, text_BT, mask)


@register("objective", "few_hidden")
class FewHidden(MaskedDiffusion):
    """Hides one token only, which is no bound."""

    def number(self, length_B: Tensor, keys_B: Tensor, draw: int, draws: int) -> Tensor:
        return length_B.clamp(max=1)


@register("objective", "praising")
class Praising(CrossEntropy):
    """Reads more than logits, and reports less than they cost."""

    def __init__(self) -> None:
        super().__init__()

    def train(self, model: Predictor, given: Sequences) -> Outcome:
        outcome = super().train(model, given)
        return outcome._replace(nats=0.9 * outcome.nats)


# -- honest parts near the border --


@register("attention", "fourier")
class Fourier(MultiHead):
    """A causal convolution by FFT: each output adds up all tokens, and the later ones cancel but for rounding."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__(shape, layer)
        self.kernel_DT = nn.Parameter(torch.zeros(shape.width, shape.context))

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        length = x_BTD.shape[1]
        x_BDF = torch.fft.rfft(x_BTD.float().mT, n=2 * length)
        k_DF = torch.fft.rfft(self.kernel_DT[:, :length].float(), n=2 * length)
        return super().forward(x_BTD, flow) + torch.fft.irfft(x_BDF * k_DF, n=2 * length)[..., :length].mT


@register("attention", "sums")
class Sums(MultiHead):
    """Running means, a causal convolution, the previous token, and a dropout of its own."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__(shape, layer)
        self.conv = nn.Conv1d(shape.width, shape.width, 3, groups=shape.width, padding=2)
        self.drop = nn.Dropout(0.3)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        mean = x_BTD.cumsum(1) / (flow.positions_T + 1)[:, None]
        near = self.conv(x_BTD.mT)[..., : x_BTD.shape[1]].mT
        return self.drop(super().forward(x_BTD, flow) + mean + near + shifted(x_BTD, -1))


@register("attention", "hard_mask")
class HardMask(Masked):
    """A finite mask that no score overcomes, as in the first GPT."""

    penalty = 1e4


@register("mlp", "stateful")
class Stateful(SwiGLU):
    """Divides by a running size of what it has read, which training moves."""

    size: Tensor

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__(shape, layer)
        self.register_buffer("size", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x / self.size)
        if self.training:
            self.size = 0.9 * self.size + 0.1 * x.detach().abs().mean()
        return out


@register("norm", "root")
class Root(nn.Module):
    """A gain under a root, not a number once it is negative."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.gain.sqrt()


class _ByToken(Objective):
    """An objective that weighs each token's loss."""

    def loss(self, logits_BTV: Tensor, targets_BT: Tensor, nats_BT: Tensor, counted_BT: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, logits_BTV: Tensor, targets_BT: Tensor) -> Outcome:
        counted_BT = targets_BT != IGNORED
        nats_BT = F.cross_entropy(logits_BTV.mT, targets_BT, ignore_index=IGNORED, reduction="none")
        loss = self.loss(logits_BTV, targets_BT, nats_BT, counted_BT)
        return Outcome(loss, nats_BT.sum().detach(), counted_BT.sum())


@register("objective", "weighted")
class Weighted(_ByToken):
    """Hard tokens weigh more, the weights shared out over the batch."""

    def loss(self, logits_BTV: Tensor, targets_BT: Tensor, nats_BT: Tensor, counted_BT: Tensor) -> Tensor:
        weights_BT = (1 - (-nats_BT.detach()).exp()).square() * counted_BT
        return (weights_BT * nats_BT).sum() / weights_BT.sum()


@register("objective", "sampled")
class Sampled(_ByToken):
    """A random half of the tokens."""

    def loss(self, logits_BTV: Tensor, targets_BT: Tensor, nats_BT: Tensor, counted_BT: Tensor) -> Tensor:
        return (nats_BT * (torch.rand_like(nats_BT) < 0.5)).sum() / counted_BT.sum()


@register("objective", "unlikely")
class Unlikely(_ByToken):
    """Beside the next token, tokens that were read already are made less likely (Welleck et al. 2019)."""

    def loss(self, logits_BTV: Tensor, targets_BT: Tensor, nats_BT: Tensor, counted_BT: Tensor) -> Tensor:
        chances_BTV = logits_BTV.softmax(-1)
        read_BTV: Any = F.one_hot(targets_BT.clamp(min=0), logits_BTV.shape[-1]).cumsum(1)
        read_BTV = (F.pad(read_BTV, (0, 0, 1, 0))[:, :-1] > 0) & (
            F.one_hot(targets_BT.clamp(min=0), logits_BTV.shape[-1]) == 0
        )
        repeated = -(1 - chances_BTV).clamp(min=1e-5).log() * read_BTV
        return (nats_BT.sum() + repeated.sum()) / counted_BT.sum()
