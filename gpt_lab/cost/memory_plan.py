"""Memory of each device of a run, planned before it starts: what it holds, in words, and its bytes.

Weights, gradients and optimizer state are counted; activations are those of a plain layer by Korthikanti et al. 2022,
arXiv:2205.05198, table 2: 34 numbers of two bytes a token and unit of width, without the scores that no kernel keeps.
"""

from __future__ import annotations

from gpt_lab.config.schema import RunConfig
from gpt_lab.cost import memory
from gpt_lab.cost.memory import FLOAT, SizeSettings, shown

ACTIVATIONS = 17
"""Numbers that a layer keeps of a token for the backward pass, in widths."""
LOGITS = 3
"""Of fp32 numbers of a logit: itself, its log-probability, its gradient."""


def planned(cfg: RunConfig, sizes: SizeSettings) -> dict[str, int]:
    """Bytes of each device, by what they are of."""
    number, divided = cfg.gpus_per_trial, cfg.parallel["name"] == "fsdp"
    embedding, layer = memory.parameters(cfg, sizes)
    total = embedding + layer * sizes.depth
    share = -(-total // number) if divided else total
    state = (1 if cfg.optim.get("state") == "int8" else FLOAT) * memory.STATE.get(cfg.optim["name"], 0)
    tokens = sizes.rows * sizes.context
    number_size = FLOAT if cfg.precision["name"] == "fp32" else 2
    kept = ACTIVATIONS * number_size * tokens * sizes.width
    found = {
        "weights": FLOAT * share,
        "gradients": FLOAT * share,
        "optimizer state": state * share,
    }
    if divided:  # weights and gradients of the embedding and of a layer, and the weights of the next one
        found["layers put together"] = FLOAT * (2 * embedding + 3 * layer)
        if sizes.passes > 1 and cfg.parallel.get("accumulate") == "whole":
            found["gradients summed before they are exchanged"] = FLOAT * total
    elif number > 1:
        found["gradients on their way"] = FLOAT * total
    if cfg.model.checkpointing:
        found["activations"] = kept + number_size * tokens * sizes.width * sizes.depth
    else:
        found["activations"] = kept * sizes.depth
    found["logits"] = LOGITS * FLOAT * tokens * sizes.vocab
    return found


def lines(cfg: RunConfig, vocab_size: int | None = None, parameters: int | None = None) -> list[str]:
    """What each of several devices will hold, in a line; [] of a run on one.

    Args:
        vocab_size, parameters: as memory.check takes them.
    """
    if cfg.gpus_per_trial == 1:
        return []
    found = planned(cfg, memory.sizes_of(cfg, vocab_size, parameters))
    parts = ", ".join(f"{what} {shown(size)}" for what, size in found.items())
    total = sum(found.values())
    number = cfg.gpus_per_trial
    surely = "at least" if parameters is None else "about"  # what attention has is not known of its name alone
    return [f"memory of each of {number} devices: {surely} {shown(total)} ({parts}); {shown(number * total)} in all"]
