"""Generation with real models: the cache changes nothing but the time, and each option does what it says."""

from __future__ import annotations

import itertools
import typing
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.errors import ConfigError, LabError
from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import ENDED, Usage, complete, generate, next_logits
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.states import KeyValues
from tests.helpers import tiny_config

VOCAB = 37
CONTEXT = 16
OPTIONS: dict[str, dict[str, Any]] = {
    "gqa": {"attention.kv_heads": 2},
    "sliding": {"attention.window": 5, "attention.pattern": "SL"},
}
"""What makes an attention differ from mha in a model of 2 layers, 4 heads and context 16."""
REFUSED = {("mla", "cope"), ("sparse", "cope")}
"""Attentions whose queries are wider than what the position encoding reads; it says so."""
EMBEDDED = ("none", "learned", "sinusoidal")
"""Positions of the embedding: with rope, which turns queries and keys, one of each kind that a recurrence can see."""


def make(**overrides: Any) -> GPT:
    """A random model with weights large enough that a wrong key or position shows."""
    cfg = tiny_config(**overrides)
    model = GPT(cfg, VOCAB)
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model.eval()


def random_tokens(rows: int, length: int) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


def variants() -> list[Any]:
    """Every attention at every position encoding that it sees; at rope with every norm of queries and keys."""
    found = []
    for attention, position in itertools.product(registry.index()["attention"], registry.index()["position"]):
        recurrent = ".recurrent." in registry.get("attention", attention).module
        if (attention, position) in REFUSED or (recurrent and position not in (*EMBEDDED, "rope")):
            continue
        option = registry.get("attention", attention).options.get("qk_norm")
        for qk_norm in ("none",) if option is None else typing.get_args(option.annotation):
            if qk_norm != "none" and position != "rope":
                continue
            given = {"attention": attention, "position": position}
            given |= {} if option is None else {"attention.qk_norm": qk_norm}
            found.append(pytest.param(given | OPTIONS.get(attention, {}), id=f"{attention}-{position}-{qk_norm}"))
    return found


@torch.no_grad()
def in_chunks(model: GPT, tokens_BT: Tensor, sizes: list[int]) -> tuple[Tensor, Cache]:
    cache, logits, first = Cache(), [], 0
    for size in sizes:
        positions_T = torch.arange(first, first + size)
        logits.append(model(tokens_BT[:, first : first + size], positions_T=positions_T, states=cache))
        first += size
    return torch.cat(logits, dim=1), cache


@pytest.mark.parametrize("overrides", variants())
def test_cached_logits_are_the_uncached_ones(overrides: dict[str, Any]) -> None:
    """Step by step, in chunks, and at once; three rows; beyond the training context where the position allows it."""
    model = make(**overrides)
    if overrides["attention"] == "sparse":  # which keys are selected may turn on rounding, and all with it
        model = model.double()
    length = CONTEXT + 8 if model.position.extrapolates else CONTEXT
    tokens_BT = random_tokens(3, length)
    with torch.no_grad():
        whole = model(tokens_BT)
    assert whole.std() > 0.3  # else 1e-4 would prove little
    for sizes in ([1] * length, [7, 1, 1, 4, length - 13], [length - 1, 1], [3] + [1] * 4 + [length - 7]):
        cached, _ = in_chunks(model, tokens_BT, sizes)
        torch.testing.assert_close(cached, whole, rtol=0, atol=1e-4)


def each_once() -> list[Any]:
    """Of `variants`, every attention at rope, and every position with softmax and in a recurrence."""
    found = []
    for one in variants():
        attention, position, qk_norm = str(one.id).split("-")
        if qk_norm == "none" and (position == "rope" or attention in ("mha", "gated_deltanet")):
            found.append(one)
    return found


@pytest.mark.parametrize("overrides", each_once())
def test_generation_is_the_same_with_and_without_cache(overrides: dict[str, Any]) -> None:
    """From a prompt to beyond the training context."""
    model, prompt, length = make(**overrides), random_tokens(1, 6)[0].tolist(), CONTEXT + 4
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "top_k": 20, "top_p": 0.95, "seed": 3, "samples": 3}):
        with_cache, without = (
            complete(model, prompt, max_tokens=length, use_cache=use_cache, **options) for use_cache in (True, False)
        )
        assert with_cache == without
        assert all(len(ids) == length for ids in with_cache)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("attention", ["mha", "sliding"])
def test_a_position_that_ends_at_the_context_reads_the_last_tokens_anew(attention: str, use_cache: bool) -> None:
    model = make(attention=attention, position="learned", **OPTIONS.get(attention, {}))
    assert not model.position.extrapolates
    ids = random_tokens(1, CONTEXT + 9)[0].tolist()
    expected = list(ids)
    with torch.no_grad():
        for _ in range(6):
            expected.append(int(model(torch.tensor([expected[-CONTEXT:]]))[0, -1].argmax()))
    got = complete(model, ids, max_tokens=6, temperature=0.0, use_cache=use_cache)
    assert got == [expected[len(ids) :]]


def test_greedy_takes_the_likeliest_token_of_a_plain_forward_pass() -> None:
    model, ids = make(), [1, 2, 3]
    with torch.no_grad():
        for _ in range(10):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert complete(model, [1, 2, 3], max_tokens=10, temperature=0.0, seed=5, samples=2) == [ids[3:]] * 2
    assert complete(model, [1, 2, 3], max_tokens=10, temperature=1.0, top_k=1) == [ids[3:]]


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = make(), random_tokens(1, 50)[0].tolist()
    lengths: list[int] = []
    model.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    at_once = complete(model, prompt, max_tokens=4, temperature=0.0)
    assert lengths == [50, 1, 1, 1]
    monkeypatch.setattr("gpt_lab.infer.generate.PREFILL", 16)
    lengths.clear()
    assert complete(model, prompt, max_tokens=4, temperature=0.0) == at_once
    assert lengths == [16, 16, 16, 2, 1, 1, 1]


def test_each_sample_is_the_same_whatever_their_number_and_they_differ() -> None:
    model = make()
    eight = complete(model, [5], max_tokens=12, samples=8, seed=1)
    for samples in (1, 2, 5):
        assert complete(model, [5], max_tokens=12, samples=samples, seed=1) == eight[:samples]
    assert len({tuple(ids) for ids in eight}) == 8
    other = complete(model, [5], max_tokens=12, samples=8, seed=2)
    assert not {tuple(ids) for ids in eight} & {tuple(ids) for ids in other}


def test_the_stop_token_ends_each_sample_and_is_not_given_out() -> None:
    model, options = make(), {"max_tokens": 30, "seed": 4, "samples": 4}
    free = complete(model, [5], **options)
    stop = free[1][3]
    steps = list(generate(model, [5], stop=stop, **options))
    assert max(len(ids) for ids in free) == 30
    for i, ids in enumerate(free):
        end = ids.index(stop) if stop in ids else 30
        given = [step[i] for step in steps]
        assert given[:end] == ids[:end]
        assert set(given[end:]) <= {ENDED}
    assert complete(model, [5], stop=stop, **options) == [
        ids[: ids.index(stop)] if stop in ids else ids for ids in free
    ]


def test_generation_ends_when_all_samples_have() -> None:
    model = make()
    first = complete(model, [5], max_tokens=1, temperature=0.0)[0][0]
    assert list(generate(model, [5], max_tokens=9, temperature=0.0, stop=first, samples=3)) == []


def test_no_more_tokens_than_asked_for_and_no_useless_pass() -> None:
    model, passes = make(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    assert len(list(generate(model, [1], max_tokens=7))) == 7
    assert len(passes) == 7
    assert list(generate(model, [1], max_tokens=0)) == []


@pytest.mark.parametrize(("kv_heads", "share"), [(4, 1), (2, 2), (1, 4)])
def test_grouped_heads_shrink_the_cache_by_their_ratio(kv_heads: int, share: int) -> None:
    whole, grouped = Usage(), Usage()
    complete(make(attention="mha"), [1], max_tokens=20, usage=whole)
    complete(make(attention="gqa", **{"attention.kv_heads": kv_heads}), [1], max_tokens=20, usage=grouped)
    positions = 2 * 64 * 8  # two layers, 64 slots, int64
    assert (whole.cache_bytes - positions) == share * (grouped.cache_bytes - positions)
    assert whole.cache_bytes - positions == 2 * 2 * 64 * 32 * 4  # layers, keys and values, slots, width, fp32


def test_a_sliding_window_bounds_the_cache() -> None:
    model = make(attention="sliding", **{"attention.window": 5, "scale.depth": 4})
    windows = [block.attention.window for block in model.blocks]
    _, cache = in_chunks(model, random_tokens(1, 200), [1] * 200)
    assert 5 in windows
    for layer, window in enumerate(windows):
        slots = 256 if window is None else window
        assert cache.slot(layer, "attention", KeyValues).nbytes == slots * (2 * 32 * 4 + 8)


def test_the_model_is_left_as_it_was() -> None:
    model = make(**{"model.dropout": 0.3}).train()
    for _ in generate(model, [1], max_tokens=2):
        assert not model.training and torch.is_grad_enabled()
    assert model.training
    steps = generate(model, [1], max_tokens=5)
    next(steps)
    steps.close()
    assert model.training
    loss = model(torch.tensor([[1, 2, 3]])).sum()  # nothing made while generating is barred from training
    loss.backward()


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = make()
    with torch.no_grad():
        model.embed.weight[0, 0] = float("nan")
    with pytest.raises(LabError, match="not finite"):
        complete(model, [0], max_tokens=1)


@pytest.mark.parametrize(
    ("prompt", "options", "line"),
    [
        ([], {}, "the prompt is empty"),
        ([VOCAB], {}, "outside the model's vocabulary of 37"),
        ([-1], {}, "outside the model's vocabulary of 37"),
        ([1], {"samples": 0}, "samples must be"),
        ([1], {"max_tokens": -1}, "max_tokens must be"),
        ([1], {"top_p": 2.0}, "top_p must be"),
    ],
)
def test_wrong_input_is_refused_before_the_first_step(prompt: list[int], options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        generate(make(), prompt, **{"max_tokens": 3, **options})


def test_next_logits_with_a_cache_reads_only_what_is_new() -> None:
    model, tokens_BT = make(), random_tokens(2, 12)
    cache = Cache()
    for length in (5, 6, 12):
        got = next_logits(model, tokens_BT[:, :length], cache)
        with torch.no_grad():
            expected = model(tokens_BT[:, :length])[:, -1]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
        assert cache.seen == length


@pytest.mark.parametrize("ignoring", [[0], [1], [0, 1]])
def test_an_attention_that_ignores_the_cache_is_still_right(ignoring: list[int]) -> None:
    """As one of another package may: with its keys nowhere kept, all tokens have to be read at each step."""
    model, usage = make(), Usage()
    options: dict[str, Any] = {"max_tokens": 12, "samples": 3, "seed": 1}
    expected = complete(model, [1, 2, 3], use_cache=False, **options)
    for layer in ignoring:
        attention = model.blocks[layer].attention
        plain = attention.forward
        attention.forward = lambda x, flow, plain=plain: plain(x, flow._replace(states=None))
    assert complete(model, [1, 2, 3], usage=usage, **options) == expected
    assert usage.cache_bytes == 0
