"""nanoGPT's loop over its model, in this file's own words: torch and numpy alone.

    python benchmarks/trained/bare.py TOKENS STEPS SEED THREADS FILE [BATCHES]  # at nanoGPT's CPU shape

Model, data access (a memory map opened for each batch, one slice per row), optimizer, eager fp32. As a program it
evaluates as nanoGPT does on a CPU: BATCHES (20) of the training and of the validation part, before the first step,
every 250 steps and at the end, and writes the weights where validation has become better.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHABET = "".join(chr(c) for c in range(33, 33 + 64)) + "\n"
"""65 characters, as many as tiny Shakespeare has."""
LOG_EVERY = 10
"""Steps between two reads of the loss, in every arm (nanoGPT's for its character model)."""


@dataclass(frozen=True)
class ModelShape:
    """A model and its batch: layers, heads, width, context, rows."""

    depth: int
    heads: int
    width: int
    context: int
    rows: int
    vocab: int = len(ALPHABET)


class Norm(nn.Module):
    """LayerNorm without a bias, as nanoGPT's with bias=False."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    """Pre-norm attention (one matrix for q, k and v; SDPA) and a GELU MLP of four times the width."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norm_1, self.norm_2 = Norm(width), Norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, context, width = x.shape
        q, k, v = (
            part.view(rows, context, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(rows, context, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class BareGPT(nn.Module):
    """Token and position embeddings, blocks, norm, head tied to the token embedding."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = Norm(shape.width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * shape.depth) if last else 0.02)

    def logits(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1], dtype=torch.long))
        for block in self.blocks:
            h = block(h)
        return F.linear(self.norm(h), self.tokens.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss."""
        logits = self.logits(x)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1), ignore_index=-1)


class Bare:
    """nanoGPT's loop: memory map opened for each batch, one slice per row, clip, AdamW, loss read every few steps."""

    def __init__(self, shape: ModelShape, tokens: Path, fused: bool, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.shape, self.tokens = shape, tokens
        self.model = BareGPT(shape)
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), **({"fused": True} if fused else {}))
        self.count = 0
        self.batch = self.take()

    def take(self) -> tuple[Tensor, Tensor]:
        """Random rows of the token file."""
        data, context = np.memmap(self.tokens, dtype=np.uint16, mode="r"), self.shape.context
        starts = torch.randint(len(data) - context, (self.shape.rows,))
        x = torch.stack([torch.from_numpy(data[i : i + context].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + context].astype(np.int64)) for i in starts])
        return x, y

    def step(self) -> None:
        """One optimizer step."""
        rate = 1e-4 + 0.5 * (1 + math.cos(math.pi * min(self.count / 5000, 1))) * 9e-4
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.model(*self.batch)
        self.batch = self.take()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.count += 1
        if self.count % LOG_EVERY == 0:
            loss.item()

    @torch.no_grad()
    def evaluate(self, batches: int) -> float:
        """The mean loss over random batches."""
        self.model.eval()
        found = sum(self.model(*self.take()).item() for _ in range(batches)) / batches
        self.model.train()
        return found


def write_corpus(folder: Path, characters: int) -> tuple[Path, Path]:
    """Random text over the alphabet, and nanoGPT's token file of it."""
    ids = np.random.default_rng(0).integers(len(ALPHABET), size=characters, dtype=np.uint16)
    ids[: len(ALPHABET)] = np.arange(len(ALPHABET))
    text, tokens = folder / "corpus.txt", folder / "train.bin"
    text.write_text("".join(np.array(list(ALPHABET))[ids]), encoding="utf-8")
    ids.tofile(tokens)
    return text, tokens


CPU_SHAPE = ModelShape(4, 4, 128, 64, 12)
EVAL_EVERY, EVAL_BATCHES = 250, 20


def main(tokens: str, steps: str, seed: str, threads: str, weights: str, batches: str = str(EVAL_BATCHES)) -> None:
    """Trains one model."""
    if int(threads):
        torch.set_num_threads(int(threads))
    loop, best = Bare(CPU_SHAPE, Path(tokens), fused=False, seed=int(seed)), math.inf
    for step in range(int(steps) + 1):
        if step % EVAL_EVERY == 0 or step == int(steps):
            training, validation = (loop.evaluate(int(batches)) for _ in range(2))
            print(f"step {step}: train loss {training:.4f}, val loss {validation:.4f}", flush=True)
            if step and validation < best:
                best = validation
                torch.save({"model": loop.model.state_dict(), "optimizer": loop.optimizer.state_dict()}, weights)
        if step < int(steps):
            loop.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
