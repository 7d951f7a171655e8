"""The fixed sections of a run's settings, each with its defaults: scale, model, budget, batch and so on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gpt_lab.options import (
    Fraction,
    NonEmpty,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    SampleLength,
)


@dataclass(frozen=True)
class Scale:
    """How large the model is."""

    name: str
    depth: PositiveInt
    width: PositiveInt
    heads: PositiveInt
    context: PositiveInt


@dataclass(frozen=True)
class Model:
    """Flags of the assembled model that belong to no single part.

    embed_scale multiplies the embeddings by the root of the width, and not the head where it is tied to them, as in
    Gemma. embed_norm puts a norm on the embeddings, added positions included, as BERT, BLOOM and nanochat have one.
    """

    tied: bool = True
    bias: bool = False
    dropout: Probability = 0.0
    embed_scale: bool = False
    embed_norm: bool = False
    logit_softcap: PositiveFloat | None = None
    vocab_multiple: PositiveInt = 1
    checkpointing: bool = False


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of these is set."""

    steps: PositiveInt | None = None
    tokens: PositiveFloat | None = None
    flops: PositiveFloat | None = None
    seconds: PositiveFloat | None = None


@dataclass(frozen=True)
class Batching:
    """Tokens per optimizer step, rows per micro-batch (null: all at once), data order, document mask.

    With `start`, the first step has that many tokens, and the batch grows over the first `ramp` tokens
    (batch_sizes.py). `packing` says how documents become rows (data/packing.py; bucketed: one a row, data/rows.py).
    With `curriculum`, rows grow to the context over that share of the budget, from `shortest` (null: an eighth of it);
    bucketed rows are as short as that.
    """

    tokens: PositiveInt = 3072
    start: PositiveInt | None = None
    ramp: PositiveInt | None = None
    micro: PositiveInt | None = None
    seed: NonNegativeInt | None = None
    document_mask: bool = False
    packing: Literal["stream", "bos_aligned", "best_fit", "bucketed"] = "stream"
    shortest: PositiveInt | None = None
    curriculum: Fraction = 0.0


@dataclass(frozen=True)
class Eval:
    """Validation during training: each `every` steps, on about `tokens` tokens spread over the split (null: all).

    At the end the final weights are validated in windows of each of `contexts`, multiples of the training context, and
    measured on `tasks` (gpt_lab/evaluate): names or files, at most `items` of each, after `shots` examples.
    """

    every: PositiveInt = 200
    tokens: PositiveInt | None = None
    contexts: list[PositiveInt] = field(default_factory=lambda: [1])
    tasks: list[NonEmpty] = field(default_factory=list)
    shots: NonNegativeInt = 0
    items: PositiveInt = 500


@dataclass(frozen=True)
class Checkpoint:
    """Steps between checkpoints (null: at each evaluation) and how many of the periodic ones stay."""

    every: PositiveInt | None = None
    keep: NonNegativeInt = 1


@dataclass(frozen=True)
class Log:
    """Steps between lines in metrics.jsonl."""

    every: PositiveInt = 10


@dataclass(frozen=True)
class Sample:
    """The text drawn at each evaluation; `tokens=0` draws none. Without a prompt it continues words of the corpus."""

    prompt: str | None = None
    tokens: SampleLength = 64
    temperature: NonNegativeFloat = 0.8


@dataclass(frozen=True)
class Adapt:
    """Low-rank adapters, trained in place of the weights (adapt/lora.py); without a rank there are none.

    targets are last words of the names of linear layers (none: all but the head). With bits, the frozen weights are
    kept in so many, each `group` columns with a scale.
    """

    rank: PositiveInt | None = None
    alpha: PositiveFloat = 16.0
    targets: list[NonEmpty] = field(default_factory=list)
    bits: Literal[4, 8] | None = None
    group: PositiveInt = 64


@dataclass(frozen=True)
class Quantize:
    """Bits to which the final weights of linear layers are rounded for one more validation (null: none is made)."""

    bits: Literal[4, 8] | None = None
    group: PositiveInt = 64
