"""Multi-head latent attention. Constructor: (shape, layer, *, options).

Shape letters as in parts/base.py, and R rank of the latent, N and P head dimensions without and with position, V that
of values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveInt
from gpt_lab.parts.attention.softmax import Softmax
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.norm.rmsnorm import RMSNorm
from gpt_lab.registry import register


@register("attention", "mla")
class Latent(Softmax):
    """Multi-head latent attention: keys and values of all heads come from one small latent, all that decoding keeps.

    Paper: DeepSeek-AI et al. 2024, arXiv:2405.04434 (DeepSeek-V2, V3).

    A token's latent (kv_rank numbers, normalised) is projected up to each head's keys and values. Position acts on
    further dimensions alone (rope_dim of each query head, and one key that all heads share), so that a model needs
    position=rope or the like to know order there. The decoding state holds the latent and that key: (kv_rank +
    rope_dim) numbers a token, whatever the heads. A few new tokens are attended to in the latent space itself,
    where the projections up are absorbed into query and output; many are projected up; both give the same.

    Checkpoints of DeepSeek interleave the rotated dimensions: (0, 2, 4, ..., 1, 3, ...) of theirs are ours in order.
    The defaults are the paper's proportions; sizes are counted in numbers.

    kv_rank: of the latent; null: 4 x the head dimension scale.width / scale.heads.
    q_rank: of a latent of the queries, normalised too, from which they are projected up; null: none (V2-Lite).
    nope_dim: of each head's queries and keys without position; null: the head dimension.
    rope_dim: of each head's queries and of the shared key with position, even; null: half the head dimension.
    v_dim: of each head's values; null: the head dimension.
    """

    read_directly = ("kv_b_proj",)
    both_ways = True

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        kv_rank: PositiveInt | None = None,
        q_rank: PositiveInt | None = None,
        nope_dim: PositiveInt | None = None,
        rope_dim: PositiveInt | None = None,
        v_dim: PositiveInt | None = None,
        **options: Any,
    ) -> None:
        usual = shape.width // shape.heads
        rope_dim, nope_dim = rope_dim or max(2, usual // 2), nope_dim or usual
        if rope_dim % 2:
            raise ConfigError(f"attention.rope_dim={rope_dim} must be even, as positions turn dimensions by pairs")
        super().__init__(shape, layer, head_dim=nope_dim + rope_dim, value_dim=v_dim or usual, **options)
        self.init_roles = {"kv_b_proj.weight": "fixed_input" if kv_rank else "head_input"}
        if q_rank:
            self.init_roles["q_b_proj.weight"] = "fixed_input"
        self.kv_rank, self.nope_dim, self.rope_dim = kv_rank or 4 * usual, nope_dim, rope_dim
        bias, queries = shape.bias, self.heads * self.head_dim
        if q_rank is None:
            self.q_proj = nn.Linear(shape.width, queries, bias=bias)
        else:
            self.q_a_proj = nn.Linear(shape.width, q_rank, bias=bias)
            self.q_a_norm = RMSNorm(q_rank)
            self.q_b_proj = nn.Linear(q_rank, queries, bias=False)
        self.q_rank = q_rank
        self.kv_a_proj = nn.Linear(shape.width, self.kv_rank + rope_dim, bias=bias)
        self.kv_a_norm = RMSNorm(self.kv_rank)
        self.kv_b_proj = nn.Linear(self.kv_rank, self.heads * (nope_dim + self.value_dim), bias=False)
        self.o_proj = nn.Linear(self.heads * self.value_dim, shape.width, bias=bias)

    def forward(self, x_BTD: Tensor, flow: Flow) -> Tensor:
        queries, kept_B1TX, _ = self.read(x_BTD, flow)
        kept_B1SX, _, positions_k = self.remember(kept_B1TX, kept_B1TX[..., :0], flow)
        absorbed = self.absorbs(positions_k, x_BTD.shape[1])
        y_BHTX = self.weigh(*self.faced(queries, kept_B1SX, absorbed), positions_k, flow)
        return self.output(y_BHTX, absorbed)

    def read(self, x_BTD: Tensor, flow: Flow) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Queries (B, H, T, N) and (B, H, T, P), what is kept of tokens (B, 1, T, R + P), what queries came from."""
        source = x_BTD if self.q_rank is None else self.q_a_norm(self.q_a_proj(x_BTD)).to(x_BTD.dtype)
        q_BHTK = (self.q_proj if self.q_rank is None else self.q_b_proj)(source)
        q_BHTK = q_BHTK.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        q_BHTN, q_BHTP = q_BHTK.split((self.nope_dim, self.rope_dim), dim=-1)
        latent_B1TR, k_B1TP = self.kv_a_proj(x_BTD)[:, None].split((self.kv_rank, self.rope_dim), dim=-1)
        latent_B1TR = self.kv_a_norm(latent_B1TR).to(k_B1TP.dtype)
        q_BHTP, k_B1TP = flow.position.at(flow.layer).rotate(q_BHTP, k_B1TP, flow.positions_T)
        return (q_BHTN, q_BHTP), torch.cat((latent_B1TR, k_B1TP), dim=-1), source

    def faced(self, queries: tuple[Tensor, Tensor], kept_B1SX: Tensor, absorbed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values for the kernel: every head's own, or one head's, whose values are the latent."""
        q_BHTN, q_BHTP = queries
        if absorbed:
            q_BHTX = torch.cat((q_BHTN @ self.ups()[0], q_BHTP), dim=-1)
            return q_BHTX, kept_B1SX, kept_B1SX[..., : self.kv_rank]
        latent_B1SR, k_B1SP = kept_B1SX.split((self.kv_rank, self.rope_dim), dim=-1)
        kv_BHSX = self.kv_b_proj(latent_B1SR[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k_BHSN, v_BHSV = kv_BHSX.split((self.nope_dim, self.value_dim), dim=-1)
        k_BHSK = torch.cat((k_BHSN, k_B1SP.expand(-1, self.heads, -1, -1)), dim=-1)
        return torch.cat((q_BHTN, q_BHTP), dim=-1), k_BHSK, v_BHSV

    def output(self, y_BHTX: Tensor, absorbed: bool) -> Tensor:
        """Back to the model's width; what is still in the latent space (B, H, T, R) goes up first."""
        if absorbed:
            y_BHTX = y_BHTX @ self.ups()[1].transpose(1, 2)
        out_BTD: Tensor = self.o_proj(y_BHTX.transpose(1, 2).flatten(2))
        return out_BTD

    def ups(self) -> tuple[Tensor, Tensor]:
        """The projections from the latent up to each head's keys (H, N, R) and values (H, V, R)."""
        up_HNR, up_HVR = self.kv_b_proj.weight.unflatten(0, (self.heads, -1)).split((self.nope_dim, self.value_dim), 1)
        return up_HNR, up_HVR

    def absorbs(self, positions_k: Tensor | None, new: int) -> bool:
        """Whether so few tokens of a longer text cost less in the latent space, where keys are wide but shared."""
        more = 2 * self.kv_rank - self.nope_dim - self.value_dim
        return positions_k is not None and new * more < self.kv_rank * (self.nope_dim + self.value_dim)

    def unlimited(self) -> str | None:
        return None

    def scale_scores(self, factor_H: Tensor) -> None:
        """Of parts without position by queries and keys alike; with it by queries, as all heads share that key."""
        queries = self.q_proj if self.q_rank is None else self.q_b_proj
        half_H, nope = factor_H.sqrt(), self.nope_dim
        for parameter in (queries.weight, queries.bias):
            if parameter is not None:
                heads = parameter.unflatten(0, (self.heads, -1))
                shape = (-1, *[1] * (heads.dim() - 1))
                heads[:, :nope].mul_(half_H.view(shape).to(heads.dtype))
                heads[:, nope:].mul_(factor_H.view(shape).to(heads.dtype))
        up_HXR = self.kv_b_proj.weight.unflatten(0, (self.heads, -1))
        up_HXR[:, :nope].mul_(half_H.view(-1, 1, 1).to(up_HXR.dtype))

    def flops_per_token(self, context: int) -> float:
        """Forward matmul FLOPs of a token where all are read at once, averaged over `context` tokens.

        As in training: keys and values projected up. Decoding costs more a key it looks at and less a token.
        """
        matrices = sum(layer.weight.numel() for layer in self.children() if isinstance(layer, nn.Linear))
        return 2 * matrices + 2 * self.heads * (self.head_dim + self.value_dim) * self.keys_seen(context)
