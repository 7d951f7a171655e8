"""Position encodings against the references, and what each promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as apply_neox
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as apply_llama
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.parts.base import Position, Shape
from gpt_lab.parts.position.alibi import Alibi, alibi_slopes
from gpt_lab.parts.position.learned import Learned, NoPosition
from gpt_lab.parts.position.rope import Rope
from gpt_lab.parts.position.sinusoidal import Sinusoidal

SHAPE = Shape(depth=2, width=32, heads=4, context=16)
POSITIONS = {"from 0": torch.arange(9), "offset": torch.arange(40, 49), "any": torch.tensor([7, 0, 100, 3])}
NAMES = sorted(registry.index()["position"])


def heads(length: int, count: int = 4, head_dim: int = 8, seed: int = 0) -> Tensor:
    """Strided like a part of a fused projection."""
    drawn = torch.randn(2, length, count + 1, head_dim, generator=torch.Generator().manual_seed(seed))
    return drawn[:, :, :count].transpose(1, 2)


def make(name: str, shape: Shape = SHAPE) -> Position:
    position: Position = registry.build("position", {"name": name}, shape)
    return position


class TestRope:
    @pytest.mark.parametrize("positions_T", POSITIONS.values(), ids=POSITIONS)
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({}, {"rope_type": "default", "rope_theta": 10000.0}),
            ({"base": 300.0}, {"rope_type": "default", "rope_theta": 300.0}),
            ({"scaling": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
        ],
    )
    def test_llama(self, ours: dict[str, Any], theirs: dict[str, Any], positions_T: Tensor) -> None:
        config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=16, rope_parameters=theirs)
        q, k = heads(len(positions_T)).requires_grad_(), heads(len(positions_T), 2, seed=1).requires_grad_()
        expected = apply_llama(q, k, *LlamaRotaryEmbedding(config)(q, positions_T[None]))
        found = Rope(SHAPE, **ours).rotate(q, k, positions_T)
        weight = torch.randn(8, generator=torch.Generator().manual_seed(2))
        for mine, reference, leaf in zip(found, expected, (q, k), strict=True):
            torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)
            grads = [torch.autograd.grad((y * weight).sin().sum(), leaf)[0] for y in (mine, reference)]
            torch.testing.assert_close(*grads, rtol=0, atol=1e-5)

    def test_ntk(self) -> None:
        """transformers' dynamic variant at three times its context has the base of factor 3."""
        theirs = {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 10000.0}
        config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=16, rope_parameters=theirs)
        positions_T = torch.arange(48)
        q, k = heads(48), heads(48, seed=1)
        expected = apply_llama(q, k, *LlamaRotaryEmbedding(config)(q, positions_T[None]))
        found = Rope(SHAPE, scaling="ntk", factor=3.0).rotate(q, k, positions_T)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (found[0] - Rope(SHAPE).rotate(q, k, positions_T)[0]).abs().max() > 0.1

    @pytest.mark.parametrize("partial", [0.25, 0.5, 0.75])
    def test_partial_as_in_gpt_neox(self, partial: float) -> None:
        parameters = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": partial}
        config = GPTNeoXConfig(hidden_size=32, num_attention_heads=4, rope_parameters=parameters)
        positions_T = torch.arange(9)
        q, k = heads(9), heads(9, seed=1)
        expected = apply_neox(q, k, *GPTNeoXRotaryEmbedding(config)(q, positions_T[None]))
        torch.testing.assert_close(Rope(SHAPE, partial=partial).rotate(q, k, positions_T), expected, rtol=0, atol=1e-5)

    def test_scores_depend_on_distance_alone(self) -> None:
        rope, q, k = Rope(SHAPE), heads(9), heads(9, seed=1)
        near, far = (torch.matmul(a, b.mT) for a, b in (rope.rotate(q, k, POSITIONS[p]) for p in ("from 0", "offset")))
        torch.testing.assert_close(near, far, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_keeps_the_type(self, dtype: torch.dtype) -> None:
        rope, q, k = Rope(SHAPE), heads(9), heads(9, seed=1)
        low = rope.rotate(q.to(dtype), k.to(dtype), POSITIONS["offset"])
        assert low[0].dtype == low[1].dtype == dtype
        torch.testing.assert_close(low[0].float(), rope.rotate(q, k, POSITIONS["offset"])[0], rtol=0, atol=5e-2)

    @pytest.mark.compiles
    @pytest.mark.parametrize("positions_T", [torch.arange(9), torch.arange(3, 12), torch.arange(40)])
    def test_compiled(self, positions_T: Tensor) -> None:
        torch.compiler.reset()
        rope, q, k = Rope(SHAPE), heads(len(positions_T)), heads(len(positions_T), seed=1)
        compiled = torch.compile(rope.rotate, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(q, k, positions_T), rope.rotate(q, k, positions_T))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"partial": 0.0}, "rotates 0 dimensions.*position=none"),
            ({"partial": 0.375}, "rotates 3 dimensions"),
            ({"factor": 2.0}, "scaling=none takes no position.factor"),
            ({"scaling": "ntk"}, "scaling=ntk needs position.factor"),
            ({"scaling": "linear"}, "scaling=linear needs position.factor"),
            ({"pattern": "RX"}, "pattern='RX' must be letters R"),
            ({"pattern": ""}, "must be letters R"),
            ({"pattern": "LR"}, "has layers L, which need position.local_base"),
            ({"local_base": 10.0}, "has no layer L: remove position.local_base"),
        ],
    )
    def test_refusals(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Rope(SHAPE, **options)

    def test_two_dimensions_have_one_rate(self) -> None:
        shape, q, k = Shape(1, 8, 4, 16), heads(9, head_dim=2), heads(9, head_dim=2, seed=1)
        plain, ntk = Rope(shape), Rope(shape, scaling="ntk", factor=8.0)
        torch.testing.assert_close(plain.rotate(q, k, torch.arange(9)), ntk.rotate(q, k, torch.arange(9)))


class TestAlibi:
    @pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8, 12, 15, 16, 20])
    @pytest.mark.parametrize("reference", ["bloom", "mpt"])
    def test_reference(self, count: int, reference: str) -> None:
        """Theirs is a function of the key alone, which softmax cannot tell from ours."""
        length = 13
        if reference == "bloom":
            theirs = build_alibi_tensor(torch.ones(1, length), count, torch.float32)
        else:
            theirs = build_mpt_alibi_tensor(count, length)
        alibi = Alibi(Shape(1, 8 * count, count, length))
        mine = alibi.bias(torch.arange(length), torch.arange(length))
        assert mine.shape == (count, length, length)
        scores = torch.randn(count, length, length)
        hidden = torch.ones(length, length).triu(1).bool()
        weights = [(scores + bias).masked_fill(hidden, -math.inf).softmax(-1) for bias in (mine, theirs)]
        torch.testing.assert_close(*weights, rtol=0, atol=1e-6)

    def test_slopes_of_the_paper(self) -> None:
        assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
        assert alibi_slopes(12)[8:] == [2.0 ** (-0.5 - i) for i in range(4)]

    def test_bias_is_minus_slope_times_distance(self) -> None:
        bias = Alibi(SHAPE).bias(torch.tensor([20]), torch.tensor([20, 17, 0]))
        assert bias[:, 0].tolist() == [[-s * d for d in (0, 3, 20)] for s in alibi_slopes(4)]


class TestSinusoidal:
    @pytest.mark.parametrize("positions_T", POSITIONS.values(), ids=POSITIONS)
    def test_formula(self, positions_T: Tensor) -> None:
        table = Sinusoidal(SHAPE, base=100.0).table(positions_T)
        for row, position in zip(table.tolist(), positions_T.tolist(), strict=True):
            for i, value in enumerate(row):
                angle = position / 100.0 ** ((i - i % 2) / 32)
                assert value == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=2e-5)

    @pytest.mark.parametrize("scaled", [True, False])
    def test_embeddings_are_scaled_first(self, scaled: bool) -> None:
        x, part = torch.randn(2, 9, 32), Sinusoidal(SHAPE, scaled=scaled)
        expected = x * (math.sqrt(32) if scaled else 1.0) + part.table(torch.arange(9))
        torch.testing.assert_close(part.embed(x, torch.arange(9)), expected)

    def test_odd_width(self) -> None:
        with pytest.raises(ConfigError, match="scale.width=9 must be even"):
            Sinusoidal(Shape(1, 9, 1, 4))


class TestLearned:
    def test_adds_its_rows(self) -> None:
        learned, x = Learned(SHAPE), torch.randn(2, 4, 32)
        torch.nn.init.normal_(learned.table)
        positions_T = torch.tensor([3, 0, 15, 3])
        torch.testing.assert_close(learned.embed(x, positions_T), x + learned.table[positions_T])
        learned.embed(x, positions_T).sum().backward()
        assert learned.table.grad is not None
        assert learned.table.grad.sum(1).tolist() == [{3: 128.0, 0: 64.0, 15: 64.0}.get(i, 0.0) for i in range(16)]

    def test_nothing_beyond_the_context(self) -> None:
        assert not Learned.extrapolates
        with pytest.raises(IndexError):
            Learned(SHAPE).embed(torch.randn(1, 1, 32), torch.tensor([16]))


@pytest.mark.parametrize("name", NAMES)
class TestAll:
    def test_one_hook_acts(self, name: str) -> None:
        """Each encoding acts in one place, or in none; the others return what they were given."""
        position, x, q, k = make(name).at(0), torch.randn(2, 9, 32), heads(9), heads(9, seed=1)
        for parameter in position.parameters():
            torch.nn.init.normal_(parameter)
        seen = torch.ones(9, 9).tril().bool()
        rotated = position.rotate(q, k, torch.arange(9))
        acting = {
            "embed": position.embed(x, torch.arange(9)) is not x,
            "rotate": rotated[0] is not q or rotated[1] is not k,
            "bias": position.bias(torch.arange(9), torch.arange(9)) is not None,
            "content_bias": position.content_bias(q, k, 1.0, seen) is not None,
        }
        where = {
            "rotate": ("rope", "yarn", "xpos"),
            "bias": ("alibi", "fire", "kerple", "t5"),
            "embed": ("learned", "sinusoidal"),
            "content_bias": ("cope",),
        }
        assert [hook for hook, acts in acting.items() if acts] == [hook for hook in where if name in where[hook]]
        assert (position.bias_kind in ("alibi", "tensor")) == acting["bias"]
        assert (position.bias_kind == "content") == acting["content_bias"]
        assert (position.bias_kind == "alibi") == (position.slopes_H is not None)
        assert make(name).bias_kind == position.bias_kind

    def test_tables_survive_moves(self, name: str) -> None:
        """Built on the meta device, emptied, rounded: constants come back exact, and none is in the state dict."""
        fresh = make(name)
        with torch.device("meta"):
            moved = make(name)
        moved = moved.to_empty(device="cpu")
        rounded = make(name).to(torch.bfloat16)
        buffers = dict(fresh.named_buffers())
        for other in (moved, rounded):
            assert dict(other.named_buffers()).keys() == buffers.keys()
            for key, value in other.named_buffers():
                torch.testing.assert_close(value, buffers[key], rtol=0, atol=0)
        assert set(fresh.state_dict()) == {key for key, _ in fresh.named_parameters()}

    def test_evaluation_first_training_after(self, name: str) -> None:
        """Tables kept from inference mode must not break autograd."""
        position, positions_T = make(name), torch.arange(9)
        with torch.inference_mode():
            position.embed(torch.randn(2, 9, 32), positions_T)
            position.rotate(heads(9), heads(9), positions_T)
        x, q = torch.randn(2, 9, 32, requires_grad=True), heads(9).requires_grad_()
        (position.embed(x, positions_T).sum() + position.rotate(q, heads(9), positions_T)[0].sum()).backward()
        assert x.grad is not None and q.grad is not None


def test_none_has_no_state() -> None:
    assert not list(NoPosition(SHAPE).parameters()) and NoPosition.extrapolates
