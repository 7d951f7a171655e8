"""What every part of a model must do alike: read in pieces, beside other rows, and after other documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt_lab.infer.cache import Cache
from gpt_lab.infer.generate import complete
from gpt_lab.model.gpt import GPT, initialize
from tests.helpers import tiny_config

VOCAB = 61
TRACED = "aot_eager_decomp_partition"
"""A backend of torch.compile that stops before code: forward and backward are captured, taken apart and divided as for
the default one, which takes 20 s more for each model."""


def model(kernel: str = "math", **settings: Any) -> GPT:
    """A tiny model whose weights are so large that a mistake shows."""
    cfg = tiny_config(kernel=kernel, **settings)
    made = GPT(cfg, VOCAB)
    initialize(made, cfg)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.empty_like(parameter).normal_(generator=generator)
            if name.startswith("position."):
                parameter.add_(0.5 * noise.abs())
            elif parameter.ndim > 1:
                parameter.copy_(noise * 1.5 * parameter.shape[-1] ** -0.5)
    made.choose_kernels("cpu", "fp32")
    return made.eval()


def text(rows: int, length: int) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def in_pieces(made: GPT, tokens_BT: Tensor, sizes: list[int]) -> Tensor:
    """Logits, read through the decoding states in pieces of these sizes, then token by token."""
    cache, found, first = Cache(), [], 0
    places = torch.arange(tokens_BT.shape[1])
    for size in [*sizes, *[1] * (tokens_BT.shape[1] - sum(sizes))]:
        part = slice(first, first + size)
        found.append(made(tokens_BT[:, part], positions_T=places[part], states=cache))
        assert cache.read(made, size), "an attention has kept nothing"
        first += size
    return torch.cat(found, 1)


@torch.no_grad()
def check(made: GPT, longest: int = 40, packed: int = 16) -> None:
    """Pieces, rows and documents; sequences go up to `longest`, packed ones to `packed` tokens."""
    tokens_BT = text(2, longest)
    whole = made(tokens_BT)
    assert whole.std() > 0.1
    torch.testing.assert_close(in_pieces(made, tokens_BT, [7, 5, 13]), whole, rtol=0, atol=1e-4)
    alone = torch.cat([made(row[None]) for row in tokens_BT])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)
    tokens_BT, cut = text(2, packed), packed // 3
    documents_BT = (torch.arange(packed) >= cut).long().expand(2, -1)
    together = made(tokens_BT, documents_BT=documents_BT)
    apart = [
        made(tokens_BT[:, part], positions_T=torch.arange(packed)[part]) for part in (slice(cut), slice(cut, None))
    ]
    torch.testing.assert_close(together, torch.cat(apart, 1), rtol=0, atol=1e-5)
    samples = [complete(made, text(1, 5)[0].tolist(), max_tokens=14, samples=3, use_cache=use) for use in (True, False)]
    assert samples[0] == samples[1] and len({*map(tuple, samples[0])}) == 3


def trained(made: GPT, compiled: bool = False, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, with what parts add to it, and gradients of one training pass."""
    tokens_BT = text(3, 17)

    def loss() -> Tensor:
        losses: list[Tensor] = []
        logits_BTV = made(tokens_BT[:, :-1], losses=losses)
        return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), tokens_BT[:, 1:].flatten()) + sum(
            losses
        )

    made.train()
    made.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        total = (torch.compile(loss, fullgraph=True, dynamic=False, backend=TRACED) if compiled else loss)()
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


def check_trains(made: GPT) -> None:
    """Every parameter has a finite gradient, in bf16 too."""
    for dtype in (torch.float32, torch.bfloat16):
        loss, grads = trained(made, dtype=dtype)
        assert loss.isfinite() and all(grad.isfinite().all() for grad in grads.values())
        assert grads.keys() == {name for name, _ in made.named_parameters()}


def check_compiled(made: GPT) -> None:
    """One program without a break, with the numbers of eager mode."""
    torch.compiler.reset()
    eager, found = trained(made), trained(made, compiled=True)
    torch.testing.assert_close(found[0], eager[0], rtol=0, atol=1e-5)
    for name, grad in eager[1].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-3, atol=1e-4, msg=name)
