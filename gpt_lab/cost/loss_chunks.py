"""Whether a loss is computed some tokens at a time, so that the logits of a batch never stand in memory at once.

Decided from the settings alone, so that the memory of a run is known before anything is built.
"""

from __future__ import annotations

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError

ABLE = ("ce", "mtp")
"""Objectives whose loss is a sum over tokens of what their logits alone say (parts/objective/chunked.py)."""
WHOLE = 2**26
"""Logits that chunked_loss=auto leaves whole: 256 MiB in fp32, of which training keeps about three copies."""
CHUNK = {"cpu": 2**24, "cuda": 2**26, "mps": 2**24}
"""Logits of a chunk. On CPU more of them take more memory and no less time (benchmarks/trained/loss_memory.py); a GPU
adds up the head's gradient once a chunk, as dear as the products of 2^24 logits (by their bytes: not measured)."""
FP32 = 4


def loss_chunk(
    cfg: RunConfig, vocab_size: int, tokens: int, device: str = "cpu", twice: bool = False
) -> tuple[int | None, str]:
    """Tokens whose logits are made at a time, None for all, and why.

    Args:
        tokens: that go through the model at once. device: its kind. twice: whether the optimizer differentiates twice.

    Raises:
        ConfigError: chunked_loss=on, and the loss cannot.
    """
    name = cfg.objective["name"]
    refused = ""
    if name not in ABLE:
        refused = f"objective={name} needs all logits at once"
    elif cfg.parallel["name"] == "fsdp":
        refused = "under parallel=fsdp a layer is whole only while the model's own pass comes to it"
    elif twice:
        refused = f"optim={cfg.optim['name']} differentiates twice, and gradients made with the loss cannot be"
    if refused:
        if cfg.chunked_loss == "on":
            raise ConfigError(f"chunked_loss=on: {refused}: leave it at auto")
        return None, refused
    logits = tokens * vocab_size
    said = f"logits of {tokens:,} tokens take {logits * FP32 / 1e9:.2g} GB in fp32"
    chunk = max(1, CHUNK[device] // vocab_size)
    if cfg.chunked_loss == "on":
        return min(chunk, tokens), "asked for"
    if cfg.chunked_loss == "off" or logits <= WHOLE:
        return None, "asked for" if cfg.chunked_loss == "off" else said
    return chunk, f"{said}: {chunk:,} tokens at a time"
