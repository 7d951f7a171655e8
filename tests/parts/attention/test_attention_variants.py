"""What holds for every attention beyond the plain ones: decoding, documents, rows, types, and each its own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gpt_lab import kernels, registry
from gpt_lab.errors import ConfigError
from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import complete
from gpt_lab.kernels.fused import FlashAttention, Flex
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.attention.sparse import divergence
from gpt_lab.parts.base import Flow, Position, Shape
from tests.helpers import tiny_config
from tests.parts import decoding

VOCAB, CONTEXT = 61, 16
VARIANTS: dict[str, Any] = {
    "gated": "gated",
    "gated by heads": {"name": "gated", "gate": "headwise", "kv_heads": 2},
    "sinks": {"name": "sinks", "kv_heads": 2},
    "value_residual": {"name": "value_residual", "kv_heads": 2},
    "none": "none",
    "differential": {"name": "differential", "kv_heads": 2},
    "mla": "mla",
    "mla with a query latent": {"name": "mla", "q_rank": 12, "kv_rank": 8, "v_dim": 8, "rope_dim": 2},
    "sparse": {"name": "sparse", "top_k": 3},
    "sparse with a query latent": {"name": "sparse", "q_rank": 12, "index_dim": 6, "index_heads": 3},
    "hybrid": {
        "name": "hybrid",
        "pattern": "MG",
        "letters": {"M": {"name": "mla"}, "G": {"name": "gqa", "kv_heads": 1}},
    },
}


def made(name: str, **settings: Any) -> GPT:
    """Two layers whose weights are so large that errors show."""
    cfg = tiny_config(attention=VARIANTS[name], **settings)
    model = GPT(cfg, VOCAB)
    initialize(model, cfg)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "attention." in key:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else parameter + 0.2 * noise)
    return model


def text(length: int, rows: int = 2) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VARIANTS)
def test_pieces_are_the_whole(name: str) -> None:
    """Prefill in uneven pieces and single tokens, to beyond the training context; with either kernel."""
    model, tokens = made(name).eval(), text(29)
    with torch.no_grad():
        whole = model(tokens)
        for kernel in ("math", "sdpa"):
            for part in model.modules():
                if hasattr(part, "kernel"):
                    part.kernel = kernel
            cache, found, at = Cache(), [], 0
            for new in (5, 1, 1, 9, 1, 12):
                found.append(model(tokens[:, at : at + new], positions_T=torch.arange(at, at + new), states=cache))
                at += new
                assert cache.read(model, new)
            torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_and_documents_are_apart(name: str) -> None:
    model, tokens = made(name).eval(), text(15)
    documents = torch.tensor([[0] * 6 + [1] * 9, [0] * 2 + [1] * 12 + [2]])
    with torch.no_grad():
        whole = model(tokens)
        torch.testing.assert_close(model(tokens[1:]), whole[1:], rtol=1e-4, atol=1e-5)
        packed = model(tokens, documents_BT=documents)
        for row, cuts in enumerate(((0, 6, 15), (0, 2, 14, 15))):
            alone = [model(tokens[row : row + 1, a:b]) for a, b in itertools.pairwise(cuts)]
            torch.testing.assert_close(packed[row : row + 1], torch.cat(alone, 1), rtol=1e-4, atol=1e-5)
        if name != "none":
            assert (packed - whole).abs().max() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_samples_go_on_from_one_prompt(name: str) -> None:
    model, prompt = made(name), text(9, rows=1)[0].tolist()
    cached = complete(model, prompt, max_tokens=12, temperature=1.0, samples=3)
    assert cached == complete(model, prompt, max_tokens=12, temperature=1.0, samples=3, use_cache=False)
    assert cached[0] != cached[1] != cached[2]


@pytest.mark.parametrize("name", VARIANTS)
def test_bf16(name: str) -> None:
    model, losses = made(name), []
    exact = model(text(CONTEXT))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(text(CONTEXT), losses=losses)
    # a rounded index score selects another key
    assert (low.float() - exact).norm() < (0.5 if name.startswith("sparse") else 0.05) * exact.norm()
    (low.float().square().mean() + sum(losses)).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert len(grads) >= len(list(model.parameters())) - 2 * (name == "none")


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("name", ["gated by heads", "mla with a query latent", "sparse with a query latent"])
def test_compiled_is_eager(name: str) -> None:
    """One graph, the same loss and the same gradients."""
    model, tokens = made(name), text(CONTEXT)

    def loss(tokens: Tensor) -> Tensor:
        extra: list[Tensor] = []
        found: Tensor = model(tokens, losses=extra).square().mean()
        return found + sum(extra)

    def gradients(function: Any) -> list[Tensor]:
        model.zero_grad()
        function(tokens).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]

    torch._dynamo.reset()
    compiled = gradients(torch.compile(loss, fullgraph=True, dynamic=False, backend=decoding.TRACED))
    for ours, expected in zip(compiled, gradients(loss), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["value_residual", "sparse"])
def test_recomputing_changes_nothing(name: str) -> None:
    """What a layer leaves for later ones or for the loss survives checkpointing."""
    found = []
    for again in (False, True):
        model, losses = made(name, **{"model.checkpointing": again}).train(), []
        (model(text(CONTEXT), losses=losses).square().mean() + sum(losses)).backward()
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
@pytest.mark.parametrize("name", ["sinks", "differential", "mla", "sparse"])
def test_kernels_agree(name: str, position: str) -> None:
    documents, found = torch.arange(CONTEXT).div(5, rounding_mode="floor").expand(2, -1), []
    for kernel in ("math", "sdpa"):
        model = made(name, position=position, kernel=kernel)
        model.choose_kernels("cpu", "fp32", documents=True)
        model(text(CONTEXT), documents_BT=documents).square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_kernels_that_refuse() -> None:
    plain = kernels.KernelRequest("cuda", "bf16", 4, 4, 16, 64, capability=(9, 0))
    assert FlashAttention.refusal(plain) is None and Flex.refusal(plain) is None
    for kernel in (FlashAttention, Flex):
        assert "sinks" in str(kernel.refusal(replace(plain, sinks=True)))
    assert "values must be as wide as keys, 16, not 4" in str(FlashAttention.refusal(replace(plain, value_dim=4)))


class TestNone:
    def test_a_token_reads_no_other(self) -> None:
        model, tokens = made("none").eval(), text(9)
        changed = tokens.clone()
        changed[:, 4] = (changed[:, 4] + 1) % VOCAB
        moved = (model(changed) - model(tokens)).abs().amax((0, 2)) > 0
        assert moved.tolist() == [place == 4 for place in range(9)]

    def test_nothing_is_kept_or_learnt(self) -> None:
        model, cache = made("none"), Cache()
        model(text(9), states=cache)
        assert cache.read(model, 9) and cache.nbytes == 0
        assert not list(model.blocks[0].attention.parameters())


class TestLatent:
    def test_decoding_keeps_the_latent_and_one_key(self) -> None:
        cache, model = Cache(), made("mla")
        model(text(64), positions_T=torch.arange(64), states=cache)
        assert cache.nbytes == 2 * 64 * (2 * (32 + 4) * 4 + 8)  # layers, tokens, rows, numbers, their positions

    def test_flops_are_those_of_all_tokens_at_once(self) -> None:
        for name in ("mla", "mla with a query latent"):
            part = made(name).blocks[0].attention
            shape = Shape(2, 32, 4, CONTEXT)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                part(torch.randn(1, CONTEXT, 32), Flow(Position(shape), torch.arange(CONTEXT)))
            hidden = CONTEXT * (CONTEXT - 1) // 2 * 2 * 4 * (part.head_dim + part.value_dim)
            assert counter.get_total_flops() - hidden == CONTEXT * part.flops_per_token(CONTEXT)

    def test_few_new_tokens_are_absorbed(self) -> None:
        part = made("mla").blocks[0].attention
        here = torch.arange(4)
        assert part.absorbs(here, 1) and part.absorbs(here, 10) and not part.absorbs(here, 11)
        assert not part.absorbs(None, 1)


class TestSparse:
    def part(self, **options: Any) -> Any:
        made: Any = registry.build("attention", {"name": "sparse", **options}, Shape(2, 32, 4, CONTEXT), 0)
        return made

    def test_the_best_of_what_is_seen(self) -> None:
        score = torch.tensor([[[0.0, 9, 9, 9], [1, 2, 9, 9], [0, 0, 0, 9], [3, 1, 2, 0]]])
        seen = torch.ones(4, 4, dtype=torch.bool).tril()[None]
        chosen = self.part(top_k=2).select(score, seen)
        assert chosen.int().tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]]

    def test_all_keys_are_mla(self) -> None:
        sparse, x = self.part(top_k=CONTEXT), torch.randn(2, CONTEXT, 32)
        mla = registry.build("attention", {"name": "mla"}, Shape(2, 32, 4, CONTEXT), 0)
        mla.load_state_dict({key: t for key, t in sparse.state_dict().items() if "index" not in key})
        flow = Flow(Position(Shape(2, 32, 4, CONTEXT)), torch.arange(CONTEXT))
        torch.testing.assert_close(sparse(x, flow), mla(x, flow))

    def test_divergence_is_that_of_torch(self) -> None:
        torch.manual_seed(0)
        seen = torch.ones(5, 5, dtype=torch.bool).tril()[None]
        weights = torch.randn(2, 5, 5).masked_fill(~seen, -torch.inf).softmax(-1)
        score = torch.randn(2, 5, 5, requires_grad=True)
        own = score.masked_fill(~seen, -1e9).log_softmax(-1)
        expected = torch.nn.functional.kl_div(own, weights, reduction="none").sum(-1).mean()
        found = divergence(weights, score, seen)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(loss, score)[0] for loss in (found, expected)))

    @pytest.mark.parametrize("target", ["visible", "selected"])
    def test_the_loss_teaches_the_indexer_and_nothing_else(self, target: str) -> None:
        """Its scores come to rank keys as attention weighs them."""
        torch.manual_seed(3)
        part, x = self.part(top_k=8, index_target=target), torch.randn(4, CONTEXT, 32, requires_grad=True)
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
        flow = Flow(Position(Shape(2, 32, 4, CONTEXT)), torch.arange(CONTEXT))
        index = [parameter for key, parameter in part.named_parameters() if key.startswith("index")]
        optimizer, seen = torch.optim.Adam(index, lr=0.02), []
        for _ in range(60):
            losses: list[Tensor] = []
            part(x, flow._replace(losses=losses))
            part.zero_grad()
            losses[0].backward()
            assert x.grad is not None and not x.grad.any()
            assert {key for key, p in part.named_parameters() if p.grad is not None and p.grad.any()} <= {
                key for key, _ in part.named_parameters() if key.startswith("index")
            }
            optimizer.step()
            seen.append(losses[0].item())
        assert seen[-1] < 0.7 * seen[0]


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ("mla", {"rope_dim": 3}, "attention.rope_dim=3 must be even"),
    ("sparse", {"top_k": 17}, "attention.top_k=17 is more than scale.context=16.*attention=mla"),
    ("sparse", {"index_dim": 2}, "attention.index_dim=2 is less than attention.rope_dim=4"),
    ("differential", {"kv_heads": 1}, "pairs its heads: 1 key/value heads is odd; choose an even attention.kv_heads"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_refusals(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.build("attention", {"name": name} | options, Shape(2, 32, 4, CONTEXT), 0)


def test_values_of_a_first_layer_that_has_none() -> None:
    letters = {"V": {"name": "value_residual"}, "G": {"name": "gqa"}}
    model = GPT(tiny_config(attention={"name": "hybrid", "pattern": "GV", "letters": letters}), VOCAB)
    with pytest.raises(ConfigError, match="mixes in the values of layer 0, which has none of its shape"):
        model(text(4))
