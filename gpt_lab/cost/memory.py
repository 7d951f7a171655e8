"""Lower bound on the memory of a run, from its settings alone, and the memory of this machine.

Every term is a lower bound, so that what is refused would surely have failed; what is not may still be too much.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost.loss_chunks import loss_chunk
from gpt_lab.errors import ConfigError

FLOAT = 4
"""Bytes of a weight, a gradient, a number of the optimizer's state: fp32."""
TOKEN = 16
"""Bytes of a token and its target: int64."""
LAYER = 20_000
"""Bytes of the Python objects of one layer, its weights not counted (measured: 33,000 to 48,000)."""
STATE = {
    **dict.fromkeys(("lion", "muon", "normuon", "shampoo"), 1),
    **dict.fromkeys(("adam", "adamw", "adopt", "lamb", "mars", "soap"), 2),
    **dict.fromkeys(("adahessian", "schedule_free", "sophia"), 2),
    "ademamix": 3,
    **dict.fromkeys(("adan", "prodigy"), 4),
}
"""Numbers that an optimizer keeps for each parameter, at the least; one that is not here: none."""
KEPT = {"bf16_sr": (2, 2), "int8_weights": (FLOAT, 1)}
"""Bytes of a weight between steps under a precision: in embedding and head, and in layers at the least."""

PLAIN = {
    f"gpt_lab.parts.residual.{name}"
    for name in ("single_stream", "layerscale", "skips", "layer_drop", "block_recurrent")
}


@dataclass(frozen=True)
class Room:
    """Memory that can be had: bytes, and where."""

    size: int
    where: str = "here"


@dataclass(frozen=True)
class SizeSettings:
    """The numbers that make a run large, by setting.

    Fields:
        vocab: tokens, or as many as are known of. per_layer: parameters of a layer, where they were counted.
        micro: rows that go through the model at once; None: all of a step's. sequences, longest: of a synthetic
            validation set, and its longest in contexts. ranks: devices that share each step's rows.
    """

    vocab: int
    multiple: int
    depth: int
    width: int
    d_ff: int | None
    context: int
    tokens: int
    micro: int | None
    sequences: int
    longest: int
    per_layer: int | None = None
    ranks: int = 1

    @property
    def rows(self) -> int:
        """Rows of a step that go through the model of one device at once."""
        return self._whole if self.micro is None else min(self.micro, self._whole)

    @property
    def passes(self) -> int:
        """Micro-batches of a step."""
        return -(-self._whole // self.rows)

    @property
    def _whole(self) -> int:
        return max(1, -(-(self.tokens // self.context) // self.ranks))


KEYS = {
    "vocab": "the vocabulary",
    "multiple": "model.vocab_multiple",
    "depth": "scale.depth",
    "width": "scale.width",
    "d_ff": "mlp.d_ff",
    "tokens": "batch.tokens",
    "micro": "batch.micro",
    "context": "scale.context",
    "sequences": "data.val_sequences",
    "longest": "eval.contexts",
}


def check(cfg: RunConfig, room: Room | None, vocab_size: int | None = None, parameters: int | None = None) -> None:
    """Refuses a run that cannot fit into the memory.

    Args:
        room: None: nobody knows, and nothing is refused.
        vocab_size: tokens of the vocabulary; None: what the settings say of it.
        parameters: of the model; None: what the settings say of them.

    Raises:
        ConfigError: the line has what is needed, what there is, and the settings to lower.
    """
    if room is None:
        return
    sizes = sizes_of(cfg, vocab_size, parameters)
    found = terms(cfg, sizes)
    need = sum(found.values())
    if need > room.size:
        largest = max(found, key=lambda what: found[what])
        lower = _way_out(cfg, sizes, room.size)
        raise ConfigError(
            f"this run needs at least {shown(need)} of memory ({largest}: {shown(found[largest])}), and "
            f"{shown(room.size)} are free {room.where}: lower {lower}"
        )


def at_once(configs: Sequence[RunConfig], room: Room | None, wanted: int) -> int:
    """How many runs the memory holds beside each other: at least one, at most as many as are wanted.

    Args:
        configs: of the runs; the largest counts. room: None: nobody knows, and all that are wanted are taken.
    """
    if room is None or not configs:
        return wanted
    most = largest(configs)
    return max(1, min(wanted, room.size // (_need(most) * most.gpus_per_trial)))


def largest(configs: Sequence[RunConfig]) -> RunConfig:
    """The run that needs most memory, as far as its settings say."""
    return max(configs, key=_need)


def _need(cfg: RunConfig) -> int:
    return sum(terms(cfg, sizes_of(cfg, None, None)).values())


def free() -> Room | None:
    """The memory that processes can still have on this machine, or in this container if that is less."""
    sizes = [size for size in (_machine(), *_containers()) if size is not None]
    return Room(min(sizes)) if sizes else None


def shown(size: int) -> str:
    """Bytes for a reader."""
    for unit, name in ((10**15, "PB"), (10**12, "TB"), (10**9, "GB")):
        if size >= unit:
            return f"{size / unit:,.3g} {name}" if size < 1000 * unit else f"{size / unit:.1e} {name}"
    return f"{size / 1e6:,.3g} MB"


def terms(cfg: RunConfig, sizes: SizeSettings) -> dict[str, int]:
    """What fills the memory, in words, and its bytes."""
    size = 1 if cfg.optim.get("state") == "int8" else FLOAT
    outer, inner = KEPT.get(cfg.precision["name"], (FLOAT, FLOAT))
    each = FLOAT + size * STATE.get(cfg.optim["name"], 0)  # beside the weight: its gradient, the optimizer's numbers
    rows = -(-sizes.vocab // sizes.multiple) * sizes.multiple
    embedding, per_layer = parameters(cfg, sizes)
    if cfg.parallel["name"] == "fsdp":
        embedding, per_layer = embedding // sizes.ranks, per_layer // sizes.ranks
    at_once = sizes.rows * sizes.context
    kept = FLOAT * at_once * sizes.width * sizes.depth if _is_plain(cfg) else 0
    with_logits = loss_chunk(cfg, sizes.vocab, at_once)[0] or at_once
    trained = "weights, gradients and optimizer state of"
    return {
        f"{trained} an embedding of {rows:,} tokens": (outer + each) * embedding,
        f"{trained} {sizes.depth:,} layers": ((inner + each) * per_layer + LAYER) * sizes.depth,
        f"a batch of {sizes.tokens:,} tokens": TOKEN * sizes.tokens,
        f"what {sizes.depth:,} layers keep of {at_once:,} tokens at a time": kept,
        f"logits of {with_logits:,} tokens at a time": FLOAT * with_logits * sizes.vocab,
        f"{sizes.sequences:,} validation sequences": TOKEN * sizes.sequences * sizes.context * sizes.longest,
    }


def parameters(cfg: RunConfig, sizes: SizeSettings) -> tuple[int, int]:
    """Of embedding and head, and of a layer at the least."""
    rows = -(-sizes.vocab // sizes.multiple) * sizes.multiple
    per_layer = _layer(cfg, sizes) if sizes.per_layer is None else sizes.per_layer
    return rows * sizes.width * (1 if cfg.model.tied else 2), per_layer


def sizes_of(cfg: RunConfig, vocab_size: int | None, parameters: int | None) -> SizeSettings:
    """The sizes of a config, vocabulary and parameters as check takes them."""
    scale, synthetic = cfg.scale, cfg.data["name"] == "synthetic"
    stated = cfg.data["symbols"] if synthetic else cfg.tokenizer.get("vocab_size")
    vocab = vocab_size if vocab_size is not None else stated if isinstance(stated, int) else 1
    sizes = SizeSettings(
        vocab=vocab,
        multiple=cfg.model.vocab_multiple,
        depth=scale.depth,
        width=scale.width,
        d_ff=cfg.mlp.get("d_ff"),
        context=scale.context,
        tokens=cfg.batch.tokens,
        micro=cfg.batch.micro,
        sequences=cfg.data["val_sequences"] if synthetic else 0,
        longest=max(cfg.eval.contexts) if synthetic else 1,
        ranks=cfg.gpus_per_trial,
    )
    if parameters is None:
        return sizes
    rows = -(-vocab // sizes.multiple) * sizes.multiple
    beside = parameters - rows * scale.width * (1 if cfg.model.tied else 2)
    return dataclasses.replace(sizes, per_layer=max(beside, 0) // scale.depth)


def _way_out(cfg: RunConfig, sizes: SizeSettings, room: int) -> str:
    """The one or two settings to lower: those that would do alone, if there are any; else those that help most."""
    counted: dict[str, Any] = {"per_layer": None}  # what was counted at another size
    also = {
        "width": counted,
        "d_ff": counted,
        "context": {"tokens": max(1, sizes.tokens // sizes.context)},
        "tokens": {"tokens": sizes.context},
    }
    left = {}
    for name in KEYS:
        least = {name: 1, **also.get(name, {})}
        if name == "micro" or (getattr(sizes, name) or 1) > 1:
            left[name] = sum(terms(cfg, dataclasses.replace(sizes, **least)).values())
    best = sorted(left, key=lambda name: left[name])[:2]
    alone = [name for name in best if left[name] <= room]
    return (" or " if alone else " and ").join(_setting_text(cfg, sizes, name) for name in alone or best)


def _setting_text(cfg: RunConfig, sizes: SizeSettings, name: str) -> str:
    key = KEYS[name]
    if name == "vocab":
        key = (
            "data.symbols"
            if cfg.data["name"] == "synthetic"
            else f"the vocabulary of tokenizer={cfg.tokenizer['name']}"
        )
        key = "tokenizer.vocab_size" if "vocab_size" in cfg.tokenizer and key != "data.symbols" else key
    return f"{key} (now {sizes.rows if name == 'micro' else getattr(sizes, name)})"


def _layer(cfg: RunConfig, sizes: SizeSettings) -> int:
    """Parameters of a layer's plain parts, at the least; 0 of others."""
    width, count = sizes.width, 0
    if not _is_plain(cfg):  # layers may share them
        return 0
    if _module("attention", cfg.attention) == "gpt_lab.parts.attention.softmax":
        own = cfg.attention.get("head_dim")  # queries and output; keys and values may be few
        count += 2 * width * (cfg.scale.heads * own if own else width)
    if _module("mlp", cfg.mlp) == "gpt_lab.parts.mlp.feed_forward":
        count += 2 * width * sizes.d_ff if sizes.d_ff else 7 * width * width  # 8, less what rounding takes
    return count


def _is_plain(cfg: RunConfig) -> bool:
    """Whether each layer has weights of its own and keeps one stream."""
    return _module("residual", cfg.residual) in PLAIN


def _module(kind: str, settings: Mapping[str, object]) -> str:
    return registry.get(kind, str(settings["name"])).module


def _machine() -> int | None:
    """Bytes that Linux can still give away; elsewhere what is built in."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        return 1024 * sum(int(lines[key].split()[0]) for key in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _containers(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group around this process leaves of its limit; memory that caches files is given back."""
    try:
        entries = [line.strip().split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    for _, controllers, name in (entry for entry in entries if len(entry) == 3):
        if controllers == "":
            place, limit, used, cached = root, "memory.max", "memory.current", "file"
        elif controllers == "memory":
            place, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_cache"
        else:
            continue
        group = place / name.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(place):
                break
            try:
                most = int((folder / limit).read_text(encoding="ascii"))
                taken = int((folder / used).read_text(encoding="ascii"))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
                yield max(most - taken + int(stat.get(cached, 0)), 0)
            except (OSError, ValueError):  # no limit ("max"), or not this group's to say
                continue
