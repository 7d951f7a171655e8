"""MLPs with routers: what a token gets depends on it alone, and the load is balanced as each option says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab.errors import ConfigError
from gpt_lab.parts.base import Flow, Shape, role
from gpt_lab.parts.mlp.mod import MixtureOfDepths
from gpt_lab.parts.mlp.moe import MixtureOfExperts
from gpt_lab.parts.position.learned import NoPosition
from tests.parts import decoding

SHAPE = Shape(depth=2, width=32, heads=4, context=16)
MODELS: dict[str, dict[str, Any]] = {
    "moe": {"mlp": "moe"},
    "moe as in DeepSeek": {"mlp": {"name": "moe", "router": "sigmoid", "shared_experts": 1, "bias_rate": 0.1}},
    "moe of odd sizes": {"mlp": {"name": "moe", "experts": 5, "top_k": 3, "d_ff": 13, "z_loss": 0.1}},
    "moe as in gpt-oss": {"mlp": {"name": "moe", "clamp": 1.0, "d_ff": 13}, "model.bias": True},
    "moe as in Qwen3-Next": {"mlp": {"name": "moe", "shared_experts": 1, "shared_gate": True}},
    "moe in groups": {"mlp": {"name": "moe", "groups": 4, "top_groups": 2, "routed_scale": 2.5}},
    "hybrid": {"mlp": {"name": "hybrid", "pattern": "E", "first": "D"}},
    "moe with capacity": {"mlp": {"name": "moe", "capacity_factor": 1.0}},
    "mod": {"mlp": "mod"},
    "none": {"mlp": "none"},
}


def flow(losses: list[Tensor] | None = None) -> Flow:
    return Flow(NoPosition(SHAPE), torch.arange(16), losses=losses)


def moe(**options: Any) -> MixtureOfExperts:
    made = MixtureOfExperts(SHAPE, 0, **options)
    with torch.no_grad():
        made.router.weight.normal_(generator=torch.Generator().manual_seed(0))
    return made


@pytest.mark.parametrize("name", MODELS)
class TestInAModel:
    def test_decoding_rows_and_documents(self, name: str) -> None:
        decoding.check(decoding.model(**MODELS[name]))

    def test_gradients(self, name: str) -> None:
        decoding.check_trains(decoding.model(**MODELS[name]))


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("name", ["moe as in DeepSeek", "moe as in gpt-oss", "moe in groups", "moe with capacity"])
def test_compiled(name: str) -> None:
    decoding.check_compiled(
        decoding.model(**MODELS[name] | {"scale.depth": 1, "attention": "none", "position": "none"})
    )


def test_in_training_too_a_token_is_alone() -> None:
    """Without a capacity: other tokens and other rows change nothing."""
    for made in (moe().train(), MixtureOfDepths(SHAPE, 1).train()):
        x = torch.randn(3, 16, 32)
        whole = made(x, flow())
        for row in range(3):
            for token in (0, 7, 15):
                alone = made(x[row : row + 1, token : token + 1], flow())
                torch.testing.assert_close(alone[0, 0], whole[row, token], rtol=0, atol=1e-5)


def test_a_full_expert_refuses_later_tokens_of_its_row() -> None:
    made = moe(experts=4, top_k=1, capacity_factor=1.0, renormalize=False).train()
    x = torch.randn(2, 16, 32)
    made(x, flow())
    made.after_step()
    chosen = (x @ made.router.weight.T).argmax(-1)
    free = moe(experts=4, top_k=1, renormalize=False)
    free.load_state_dict(made.state_dict())
    found, expected, refused = made(x, flow()), free(x, flow()).clone(), 0
    for row in range(2):
        room = [4] * 4  # 16 tokens, 4 experts
        for token, expert in enumerate(chosen[row].tolist()):
            room[expert] -= 1
            if room[expert] < 0:
                expected[row, token], refused = 0.0, refused + 1
    assert refused > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert made.measures()["dropped"] == pytest.approx(refused / 32)
    later = x.clone()
    later[:, 9:] = torch.randn(2, 7, 32)
    torch.testing.assert_close(made(later, flow())[:, :9], found[:, :9], rtol=0, atol=1e-6)
    torch.testing.assert_close(made.eval()(x, flow()), free(x, flow()), rtol=0, atol=1e-5)


def test_the_bias_follows_the_load_and_leaves_the_gates() -> None:
    made = moe(router="sigmoid", bias_rate=0.01, top_k=1, renormalize=False).train()
    with torch.no_grad():
        made.router.weight.mul_(0.2)  # where sigmoids are not saturated
    x = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(1)) + 0.5
    spread = []
    for _ in range(200):
        made(x, flow())
        made.after_step()
        spread.append(max(made.measures().values()))
    assert spread[-1] < 0.17 < 0.2 < spread[0]  # of 0.125 where even
    scores = (x @ made.router.weight.T).sigmoid()
    chosen = (scores + made.choice_bias_E).argmax(-1, keepdim=True)
    halved = made(x, flow()) / scores.gather(-1, chosen)
    with torch.no_grad():
        made.routed.down_proj.weight.mul_(2)
    torch.testing.assert_close(made(x, flow()) / scores.gather(-1, chosen), 2 * halved)
    assert {"choice_bias_E", "load_E"} <= set(made.state_dict())


def test_losses_are_asked_for_and_weighted() -> None:
    x = torch.randn(2, 16, 32)
    found: dict[str, list[Tensor]] = {"balance": [], "z_loss": []}
    moe(balance=0.5)(x, flow(found["balance"]))
    made = moe(balance=0.0, z_loss=0.5)
    made(x, flow(found["z_loss"]))
    expected = 0.5 * (x @ made.router.weight.T).logsumexp(-1).square().mean()
    torch.testing.assert_close(found["z_loss"], [expected])
    assert found["balance"][0] > 0.5 * 2  # top_k where even
    silent: list[Tensor] = []
    moe(balance=0.0)(x, flow(silent))
    assert silent == []


def test_sizes() -> None:
    made = moe(shared_experts=2)
    assert made.d_ff == 24 and made.shared is not None and made.shared.down_proj.weight.shape == (32, 48)
    assert made.idle_parameters == 6 * 3 * 24 * 32
    assert made.flops_per_token(16) == 2 * (8 * 32 + 3 * 32 * 24 * 4)
    assert MixtureOfDepths(SHAPE, 0).flops_per_token(16) == 6 * 32 * 88


def test_biases_of_experts_are_counted_and_not_decayed() -> None:
    made = MixtureOfExperts(Shape(2, 32, 4, 16, bias=True), 0, d_ff=24)
    assert made.idle_parameters == 6 * (3 * 24 * 32 + 2 * 24 + 32)
    biases = {name: role(f"blocks.0.mlp.{name}", p.ndim) for name, p in made.named_parameters() if "bias" in name}
    assert len(biases) == 3 and set(biases.values()) == {"vector"}


def test_experts_come_from_the_best_groups() -> None:
    """Group 1 has the best expert of all and nothing else; groups 0 and 3 have the best two together."""
    made = moe(groups=4, top_groups=2, top_k=3, renormalize=False)
    wanted = torch.tensor([[0.6, 0.5, 0.9, 0.0, 0.1, 0.2, 0.7, 0.6]])
    assert made._choose(wanted).sort().values.tolist() == [[0, 6, 7]]
    assert moe(top_k=3)._choose(wanted).sort().values.tolist() == [[0, 2, 6]]


def test_mod_lets_through_what_it_is_trained_for() -> None:
    made = MixtureOfDepths(SHAPE, 1, capacity=0.25, auxiliary=1.0).train()
    optimizer, x = torch.optim.Adam(made.parameters(), lr=0.01), torch.randn(8, 16, 32)
    for _ in range(150):
        losses: list[Tensor] = []
        made(x, flow(losses))
        made.after_step()
        losses[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert made.measures()["through"] == pytest.approx(0.25, abs=0.06)
    assert MixtureOfDepths(SHAPE, 0).measures() == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: moe(top_k=9), "mlp.top_k=9 is more than mlp.experts=8"),
        (lambda: moe(shared_gate=True), "mlp.shared_gate needs mlp.shared_experts=1"),
        (lambda: moe(groups=3), "mlp.groups=3 must divide mlp.experts=8"),
        (lambda: moe(groups=4, top_groups=5), "mlp.top_groups=5 of them"),
        (lambda: moe(groups=4, top_groups=1, top_k=3), "mlp.top_groups=1 of them hold mlp.top_k=3"),
        (lambda: moe(groups=8, top_groups=4), "hold less than the two"),
        (lambda: MixtureOfDepths(SHAPE, 0, capacity=1.5), "mlp.capacity=1.5 is a share"),
        (lambda: MixtureOfDepths(SHAPE, 0, pattern="X"), "mlp.pattern='X' must be letters R"),
        (lambda: MixtureOfDepths(Shape(1, 32, 4, 16, bias=True), 0), "mlp=mod has no biases"),
        (
            lambda: moe(capacity_factor=1.0).train()(
                torch.randn(1, 16, 32), flow()._replace(documents_BT=torch.zeros(1, 16, dtype=torch.long))
            ),
            "mlp.capacity_factor goes by row",
        ),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
