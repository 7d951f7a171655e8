"""Padding probe: whether what stands in padding changes anything that is learnt, checked before training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import initialize
from gpt_lab.model.skip_init import bare_model
from gpt_lab.train.leak_probe.causality import SHORT, VOCABULARY, narrow

CHANGE = 1e-4
"""Of a logit, where the two readings would otherwise be equal but for rounding."""


@torch.no_grad()
def check(cfg: RunConfig) -> None:
    """Refuses parts whose outputs see padding, and those that learn by themselves, from all tokens: losses, rules.

    A narrow twin reads the same text twice, followed by other padding. Nothing of the run is touched.

    Raises:
        ConfigError: what changes, and the packings without padding.
    """
    if cfg.batch.packing != "bucketed":
        return
    twin = narrow(replace(cfg, kernel={"name": "math"}), "cpu")
    model = bare_model(twin, VOCABULARY)
    initialize(model, twin)
    model.choose_kernels("cpu", "fp32", documents=cfg.batch.document_mask)
    length = min(cfg.scale.context, SHORT)
    place_T = torch.arange(length)
    real_T = place_T < length // 2
    before_BT = (7 * place_T % VOCABULARY)[None]
    after_BT = torch.where(real_T, before_BT, (before_BT + 1) % VOCABULARY)
    documents_BT = torch.where(real_T, 0, place_T)[None] if cfg.batch.document_mask else None
    losses: list[Tensor] = []
    before_BTV, after_BTV = (model(t, documents_BT=documents_BT, losses=losses) for t in (before_BT, after_BT))
    told = "use batch.packing=best_fit, which has none"
    if not torch.allclose(before_BTV[:, real_T], after_BTV[:, real_T], rtol=0, atol=CHANGE):
        raise ConfigError(f"batch.packing=bucketed: tokens see the padding after them: {told}")
    learners = any(hasattr(part, "after_step") for part in model.modules())
    if learners or losses:
        names = f"attention={cfg.attention['name']}, mlp={cfg.mlp['name']}"
        raise ConfigError(f"batch.packing=bucketed: a part ({names}) also learns from padding: {told}")
