"""GPT assembled from parts. Says nothing about training. Shape letters as in parts/base.py."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt_lab import kernels, registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.kernels.base import Memo
from gpt_lab.parts.base import Flow, Position, Shape, States, init_roles, role
from gpt_lab.parts.dropout import KeyedDropout
from gpt_lab.parts.objective.base import NEXT, Objective, Projection, Surroundings
from gpt_lab.parts.residual.base import Streams
from gpt_lab.parts.residual.single_stream import PreNorm


class GPT(nn.Module):
    """A decoder-only Transformer made of the parts that a config names; one that reads both ways if its objective does.

    Args:
        cfg: which parts, how large, which flags.
        vocab_size: tokens that logits speak of. The embedding also has those that the objective masks with; both it and
            the head are padded up to a multiple of cfg.model.vocab_multiple, and the padding never shows.

    Attributes:
        twice: whether training differentiates twice, which not every attention kernel can.
        light_step: what reads a single token of each row in less time (gpt_lab/infer/light_step.py), if anything.

    Raises:
        ConfigError: the parts and sizes do not fit together.
    """

    twice = False
    light_step: Any = None

    def __init__(self, cfg: RunConfig, vocab_size: int) -> None:
        super().__init__()
        scale, flags = cfg.scale, cfg.model
        objective = _objective(cfg)
        causal = objective.causal
        shape = Shape(scale.depth, scale.width, scale.heads, scale.context, flags.bias, flags.dropout, causal)
        self.shape = shape
        self.vocab_size = vocab_size
        self.masks = objective.masks
        self.generates = "" if objective.generates == NEXT and not causal else objective.generates
        self.kernel_name: str = cfg.kernel["name"]
        self.softcap = flags.logit_softcap
        self.embed_scale = math.sqrt(shape.width) if flags.embed_scale else 1.0
        self.checkpointing = flags.checkpointing
        init = registry.build("init", cfg.init, shape)
        self.logits_scale: float = init.logits_scale
        head_rows, rows = (
            math.ceil(size / flags.vocab_multiple) * flags.vocab_multiple
            for size in (vocab_size, vocab_size + self.masks)
        )
        self.embed = nn.Embedding(rows, shape.width)
        self.embed_dropout = KeyedDropout(shape.dropout, "embed")
        self.position: Position = registry.build("position", cfg.position, shape)
        _check_both_ways(cfg, shape, "position", self.position)
        make_norm = functools.partial(registry.build, "norm", cfg.norm)
        enter = getattr(registry.load("norm", cfg.norm["name"]), "on_embeddings", None)
        self.embed_gain = None if enter is None else enter(shape.width, **_options(cfg.norm))
        self.embed_norm = make_norm(shape.width) if flags.embed_norm else None
        block = registry.load("residual", cfg.residual["name"])
        options = _options(cfg.residual)
        self.order: list[int] = list(block.order(shape.depth, **options))
        if (blocks := 1 + max(self.order)) < shape.depth:
            _check_letters(cfg, blocks)
        self.blocks = nn.ModuleList()
        for layer in range(blocks):
            attention = registry.build("attention", cfg.attention, shape, layer)
            _check_both_ways(cfg, shape, "attention", attention)
            _rescale(attention, init, shape)
            mlp = registry.build("mlp", cfg.mlp, shape, layer)
            made = block(shape, layer, attention, mlp, make_norm, **options)
            made.join(init, list(self.blocks))
            self.blocks.append(made)
        self.streams: Streams | None = made.streams(shape)
        for part in () if self.streams is None else self.streams.modules():
            if hasattr(part, "request"):
                _rescale(part, init, shape)
        self.norm = make_norm(shape.width) if block.final_norm else None
        self._positions = Memo(4)
        self.head = None if flags.tied else nn.Linear(shape.width, head_rows, bias=False)

        def plain_block() -> nn.Module:
            attention = registry.build("attention", cfg.attention, shape, 0)
            _rescale(attention, init, shape)
            return PreNorm(shape, 0, attention, registry.build("mlp", cfg.mlp, shape, 0), make_norm)

        self.auxiliary = objective.modules(Surroundings(shape, head_rows, make_norm, plain_block))
        init.check(self)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_T: Tensor | None = None,
        documents_BT: Tensor | None = None,
        states: States | None = None,
        keys_B: Tensor | None = None,
        losses: list[Tensor] | None = None,
        last: bool = False,
    ) -> Tensor:
        """Logits of the token after each token.

        Args:
            tokens_BT: int64 token ids.
            positions_T: int64 absolute positions; None: 0 to T-1.
            documents_BT: int64 document numbers; attention stays inside equal numbers. None: each row is one document.
            states: what parts kept of earlier tokens, to which these are added.
            keys_B: int64 dropout key of each row (dropout.row_keys); None: no dropout.
            losses: parts append here what is to be minimised beside the objective; None: it is not computed.
            last: whether only those after the last token are asked for.

        Returns:
            (B, T, V), or (B, 1, V), in the activations' type, V = vocab_size.
        """
        flow = self.flow(tokens_BT, positions_T, documents_BT, states, keys_B, losses)
        hidden_BTD = self.hidden(tokens_BT, flow)
        return self.logits(hidden_BTD[:, -1:] if last else hidden_BTD)

    def flow(
        self,
        tokens_BT: Tensor,
        positions_T: Tensor | None = None,
        documents_BT: Tensor | None = None,
        states: States | None = None,
        keys_B: Tensor | None = None,
        losses: list[Tensor] | None = None,
    ) -> Flow:
        """What travels beside the activations of a pass; arguments as those of forward."""
        if positions_T is None:
            length, device = tokens_BT.shape[1], tokens_BT.device
            # the same tensor in every pass, so that tables built from it are remembered
            positions_T = self._positions((length, device), (), lambda: torch.arange(length, device=device))
        return Flow(self.position, positions_T, documents_BT, states, keys_B, 0, {}, losses)

    def hidden(self, tokens_BT: Tensor, flow: Flow) -> Tensor:
        """What the head reads, after the last norm: (B, T, D)."""
        x = self.embed(tokens_BT)
        if self.embed_scale != 1.0:
            x = x * self.embed_scale
        x = self.position.embed(x, flow.positions_T)
        for act in (self.embed_gain, self.embed_norm):
            x = x if act is None else act(x)
        x = self.embed_dropout(x, flow.keys_B, self.shape.depth)
        assert flow.shared is not None, "a pass through the model carries it"
        flow.shared["x0"] = x
        stream = x if self.streams is None else self.streams.enter(x, flow)
        recompute = self.checkpointing and self.training and flow.states is None
        for layer, block in enumerate(self.layers()):
            here = flow._replace(layer=layer)
            if recompute:  # dropout is keyed: no generator's state to keep
                stream = checkpoint(block, stream, here, use_reentrant=False, preserve_rng_state=False)
            else:
                stream = block(stream, here)
        x = stream if self.streams is None else self.streams.leave(stream, flow)
        return x if self.norm is None else self.norm(x)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """What the head makes of `hidden`: (B, T, V)."""
        x_BTD, weight_RD, vocab_size, softcap = self.projection(hidden_BTD)
        logits_BTV = F.linear(x_BTD, weight_RD)
        if logits_BTV.shape[-1] != vocab_size:
            logits_BTV = logits_BTV[..., :vocab_size]
        if softcap is not None:
            logits_BTV = softcap * torch.tanh(logits_BTV.float() / softcap)
        return logits_BTV

    def projection(self, hidden_BTD: Tensor) -> Projection:
        """How `logits` makes them of `hidden`."""
        x_BTD = hidden_BTD if self.logits_scale == 1.0 else hidden_BTD * self.logits_scale
        return Projection(
            x_BTD, self.embed.weight if self.head is None else self.head.weight, self.vocab_size, self.softcap
        )

    def layers(self) -> list[nn.Module]:
        """The block at each depth, the first first: one that is used again stands there again."""
        return [self.blocks[number] for number in self.order]

    @property
    def draws(self) -> bool:
        """Whether training draws random numbers in the forward pass, so that rows need dropout keys."""
        return any(getattr(part, "draws", False) for part in self.modules() if part is not self)

    def measures(self) -> dict[str, float]:
        """What parts have to say of the last steps, as `layer<number>/<name>`: each `measures` of a part."""
        found: dict[str, float] = {}
        for number, block in enumerate(self.blocks):
            for module in block.modules():
                part: Any = module
                if hasattr(part, "measures"):
                    found |= {f"layer{number}/{name}": value for name, value in part.measures().items()}
        return found

    def choose_kernels(
        self, device: str | torch.device, dtype_name: str, documents: bool = False, times: int = 1
    ) -> list[kernels.KernelChoice]:
        """Sets each layer's attention kernel to what cfg.kernel means on this device; returns the choices, by layer.

        Args:
            device: where the model will run.
            dtype_name: fp32, tf32, bf16 or fp16.
            documents: whether batches carry document numbers.
            times: length of the sequences, in training contexts.

        Raises:
            ConfigError: the kernel asked for cannot do what a layer needs; the line names those that can.
        """
        choices = []
        for module in self.modules():
            attention: Any = module
            if not hasattr(attention, "request"):  # one that computes without these kernels
                continue
            request = attention.request(torch.device(device), dtype_name, self.position.bias_kind, documents)
            asked = replace(request, context=times * request.context, twice=self.twice)
            choices.append(kernels.choose(self.kernel_name, asked))
            attention.kernel = choices[-1].name
        return choices


def _objective(cfg: RunConfig) -> Objective:
    made = registry.build("objective", cfg.objective)
    if not isinstance(made, Objective):
        raise ConfigError(
            f"objective={cfg.objective['name']} is no Objective: its class must be one of gpt_lab.parts.objective.base"
        )
    return made


def _check_both_ways(cfg: RunConfig, shape: Shape, kind: str, part: nn.Module) -> None:
    """Refuses an attention or a position encoding of a model that reads both ways, if it cannot."""
    if shape.causal or getattr(part, "both_ways", False):
        return
    way = {"attention": "mha, gqa or mqa", "position": "rope, learned or sinusoidal"}[kind]
    name = _name(part) if kind == "attention" else cfg.position["name"]
    raise ConfigError(
        f"objective={cfg.objective['name']} reads both ways, and {kind}={name} looks at earlier tokens only: use "
        f"{kind}={way}"
    )


def _check_letters(cfg: RunConfig, blocks: int) -> None:
    """Refuses letters of a pattern that no block comes to, where layers use blocks again."""
    for kind in ("attention", "mlp"):
        settings, residual = getattr(cfg, kind), cfg.residual["name"]
        for where, _ in registry.parts_of(kind, settings):
            letter = where.rpartition(".")[2]
            if where != kind and letter not in settings["pattern"][:blocks]:
                raise ConfigError(
                    f"{kind}.pattern={settings['pattern']}: the {blocks} blocks of residual={residual} never come to "
                    f"letter {letter}: shorten the pattern or use more layers"
                )


def _rescale(attention: nn.Module, init: Any, shape: Shape) -> None:
    """Gives scores the init's scale, relative to 1/sqrt(head dimension): a part may have a scale of its own."""
    head_dim = shape.width // shape.heads
    factor = init.attention_scale(head_dim) * math.sqrt(head_dim)
    if math.isclose(factor, 1.0):
        return
    if not isinstance(scale := getattr(attention, "scale", None), float):
        raise ConfigError(
            f"this init scales attention scores, and attention={_name(attention)} has none that it could: keep heads "
            f"(scale.width / scale.heads, now {head_dim}) as large as those it starts from, or use init=normal"
        )
    attention.scale = scale * factor


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A part's options, of its settings."""
    return {key: value for key, value in settings.items() if key != "name"}


def _name(part: nn.Module) -> str:
    return str(getattr(type(part), "part", ("", type(part).__name__))[1])


@torch.no_grad()
def initialize(model: GPT, cfg: RunConfig) -> None:
    """Sets every parameter from (cfg.draw_seed, its name): two models that share a parameter start equal there.

    A part may draw its own, by a method `draw(name, generator)` that returns the values of one of its parameters or
    None. Otherwise biases become 0, other vectors keep what their constructor gave, the padding rows of the vocabulary
    become 0.
    """
    init = registry.build("init", cfg.init, model.shape)
    stated = init_roles(model)
    own: list[tuple[str, Any]] = [
        (prefix, module) for prefix, module in model.named_modules() if hasattr(module, "draw")
    ]
    for name, parameter in model.named_parameters():
        kind = role(name, parameter.ndim)
        generator = torch.Generator().manual_seed(_parameter_seed(cfg.draw_seed, name))
        inside = [(prefix, module) for prefix, module in own if name.startswith(f"{prefix}.")]
        drawn = None
        for prefix, part in reversed(inside):  # the innermost first
            drawn = part.draw(name.removeprefix(f"{prefix}."), generator) if drawn is None else drawn
        if drawn is not None:
            parameter.copy_(drawn)
        elif name.endswith(".bias"):
            parameter.zero_()
        elif parameter.ndim > 1:
            kind = stated.get(name, "matrix" if kind == "vector" else kind)  # a short convolution
            target = parameter.data
            if name in ("embed.weight", "head.weight"):
                target[model.vocab_size :].zero_()
                masks = target[model.vocab_size : model.vocab_size + model.masks]
                target = target[: model.vocab_size]
                if name == "embed.weight" and model.masks:  # the tokens start as they would without these
                    other = torch.Generator().manual_seed(_parameter_seed(cfg.draw_seed, f"{name}/masks"))
                    masks.copy_(init.weight(name, tuple(masks.shape), kind, other))
            target.copy_(init.weight(name, tuple(target.shape), kind, generator))


def _parameter_seed(seed: int, name: str) -> int:
    """63 bits of a hash, the same on every machine and Python."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
