"""What a run takes of memory at the least, told from its settings before anything is built, and what there is to take.

Every term is a lower bound, so that what is refused would surely have failed; what is not may still be too much.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gpt_lab import registry
from gpt_lab.errors import ConfigError
from gpt_lab.schema import RunConfig

FLOAT = 4
"""Bytes of a weight, a gradient, a number of the optimizer's state: fp32."""
TOKEN = 16
"""Bytes of a token and its target: int64."""
LAYER = 20_000
"""Bytes of the Python objects of one layer, its weights not counted (measured: 33,000 to 48,000)."""
STATE = {"adam": 2, "adamw": 2, "lion": 1, "muon": 1}
"""Numbers that an optimizer keeps for each parameter, at the least; one that is not here: none."""


class Term(NamedTuple):
    """One of the things that fill the memory: its bytes, and the settings that make it large."""

    what: str
    size: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Room:
    """Memory that can be had: bytes, and where."""

    size: int
    where: str = "here"


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
    terms = sorted(_terms(cfg, vocab_size, parameters), key=lambda term: -term.size)
    need = sum(term.size for term in terms)
    if need > room.size:
        largest = terms[0]
        raise ConfigError(
            f"this run needs at least {shown(need)} of memory ({largest.what}: {shown(largest.size)}), and "
            f"{shown(room.size)} are free {room.where}: lower {' or '.join(_stated(cfg, largest.keys))}"
        )


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


def _terms(cfg: RunConfig, vocab_size: int | None, parameters: int | None) -> Iterator[Term]:
    scale, model = cfg.scale, cfg.model
    vocab, vocab_key = _vocabulary(cfg) if vocab_size is None else (vocab_size, _vocabulary(cfg)[1])
    rows = math.ceil(vocab / model.vocab_multiple) * model.vocab_multiple
    if rows > 2 * vocab:
        vocab_key = "model.vocab_multiple"
    each = FLOAT * (2 + STATE.get(cfg.optim["name"], 0))  # the weight, its gradient, the optimizer's numbers
    embedding = rows * scale.width * (1 if model.tied else 2)
    layers = scale.depth * _layer(cfg) if parameters is None else max(parameters - embedding, 0)
    trained = "weights, gradients and optimizer state of the"
    yield Term(f"{trained} embedding of {rows:,} tokens", each * embedding, (vocab_key, "scale.width"))
    wide = ("mlp.d_ff",) if (cfg.mlp.get("d_ff") or 0) > 16 * scale.width else ("scale.width",)
    yield Term(f"{trained} {scale.depth:,} layers", each * layers + LAYER * scale.depth, ("scale.depth", *wide))
    yield Term(f"a batch of {cfg.batch.tokens:,} tokens", TOKEN * cfg.batch.tokens, ("batch.tokens",))
    micro = (cfg.batch.micro or cfg.rows) * scale.context
    smaller = ("batch.micro",) if micro > scale.context else ("scale.context",)
    kept = FLOAT * micro * scale.width * scale.depth if _ours("residual", cfg.residual) else 0
    yield Term(f"what {scale.depth:,} layers keep of {micro:,} tokens at a time", kept, (*smaller, "scale.depth"))
    yield Term(f"logits of {micro:,} tokens at a time", FLOAT * micro * vocab, (*smaller, vocab_key))
    if cfg.data["name"] == "synthetic":
        sequences, longest = cfg.data["val_sequences"], scale.context * max(cfg.eval.contexts)
        yield Term(f"{sequences:,} validation sequences", TOKEN * sequences * longest, ("data.val_sequences",))


def _vocabulary(cfg: RunConfig) -> tuple[int, str]:
    """At least so many tokens has the vocabulary, and the setting that says so."""
    if cfg.data["name"] == "synthetic":
        return int(cfg.data["symbols"]), "data.symbols"
    size = cfg.tokenizer.get("vocab_size")
    return (size, "tokenizer.vocab_size") if isinstance(size, int) else (1, "tokenizer.name")


def _layer(cfg: RunConfig) -> int:
    """Parameters of a layer of the lab's own parts, at the least; 0 of others."""
    width, count = cfg.scale.width, 0
    if _ours("attention", cfg.attention):
        count += 2 * width * width  # queries and output; keys and values may be few
    if _ours("mlp", cfg.mlp):
        d_ff = cfg.mlp.get("d_ff")
        count += 2 * width * d_ff if d_ff else 7 * width * width  # 8, less what rounding takes of narrow ones
    return count


def _ours(kind: str, settings: Mapping[str, object]) -> bool:
    return registry.get(kind, str(settings["name"])).module.startswith("gpt_lab.")


def _stated(cfg: RunConfig, keys: tuple[str, ...]) -> Iterator[str]:
    """The settings with the values that they have."""
    flat = cfg.flat()
    for key in dict.fromkeys(keys):
        if key == "tokenizer.name":
            yield f"the vocabulary (tokenizer={flat[key]})"
        else:
            value = flat.get(key)
            yield key if value is None else f"{key}={value}"


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
