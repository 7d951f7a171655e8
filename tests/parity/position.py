"""Position encodings of queries and keys, and those that add to scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3TextConfig, LlamaConfig, SmolLM3Config, SmolLM3ForCausalLM, T5Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention

from gpt_lab import registry
from gpt_lab.interchange import counterpart, links
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.base import Position, Shape
from tests.helpers import tiny_config
from tests.parity.case import Comparison, gradients, parity

SHAPE = Shape(depth=4, width=128, heads=4, context=16)
LENGTH = 24
POSITIONS = torch.arange(LENGTH)
Rotated = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def made(name: str, **options: Any) -> Position:
    position: Position = registry.build("position", {"name": name, **options}, SHAPE)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in position.parameters():
            parameter.add_(0.7 * torch.rand(parameter.shape, generator=generator))
    return position


def heads(seed: int) -> Tensor:
    drawn = torch.randn(2, 4, LENGTH, 32, generator=torch.Generator().manual_seed(seed))
    return drawn.requires_grad_()


def rotations(ours: Rotated, theirs: Rotated) -> Comparison:
    q, k = heads(0), heads(1)
    pairs = list(zip(ours(q, k), theirs(q, k), strict=True))
    grads = [
        (gradients(a, [leaf])[0], gradients(b.float(), [leaf])[0]) for (a, b), leaf in zip(pairs, (q, k), strict=True)
    ]
    return Comparison(pairs, grads)


def _yarn(ours: dict[str, Any], theirs: dict[str, Any]) -> Comparison:
    parameters = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=4, max_position_embeddings=64, rope_parameters=parameters | theirs
    )
    reference = LlamaRotaryEmbedding(config)
    position = made("yarn", **ours)
    return rotations(
        lambda q, k: position.rotate(q, k, POSITIONS),
        lambda q, k: apply_rotary_pos_emb(q, k, *reference(q, POSITIONS[None])),
    )


@parity("position", "yarn", "transformers._compute_yarn_parameters")
def yarn() -> Comparison:
    return _yarn({}, {})


@parity("position", "yarn", "transformers._compute_yarn_parameters", "factor=8 original=4000 betas attention_factor")
def yarn_options() -> Comparison:
    theirs = {"factor": 8.0, "original_max_position_embeddings": 4000, "beta_fast": 20.0, "beta_slow": 2.0}
    ours = {"factor": 8.0, "original": 4000, "beta_fast": 20.0, "beta_slow": 2.0, "base": 5000.0}
    return _yarn(ours | {"attention_factor": 1.3}, theirs | {"attention_factor": 1.3, "rope_theta": 5000.0})


@parity("position", "rope", "transformers.SmolLM3ForCausalLM", "pattern=RRRN")
def smollm3() -> Comparison:
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = SmolLM3Config(
        **sizes,
        vocab_size=61,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=None,
        attn_implementation="eager",
        tie_word_embeddings=True,
    )
    theirs = SmolLM3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=torch.Generator().manual_seed(4))
    settings = {"position.pattern": "RRRN", "scale.depth": 4, "mlp.d_ff": 40, "attention.kv_heads": 2}
    ours = GPT(tiny_config(attention="gqa", **settings, **{"norm.eps": 1e-6}), 61).eval()
    ours.load_state_dict(links.back(counterpart.FAMILIES["smollm3"].links(ours), theirs.state_dict()))
    tokens = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))
    pair = ours(tokens), theirs(tokens).logits
    grads = gradients(pair[0], [ours.embed.weight])[0], gradients(pair[1], [theirs.model.embed_tokens.weight])[0]
    return Comparison([pair], [grads])


@parity("position", "rope", "transformers.Gemma3RotaryEmbedding", "pattern=LR local_base")
def gemma3() -> Comparison:
    config = Gemma3TextConfig(
        hidden_size=128,
        num_attention_heads=4,
        head_dim=32,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        },
    )
    reference, position = Gemma3RotaryEmbedding(config), made("rope", base=1e6, local_base=500.0, pattern="LR")
    found = [
        rotations(
            lambda q, k, layer=layer: position.at(layer).rotate(q, k, POSITIONS),  # type: ignore[misc]
            lambda q, k, kind=kind: apply_rotary_pos_emb(q, k, *reference(q, POSITIONS[None], kind)),  # type: ignore[misc]
        )
        for layer, kind in enumerate(config.layer_types)
    ]
    return Comparison(*([pair for one in found for pair in getattr(one, name)] for name in ("outputs", "gradients")))


@parity("position", "xpos", "formula.2212.10554")
def xpos() -> Comparison:
    """Pairs as complex numbers: q zeta^(n / 512) e^(i n theta), k zeta^(-n / 512) e^(i n theta), n after the centre."""
    position = made("xpos")

    def exact(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for x, sign in ((q, 1), (k, -1)):
            z = torch.complex(x[..., :16].double(), x[..., 16:].double())
            rows = []
            for n in range(LENGTH):
                turns = [
                    complex(math.cos(n * 1e4 ** (-i / 16)), math.sin(n * 1e4 ** (-i / 16)))
                    * ((i / 16 + 0.4) / 1.4) ** (sign * (n - 8) / 512)
                    for i in range(16)
                ]
                rows.append(z[:, :, n] * torch.tensor(turns, dtype=torch.complex128))
            turned = torch.stack(rows, 2)
            found.append(torch.cat((turned.real, turned.imag), -1))
        return found[0], found[1]

    return rotations(lambda q, k: position.rotate(q, k, POSITIONS), exact)


def biases(position: Position, exact: Callable[[Position, int, int, int], Tensor]) -> Comparison:
    """The bias of the last layer, held against a formula of (head, query, key) in fp64 on and below the diagonal."""
    layer = position.at(3)
    below = torch.ones(LENGTH, LENGTH).tril().bool()
    mine = layer.bias(POSITIONS, POSITIONS)
    assert mine is not None and mine.shape == (4, LENGTH, LENGTH)
    leaves = list(layer.parameters())
    mine = torch.where(below, mine, 0.0)
    found = gradients(mine, leaves)
    layer.double()
    hidden = torch.zeros((), dtype=torch.float64)
    rows = [
        torch.stack([exact(layer, h, i, j) if j <= i else hidden for j in range(LENGTH)])
        for h in range(4)
        for i in range(LENGTH)
    ]
    theirs = torch.stack(rows).view(4, LENGTH, LENGTH)
    return Comparison(
        [(mine, theirs)], list(zip(found, gradients(theirs.float(), list(layer.parameters())), strict=True))
    )


@parity("position", "t5", "transformers.T5Attention")
def t5() -> Comparison:
    config = T5Config(d_model=32, num_heads=4, d_kv=8, is_decoder=True)
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0, is_causal=True)
    position, places = made("t5"), torch.arange(300)  # beyond max_distance
    layer: Any = position.at(2)
    with torch.no_grad():
        theirs.relative_attention_bias.weight.copy_(layer.table)
    pair = layer.bias(places, places), theirs.compute_bias(300, 300)[0]
    grads = gradients(pair[0], [layer.table])[0], gradients(pair[1], [theirs.relative_attention_bias.weight])[0]
    return Comparison([pair], [grads])


@parity("position", "kerple", "formula.2205.09921", "kernel=log")
def kerple_log() -> Comparison:
    return biases(made("kerple"), lambda layer, h, i, j: -layer.r1_H[h] * torch.log(1 + layer.r2_H[h] * (i - j)))  # type: ignore[operator,index]


@parity("position", "kerple", "formula.2205.09921", "kernel=power")
def kerple_power() -> Comparison:
    def exact(layer: Any, h: int, i: int, j: int) -> Tensor:
        power: Tensor = -layer.r1_H[h] * torch.exp(layer.r2_H[h] * math.log(i - j)) if i > j else 0 * layer.r1_H[h]
        return power

    return biases(made("kerple", kernel="power"), exact)


@parity("position", "fire", "formula.2310.04418")
def fire() -> Comparison:
    def exact(layer: Any, h: int, i: int, j: int) -> Tensor:
        threshold = abs(layer.stretch * 16)
        share = torch.log(abs(layer.c * (i - j)) + 1)
        share = share / (torch.log(abs(layer.c * (max(i, threshold))) + 1) + 1e-6)
        hidden = torch.relu(layer.up.weight[:, 0] * share + layer.up.bias)
        found: Tensor = layer.down.weight[h] @ hidden + layer.down.bias[h]
        return found

    return biases(made("fire"), exact)


@parity("position", "cope", "formula.2405.18719")
def cope() -> Comparison:
    position = made("cope", positions=6)
    layer: Any = position.at(1)
    q, k = heads(0)[:1], heads(1)[:1, ::2]  # two key heads for four query heads
    seen = torch.ones(LENGTH, LENGTH).tril().bool()
    scale = 32**-0.5
    mine = torch.where(seen, layer.content_bias(q, k, scale, seen), 0.0)
    leaves = [q, k, layer.table_KP]
    q64, k64, table = (t.detach().double().requires_grad_() for t in leaves)
    rows = []
    for h in range(4):
        for i in range(LENGTH):
            far, row = q64.new_zeros(()), [q64.new_zeros(())] * LENGTH
            for j in range(i, -1, -1):
                far = far + torch.sigmoid(q64[0, h, i] @ k64[0, h // 2, j] * scale)
                place = far.clamp(max=5)
                low, high = math.floor(place.item()), math.ceil(place.item())
                share = place - low
                row[j] = q64[0, h, i] @ (table[:, high] * share + table[:, low] * (1 - share))
            rows.append(torch.stack(row))
    theirs = torch.stack(rows).view(1, 4, LENGTH, LENGTH)
    both = gradients(mine, leaves), gradients(theirs.float(), [q64, k64, table])
    return Comparison([(mine, theirs)], list(zip(*both, strict=True)))
