"""Recurrent mixers: decoding, documents, rows, precision, initial values. For references see tests/parity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import complete
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.base import Flow, Shape
from tests.helpers import tiny_config

NAMES = ("delta", "gated_deltanet", "gla", "kda", "linear", "mamba", "mamba2", "retention", "rwkv7")
WIDTH, HEADS, LENGTH = 32, 4, 45
SHAPE = Shape(2, WIDTH, HEADS, 16)
ROPE = registry.build("position", {"name": "rope"}, SHAPE)


def part(name: str, **options: Any) -> Any:
    """Random and loud, in chunks of 16 tokens, of which there are several."""
    made = registry.build("attention", {"name": name, "chunk": 16} | options, SHAPE, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.25 if parameter.ndim > 1 else 0.5 + 0.3 * drawn)
    return made


def flow(first: int, length: int, **more: Any) -> Flow:
    return Flow(ROPE, torch.arange(first, first + length), shared={}, **more)


def tokens(rows: int = 2) -> Tensor:
    return torch.randn(rows, LENGTH, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_decoding_is_the_whole_sequence(name: str) -> None:
    """In uneven pieces and token by token, beyond the training context; the state never grows."""
    mixer, x = part(name), tokens()
    whole = mixer(x, flow(0, LENGTH))
    scale = whole.std().clamp(min=1.0)
    assert whole.std() > 0.1
    for sizes in ([1] * LENGTH, [19, 1, 1, 7, 16, 1], [2, 40, 3]):
        cache, first, found, held = Cache(), 0, [], set()
        for size in sizes:
            found.append(mixer(x[:, first : first + size], flow(first, size, states=cache)))
            first += size
            held.add(cache.nbytes)
        torch.testing.assert_close(torch.cat(found, dim=1) / scale, whole / scale, rtol=1e-5, atol=1e-5)
        assert len(held) == 1 and held.pop() > 0


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_packed_documents_are_separate_ones(name: str) -> None:
    """Boundaries inside a chunk, at its edge, one after the other, and none for more than a chunk."""
    mixer, x = part(name), tokens(rows=1)
    sizes = [3, 1, 12, 20, 9]
    numbers = torch.repeat_interleave(torch.tensor([4, 0, 9, 2, 5]), torch.tensor(sizes))[None]
    packed = mixer(x, flow(0, LENGTH, documents_BT=numbers))
    # rotations go by distance: each document may begin where it stands
    alone, first = [], 0
    for size in sizes:
        alone.append(mixer(x[:, first : first + size], flow(first, size)))
        first += size
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)
    assert (packed - mixer(x, flow(0, LENGTH)))[:, 3:].abs().max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_chunks_change_nothing(name: str) -> None:
    mixer, x = part(name), tokens(rows=3)
    whole = mixer(x, flow(0, LENGTH))
    torch.testing.assert_close(mixer(x[1:2], flow(0, LENGTH)), whole[1:2], rtol=1e-5, atol=1e-5)
    for chunk in (32, 64, 128):
        torch.testing.assert_close(part(name, chunk=chunk)(x, flow(0, LENGTH)), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bf16(name: str) -> None:
    """Near fp32, with gradients that are finite, and a state that stays in fp32."""
    mixer, x = part(name), tokens()
    plain = mixer(x, flow(0, LENGTH))
    with torch.autocast("cpu", torch.bfloat16):
        lowered = mixer(x, flow(0, LENGTH))
        cache = Cache()
        mixer(x, flow(0, LENGTH, states=cache))
    assert lowered.dtype == torch.bfloat16
    difference = (lowered - plain).square().mean().sqrt() / plain.std()
    assert difference < 0.05
    lowered.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_samples_go_on_from_one_prompt(name: str) -> None:
    cfg = tiny_config(attention=name)
    model = GPT(cfg, 37)
    initialize(model, cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    told: dict[str, Any] = {"max_tokens": 24, "samples": 3, "seed": 1}
    cached = complete(model, [1, 2, 3, 4, 5], **told)
    assert cached == complete(model, [1, 2, 3, 4, 5], use_cache=False, **told)
    assert len(set(map(tuple, cached))) == 3


@pytest.mark.parametrize("name", NAMES)
def test_initial_values_follow_the_seed(name: str) -> None:
    """All drawn by `initialize`, none by a constructor; decays are between 0 and 1 and differ."""
    made = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        cfg = tiny_config(attention=name)
        made.append(GPT(cfg, 37))
        initialize(made[-1], cfg)
    first, second = (dict(model.named_parameters()) for model in made)
    assert all(torch.equal(first[key], second[key]) for key in first)
    mixer = made[0].blocks[0].attention
    if hasattr(mixer, "gates") and name != "delta":
        log_decay = mixer.gates(tokens()).log_decay
        assert log_decay is not None and log_decay.max() < 0 and log_decay.min() > -20
        assert log_decay.std() > 1e-3


def test_sizes_that_do_not_fit() -> None:
    for settings, said in (
        ({"name": "gated_deltanet", "key_heads": 3}, r"attention.key_heads=3 must divide scale.heads=4"),
        ({"name": "gla", "expand_k": 0.3}, r"attention.expand_k=0.3: 9.6 of scale.width=32 must be a multiple of"),
        ({"name": "mamba", "expand": 1.3}, r"attention.expand=1.3 of scale.width=32 must be a whole number"),
        ({"name": "mamba", "dt_max": 1e-4}, r"attention.dt_max=0.0001 must not be less than attention.dt_min=0.001"),
        ({"name": "mamba2", "head_dim": 24}, r"attention.head_dim=24 must divide the 64 inner channels"),
        ({"name": "mamba2", "groups": 3}, r"attention.groups=3 must divide the 8 heads"),
        ({"name": "retention", "expand_v": 0.03}, r"attention.expand_v=0.03: 0.96 of scale.width=32 must be"),
    ):
        with pytest.raises(ConfigError, match=said):
            GPT(tiny_config(attention=settings), 37)
    for name in ("linear", "delta", "mamba2", "rwkv7"):
        with pytest.raises(ConfigError, match="scale.heads=5"):
            GPT(tiny_config(attention=name, **{"scale.heads": 5}), 37)


@pytest.mark.parametrize("name", NAMES)
def test_an_init_that_scales_scores_changes_nothing_here(name: str) -> None:
    """But for kda, which is refused: its norm's eps is not small beside what large heads read."""
    ranks = {f"attention.{what}_rank": 8 for what in ("decay", "gate", "value")} if name == "rwkv7" else {}
    configs = [tiny_config(attention=name, init={"name": "mup", "base_head_dim": dim}, **ranks) for dim in (8, 4)]
    if name == "kda":
        with pytest.raises(ConfigError, match="attention=kda has none that it could: keep heads"):
            GPT(configs[1], 37)
        return
    found = []
    for cfg in configs:
        model = GPT(cfg, 37)
        initialize(model, cfg)
        found.append(model(torch.arange(16)[None]))
    assert torch.equal(*found)
