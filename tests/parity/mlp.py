"""MLPs with routers, and how they balance."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DeepseekV3Config, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.mlp.mod import MixtureOfDepths
from gpt_lab.parts.mlp.moe import MixtureOfExperts
from gpt_lab.parts.position.learned import NoPosition
from tests.parity.case import Comparison, gradients, parity

SHAPE = Shape(depth=2, width=32, heads=4, context=16)
SIZES = {"hidden_size": 32, "num_experts_per_tok": 2}


def drawn(module: nn.Module) -> None:
    """Weights so large that outputs are of size 1."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5, generator=generator)


def flow(losses: list[Tensor] | None = None) -> Flow:
    return Flow(NoPosition(SHAPE), torch.arange(16), losses=losses)


def inputs() -> Tensor:
    return torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()


def against(ours: MixtureOfExperts, theirs: Any) -> Comparison:
    pairs = [
        (ours.router.weight, theirs.gate.weight),
        (ours.routed.gate_up_proj.weight, theirs.experts.gate_up_proj),
        (ours.routed.down_proj.weight, theirs.experts.down_proj),
    ]
    if ours.shared is not None:
        names = ("gate_proj", "up_proj", "down_proj")
        pairs += [(getattr(ours.shared, n).weight, getattr(theirs.shared_experts, n).weight) for n in names]
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine)
    x, x_too = inputs(), inputs()
    outputs = ours.eval()(x, flow()), theirs.eval()(x_too)
    mine = gradients(outputs[0], [x, *(a for a, _ in pairs)])
    other = gradients(outputs[1], [x_too, *(b for _, b in pairs)])
    return Comparison([outputs], list(zip(mine, other, strict=True)))


def made(**options: Any) -> MixtureOfExperts:
    ours = MixtureOfExperts(SHAPE, 0, **options)
    drawn(ours)
    return ours


@parity("mlp", "moe", "transformers.MixtralSparseMoeBlock")
def mixtral() -> Comparison:
    ours = made()
    return against(ours, MixtralSparseMoeBlock(MixtralConfig(**SIZES, intermediate_size=ours.d_ff)))


@parity("mlp", "moe", "transformers.Qwen3MoeSparseMoeBlock", "renormalize=true")
def qwen3() -> Comparison:
    return _qwen3(True)


@parity("mlp", "moe", "transformers.Qwen3MoeSparseMoeBlock", "renormalize=false")
def qwen3_as_they_are() -> Comparison:
    return _qwen3(False)


def _qwen3(renormalize: bool) -> Comparison:
    sizes = {**SIZES, "num_experts_per_tok": 3, "num_experts": 6, "moe_intermediate_size": 21}
    ours = made(renormalize=renormalize, experts=6, top_k=3, d_ff=21)
    return against(ours, Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(**sizes, norm_topk_prob=renormalize)))


@parity("mlp", "moe", "transformers.DeepseekV3MoE", "router=sigmoid shared_experts=2 bias_rate=0.001")
def deepseek() -> Comparison:
    ours = made(router="sigmoid", shared_experts=2, bias_rate=0.001)
    config = DeepseekV3Config(
        **SIZES,
        n_routed_experts=8,
        n_shared_experts=2,
        moe_intermediate_size=ours.d_ff,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
    )
    theirs = DeepseekV3MoE(config)
    ours.choice_bias_E.copy_(torch.linspace(-0.4, 0.4, 8))
    theirs.gate.e_score_correction_bias.copy_(ours.choice_bias_E)
    return against(ours, theirs)


@parity("mlp", "moe", "transformers.load_balancing_loss_func", "balance=0.01")
def balance() -> Comparison:
    """At widths of the router from even to lopsided."""
    ours, x = made(), inputs()
    found, expected, grads = [], [], []
    for gain in (0.01, 3.0):
        losses: list[Tensor] = []
        with torch.no_grad():
            ours.router.weight.copy_(gain * torch.randn(8, 32, generator=torch.Generator().manual_seed(5)))
        ours(x + gain, flow(losses))
        logits = (x + gain).reshape(-1, 32) @ ours.router.weight.T
        theirs = load_balancing_loss_func((logits,), 8, 2)
        assert isinstance(theirs, Tensor)
        (mine,) = losses
        for loss, kept in ((mine / 0.01, found), (theirs, expected)):
            kept.append(loss)
        pair = [torch.autograd.grad(loss, ours.router.weight)[0] for loss in (found[-1], expected[-1])]
        grads.append((pair[0], pair[1]))
    return Comparison([(torch.stack(found), torch.stack(expected))], grads)


@parity("mlp", "mod", "formula.2404.02258")
def depths() -> Comparison:
    """sigmoid(r) f(x) where r > 0, else nothing, token by token; r is trained to be in the top share of its row."""
    ours = MixtureOfDepths(SHAPE, 1)
    drawn(ours)
    losses: list[Tensor] = []
    x = inputs()
    y = ours.eval()(x, flow(losses))
    router = ours.router
    assert router is not None
    weights = [router.weight, router.bias, ours.mlp.gate_up_proj.weight, ours.mlp.down_proj.weight]
    exact = [t.detach().double().requires_grad_() for t in (x, *weights)]
    x64, w, b, gate_up, down = exact
    expected, loss = torch.zeros(3, 16, 32, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for row in range(3):
        r = (x64[row] @ w[0]) + b
        top = sorted(range(16), key=lambda t: -r[t].item())[:2]  # 0.125 of 16
        for t in range(16):
            sign = 1.0 if t in top else -1.0
            loss = loss - torch.log(torch.sigmoid(sign * r[t])) / 48
            if r[t] > 0:
                gate, up = (gate_up[0] @ x64[row, t]).chunk(2)
                expected = expected.clone()
                expected[row, t] = torch.sigmoid(r[t]) * (down[0] @ (gate * torch.sigmoid(gate) * up))
    both = [gradients(y, [x, *weights]), gradients(expected.float(), exact)]
    router_grads = [
        torch.autograd.grad(total / scale, leaves)
        for total, scale, leaves in ((losses[0], 0.01, weights[:2]), (loss, 1.0, exact[1:3]))
    ]
    assert math.isclose(losses[0].item() / 0.01, loss.item(), rel_tol=1e-5)
    return Comparison([(y, expected)], [*zip(*both, strict=True), *zip(*router_grads, strict=True)])
