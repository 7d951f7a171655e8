"""Whether a model can be differentiated twice, tried on a narrow twin before training."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import initialize
from gpt_lab.model.skip_init import bare_model

HEAD, ROWS, LENGTH, VOCABULARY = 8, 2, 8, 64


def check(cfg: RunConfig) -> None:
    """Refuses parts that cannot be.

    Raises:
        ConfigError: the line has what torch says.
    """
    narrow = min(cfg.scale.width, HEAD * cfg.scale.heads)
    twin, model = replace(cfg, scale=replace(cfg.scale, width=narrow)), None
    with suppress(ConfigError):  # of sizes that a part cannot have
        model = bare_model(twin, VOCABULARY)
    if model is None:
        twin, model = cfg, bare_model(cfg, VOCABULARY)
    initialize(model, twin)
    model.twice = True
    model.choose_kernels("cpu", "fp32", documents=cfg.batch.document_mask)
    tokens_BT = torch.arange(ROWS * min(LENGTH, cfg.scale.context)).remainder(VOCABULARY).view(ROWS, -1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses: list[Tensor] = []
    try:
        loss = model(tokens_BT, losses=losses).float().logsumexp(-1).mean()
        gradients = torch.autograd.grad(loss + sum(losses), parameters, create_graph=True, allow_unused=True)
        found = [g for g in gradients if g is not None and g.requires_grad]
        # through all of the graph: towards chosen inputs alone, a node that only raises would be passed by
        torch.autograd.backward(found, [torch.ones_like(g) for g in found])
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"optim={cfg.optim['name']} differentiates twice, and a part of this model cannot be ({said}): use another "
            "part, or an optimizer such as adamw"
        ) from None
