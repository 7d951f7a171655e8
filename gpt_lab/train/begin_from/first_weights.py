"""The model of a run before its first step: drawn, or another's; with adapters, where it trains those alone."""

from __future__ import annotations

from gpt_lab.adapt import lora
from gpt_lab.config.schema import RunConfig
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.model.skip_init import bare_model
from gpt_lab.train.begin_from import continuation


def begun(cfg: RunConfig, vocab_size: int, origin: continuation.Origin | None) -> GPT:
    """The model, on the CPU."""
    model = bare_model(cfg, vocab_size)
    initialize(model, cfg)
    if origin is not None:
        continuation.load(model, origin)
    lora.attach(model, cfg)
    return model


def reference(cfg: RunConfig, vocab_size: int, origin: continuation.Origin | None, device: str, products: str) -> GPT:
    """The model as it begins, frozen: what objectives that refer to it compare with. New adapters change nothing."""
    model = begun(cfg, vocab_size, origin).to(device)
    model.requires_grad_(False).eval()
    model.choose_kernels(device, products)
    return model
