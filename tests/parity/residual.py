"""Residual streams: stacks of blocks beside the papers' formulas in fp64, or beside transformers' modules.

What is compared is the wiring: branches and norms of a formula are the stack's own, in fp64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection
from transformers.models.dinov2.modeling_dinov2 import Dinov2DropPath
from transformers.models.mimi.configuration_mimi import MimiConfig
from transformers.models.mimi.modeling_mimi import MimiRotaryEmbedding, MimiTransformerLayer

from gpt_lab import registry
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.init import Normal
from gpt_lab.parts.norm.layernorm import LayerNorm
from gpt_lab.parts.residual.shared import OwnedLinear
from tests.parity.case import Comparison, gradients, parity

ROWS, LENGTH, WIDTH = 2, 11, 16
Formula = Callable[["Stack", Tensor], Tensor]


class Stack(nn.Module):
    """Blocks without embeddings and head: (B, T, D) -> (B, T, D)."""

    def __init__(self, name: str, depth: int = 4, position: str = "none", **options: Any) -> None:
        super().__init__()
        shape = Shape(depth, WIDTH, 2, LENGTH)
        cls = registry.load("residual", name)
        self.order, self.blocks = list(cls.order(depth, **options)), nn.ModuleList()
        self.position = registry.build("position", {"name": position}, shape)
        for layer in range(1 + max(self.order)):
            attention = registry.build("attention", {"name": "mha"}, shape, layer)
            mlp = registry.build("mlp", {"name": "gelu"}, shape, layer)
            block = cls(shape, layer, attention, mlp, LayerNorm, **options)
            block.join(Normal(shape), list(self.blocks))
            self.blocks.append(block)
        self.streams = block.streams(shape)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn * 0.6 * WIDTH**-0.5 if parameter.ndim > 1 else parameter + 0.3 * drawn)
        self.eval()

    def flow(self, x: Tensor, layer: int = 0, **fields: Any) -> Flow:
        return Flow(self.position, torch.arange(x.shape[1]), layer=layer, shared={"x0": x}, **fields)

    def forward(self, x: Tensor, **fields: Any) -> Tensor:
        flow = self.flow(x, **fields)
        stream = x if self.streams is None else self.streams.enter(x, flow)
        for layer, number in enumerate(self.order):
            stream = self.blocks[number](stream, flow._replace(layer=layer))
        return stream if self.streams is None else self.streams.leave(stream, flow)

    def f(self, number: int, x: Tensor) -> Tensor:
        """The attention branch of a block, its norm before it."""
        block = self.blocks[number]
        return block.attention(block.attention_norm(x), self.flow(x))

    def g(self, number: int, x: Tensor) -> Tensor:
        """The MLP branch, its norm before it."""
        block = self.blocks[number]
        return block.mlp(block.mlp_norm(x))


def inputs(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()


def against(ours: Stack, formula: Formula) -> Comparison:
    """The stack beside a formula in fp64 with the same weights; gradients of all of them and of the input."""
    exact, x = copy.deepcopy(ours).double(), inputs()
    x64 = x.detach().double().requires_grad_()
    y, expected = ours(x), formula(exact, x64).float()
    found = gradients(y, [x, *ours.parameters()])
    wanted = [grad.float() for grad in gradients(expected, [x64, *exact.parameters()])]
    return Comparison([(y, expected)], list(zip(found, wanted, strict=True)))


@parity("residual", "layerscale", "transformers.MimiTransformerLayer")
def layerscale() -> Comparison:
    """One layer of a causal Transformer with LayerScale."""
    config = MimiConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=WIDTH // 2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",
    )
    ours, theirs = Stack("layerscale", 1, position="rope"), MimiTransformerLayer(config, 0).eval()
    block: Any = ours.blocks[0]
    names = {
        "mlp.fc1.weight": block.mlp.up_proj.weight,
        "mlp.fc2.weight": block.mlp.down_proj.weight,
        "input_layernorm.weight": block.attention_norm.weight,
        "input_layernorm.bias": block.attention_norm.bias,
        "post_attention_layernorm.weight": block.mlp_norm.weight,
        "post_attention_layernorm.bias": block.mlp_norm.bias,
        "self_attn.o_proj.weight": block.attention.o_proj.weight,
        "self_attn_layer_scale.scale": block.attention_gain.gain,
        "mlp_layer_scale.scale": block.mlp_gain.gain,
    }
    fused = [f"self_attn.{letter}_proj.weight" for letter in "qkv"]
    pairs = names | dict(zip(fused, block.attention.qkv.weight.split(WIDTH), strict=True))
    weights = dict(theirs.named_parameters())
    assert weights.keys() == pairs.keys()
    with torch.no_grad():
        for name, tensor in pairs.items():
            weights[name].copy_(tensor)
    x, x_too = inputs(), inputs()
    mask = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)[None, None]
    places = MimiRotaryEmbedding(config)(x, torch.arange(LENGTH)[None])
    y, y_too = ours(x), theirs(x_too, attention_mask=mask, position_embeddings=places)
    found = gradients(y, [x, *names.values(), block.attention.qkv.weight])
    expected = gradients(y_too, [x_too, *(weights[name] for name in pairs)])
    expected[-3:] = [torch.cat(expected[-3:])]
    return Comparison([(y, y_too)], list(zip(found, expected, strict=True)))


def _skips(exact: Stack, x0: Tensor) -> Tensor:
    x, outputs = x0, []
    for layer, block in enumerate(exact.blocks):
        if block.skip is not None:
            x = x + block.skip * outputs[3 - layer]
        x = block.mix[0] * x + block.mix[1] * x0
        x = x + exact.f(layer, x)
        x = x + exact.g(layer, x)
        outputs.append(x)
    return x


@parity("residual", "skips", "formula.modded-nanogpt")
def skips() -> Comparison:
    return against(Stack("skips"), _skips)


@parity("residual", "skips", "formula.modded-nanogpt", "unet=true")
def unet() -> Comparison:
    return against(Stack("skips", unet=True), _skips)


def _hyper(exact: Stack, x0: Tensor) -> Tensor:
    """Algorithm 1 of the paper, token by token: H (N x D), its HC matrix from static and dynamic parts."""
    rows, length, width = x0.shape
    streams = exact.streams.count
    hidden = [[x0[b, t].expand(streams, width) for t in range(length)] for b in range(rows)]
    for number, block in enumerate(exact.blocks):
        for connection, branch in ((block.attention_connection, exact.f), (block.mlp_connection, exact.g)):
            read, kept, beta = [], [], []
            for row in hidden:
                for h in row:
                    static = connection.static.view(streams, 2 + streams)
                    a, b = static[:, :-1], static[:, -1]
                    if connection.norm is not None:
                        normed = connection.norm(h)
                        weight = connection.dynamic.weight
                        a = a + connection.scale[0] * torch.tanh(normed @ weight[: 1 + streams].T)
                        b = b + connection.scale[1] * torch.tanh(normed @ weight[1 + streams])
                    read.append(a[:, 0] @ h)
                    kept.append(a[:, 1:].T @ h)
                    beta.append(b)
            y = branch(number, torch.stack(read).view(rows, length, width)).reshape(rows * length, width)
            new = [k + torch.outer(b, out) for k, b, out in zip(kept, beta, y, strict=True)]
            hidden = [new[first : first + length] for first in range(0, rows * length, length)]
    return torch.stack([torch.stack([h.sum(0) / streams for h in row]) for row in hidden])


@parity("residual", "hyper_connections", "formula.2409.19606")
def hyper_connections() -> Comparison:
    return against(Stack("hyper_connections", 2), _hyper)


@parity("residual", "hyper_connections", "formula.2409.19606", "dynamic=false streams=3")
def static_hyper_connections() -> Comparison:
    return against(Stack("hyper_connections", 3, dynamic=False, streams=3), _hyper)


@parity("residual", "mhc", "transformers.DeepseekV4HyperConnection")
def mhc() -> Comparison:
    """Its module says the weights; it mixes as DeepSeek-V4's layer does, between the same branches."""
    config = DeepseekV4Config(hidden_size=WIDTH, hc_mult=4, hc_sinkhorn_iters=20, rms_norm_eps=1e-6)
    ours = Stack("mhc", 2)
    theirs, mine = [], []
    for block in ours.blocks:
        for connection in (block.attention_connection, block.mlp_connection):
            module = DeepseekV4HyperConnection(config)
            pairs = ((module.fn, connection.project.weight), (module.base, connection.base))
            for target, source in (*pairs, (module.scale, connection.scale)):
                target.data.copy_(source)
            theirs.append(module)
            mine += [connection.project.weight, connection.base, connection.scale]
    x, x_too = inputs(), inputs()
    streams = x_too.unsqueeze(2).repeat(1, 1, 4, 1)
    for number, module in enumerate(theirs):
        post, mix, read = module(streams)
        y = (ours.f, ours.g)[number % 2](number // 2, read)
        streams = post.unsqueeze(-1) * y.unsqueeze(-2) + torch.matmul(mix.transpose(-1, -2), streams)
    expected = streams.mean(2)
    weights = [tensor for module in theirs for tensor in (module.fn, module.base, module.scale)]
    found = ours(x)
    grads = [gradients(found, [x, *mine]), gradients(expected, [x_too, *weights])]
    return Comparison([(found, expected)], list(zip(*grads, strict=True)))


def _attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Of one query (D,) over a list of keys and values, by head."""
    out = []
    for head in range(2):
        part = slice(head * WIDTH // 2, (head + 1) * WIDTH // 2)
        weights = torch.stack([q[part] @ k[part] for k in keys]).div((WIDTH / 2) ** 0.5).softmax(0)
        out.append(sum(w * v[part] for w, v in zip(weights, values, strict=True)))
    return torch.cat(out)


def _block_recurrent(size: int, at: int) -> Formula:
    """Token by token: the vectors are read as they were when the block began, and updated when it ends."""

    def ended(m: Any, state: list[Tensor], own: Any, k_e: list[Tensor], v_e: list[Tensor]) -> list[Tensor]:
        q_s, q_c, k_s, v_s = own
        g, found = torch.sigmoid(m.gate), []
        for s, a, b in zip(state, q_s, q_c, strict=True):
            both = torch.cat((_attention(a, k_s, v_s), _attention(b, k_e, v_e)))
            found.append(g * s + (1 - g) * (m.mix_proj.weight @ both))
        return found

    def read(exact: Stack, x: Tensor) -> Tensor:
        m, rows = exact.blocks[at].memory, []
        ids = m.ids.view(-1, WIDTH)
        for row in exact.blocks[at].memory_norm(x):
            state, said, k_e, v_e = [*m.initial.view(-1, WIDTH)], [], [], []
            for t in range(len(row)):
                projected = [m.state_proj.weight @ m.state_norm(s + i) for s, i in zip(state, ids, strict=True)]
                own = list(zip(*(p.chunk(4) for p in projected), strict=True))
                said.append(m.o_proj.weight @ _attention(m.q_proj.weight @ row[t], own[2], own[3]))
                k, v = (m.kv_proj.weight @ row[t]).chunk(2)
                k_e, v_e = [*k_e, k], [*v_e, v]
                if (t + 1) % size == 0:
                    state, k_e, v_e = ended(m, state, own, k_e, v_e), [], []
            rows.append(torch.stack(said))
        return torch.stack(rows)

    def formula(exact: Stack, x: Tensor) -> Tensor:
        for number in range(len(exact.blocks)):
            y = x + exact.f(number, x)
            if number == at:
                y = y + read(exact, x)
            x = y + exact.g(number, y)
        return x

    return formula


@parity("residual", "block_recurrent", "formula.2203.07852", "block=3 vectors=4 at=1")
def block_recurrent() -> Comparison:
    return against(Stack("block_recurrent", 2, block=3, vectors=4, at=1), _block_recurrent(3, 1))


@parity("residual", "block_recurrent", "formula.2203.07852")
def block_recurrent_as_it_ships() -> Comparison:
    return against(Stack("block_recurrent", 2), _block_recurrent(LENGTH // 4, 1))


def _pick(pick: Any, sources: list[Tensor]) -> Tensor:
    if pick is None:
        return sources[0]
    keys = [v / torch.sqrt((v * v).mean(-1, keepdim=True) + 1e-6) for v in sources]
    weights = torch.stack([torch.exp((k * pick.query.weight[0]).sum(-1)) for k in keys])
    shares = weights / weights.sum(0)
    return torch.stack([share.unsqueeze(-1) * v for share, v in zip(shares, sources, strict=True)]).sum(0)


def _attention_residuals(exact: Stack, x0: Tensor) -> Tensor:
    blocks: list[list[Tensor]] = [[x0]]  # each the outputs that one source is the sum of
    for number, block in enumerate(exact.blocks):
        if block.size is not None and number % block.size == 0:
            blocks.append([])
        for pick, branch in ((block.attention_pick, exact.f), (block.mlp_pick, exact.g)):
            sources = [torch.stack(outputs).sum(0) for outputs in blocks if outputs]
            y = branch(number, _pick(pick, sources))
            if block.size is None:
                blocks.append([y])
            else:
                blocks[-1].append(y)
    return _pick(exact.streams.pick, [torch.stack(outputs).sum(0) for outputs in blocks])


@parity("residual", "attention_residuals", "formula.2603.15031")
def attention_residuals() -> Comparison:
    return against(Stack("attention_residuals", 3), _attention_residuals)


@parity("residual", "attention_residuals", "formula.2603.15031", "size=2")
def block_attention_residuals() -> Comparison:
    return against(Stack("attention_residuals", 5, size=2), _attention_residuals)


def _looped(loops: int, prelude: int, own: int, inject: str) -> Formula:
    def formula(exact: Stack, x: Tensor) -> Tensor:
        def through(x: Tensor, numbers: range) -> Tensor:
            for number in numbers:
                x = x + exact.f(number, x)
                x = x + exact.g(number, x)
            return x

        x = entered = through(x, range(prelude))
        for loop in range(loops):
            if inject == "adapter":
                weight = exact.blocks[prelude].adapter.weight
                x = x @ weight[:, :WIDTH].T + entered @ weight[:, WIDTH:].T
            elif inject == "add" and loop:
                x = x + entered
            x = through(x, range(prelude, prelude + own))
        return through(x, range(prelude + own, len(exact.blocks)))

    return formula


@parity("residual", "looped", "formula.1807.03819")
def looped() -> Comparison:
    return against(Stack("looped", 4), _looped(2, 0, 2, "none"))


@parity("residual", "looped", "formula.2502.05171", "loops=2 prelude=1 coda=1 inject=adapter")
def recurrent_depth() -> Comparison:
    made = Stack("looped", 6, loops=2, prelude=1, coda=1, inject="adapter")
    return against(made, _looped(2, 1, 2, "adapter"))


@parity("residual", "looped", "formula.2311.12424", "loops=3 inject=add")
def looped_with_input() -> Comparison:
    return against(Stack("looped", 3, loops=3, inject="add"), _looped(3, 0, 1, "add"))


def _shared(exact: Stack, x: Tensor) -> Tensor:
    """W + U V + D in place of each W, written out for each layer."""
    for layer, number in enumerate(exact.order):
        block, use = exact.blocks[number], layer % 2
        for branch, norm in ((block.attention, block.attention_norms[use]), (block.mlp, block.mlp_norms[use])):
            plain, weights = copy.deepcopy(branch), {}
            for name, linear in branch.named_modules():
                if isinstance(linear, OwnedLinear):
                    outer, inner = linear.weight.shape
                    own = linear.up[use] @ linear.down[use]
                    for place, value in enumerate(linear.diagonal[use]):
                        spot = torch.zeros(outer, inner, dtype=x.dtype)
                        spot[place % outer, place % inner] = 1.0
                        own = own + value * spot
                    weights[f"{name}.weight"] = linear.weight + own
                    whole = nn.Linear(inner, outer, bias=False)
                    setattr(plain.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], whole)
            inside = (norm(x), exact.flow(x)) if branch is block.attention else (norm(x),)
            x = x + functional_call(plain, weights, inside)
    return x


@parity("residual", "shared", "formula.2310.02489")
def shared() -> Comparison:
    return against(Stack("shared", 4, rank=3), _shared)


@parity("residual", "layer_drop", "transformers.Dinov2DropPath", "rate=0.5")
def layer_drop() -> Comparison:
    """Rows, found among theirs of many draws: of a layer's branches each row keeps both, either or none."""
    rate, rows = 0.5, 24
    ours, x, x_too = Stack("layer_drop", 1, rate=rate), inputs(rows), inputs(rows)
    block: Any = ours.blocks[0]
    ours.train()
    y = ours(x, keys_B=row_keys(0, 5, torch.arange(rows)))
    path = Dinov2DropPath(rate).train()
    torch.manual_seed(0)
    expected, drawn = torch.zeros(rows, LENGTH, WIDTH), torch.zeros(rows, dtype=torch.bool)
    for _ in range(40):  # until each row has met its own choice
        z = x_too + path(ours.f(0, x_too))
        z = z + path(ours.g(0, z))
        met = (~drawn) & torch.isclose(z, y, rtol=0, atol=1e-4).flatten(1).all(1)
        expected, drawn = expected + met.view(-1, 1, 1) * z, drawn | met
    assert drawn.all(), "a row that stochastic depth cannot give"
    assert 0 < torch.isclose(y, x, rtol=0, atol=1e-6).flatten(1).all(1).sum() < rows
    weights = [*block.parameters()]
    grads = [gradients(y, [x, *weights]), gradients(expected, [x_too, *weights])]
    return Comparison([(y, expected)], list(zip(*grads, strict=True)))
