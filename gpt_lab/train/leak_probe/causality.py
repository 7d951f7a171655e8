"""Causality probe: whether a logit depends on a later token, checked before training in milliseconds.

A twin of the run's model (its parts, kernels, precision and device; weights drawn large for the purpose) reads two
batches that differ in what must not matter: later tokens, the other rows of the batch, other documents. Where nothing
may change, logits must be the same to the bit, in training and in evaluation. Where they are not, the twin reads both
again while each part gets what it got before, so that every part answers for itself, and those that change by more than
rounding are refused by name. Under an objective that reads both ways later tokens may matter, but not what it hides.
What another objective reports must be the cross-entropy of the next token, and what it trains must be that token
(objectives.py). Nothing of the run is touched: the twin is thrown away, and random states are put back.

Legend: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.devices import hardware
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import initialize
from gpt_lab.model.skip_init import bare_model, is_out_of_memory
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.base import Sequences
from gpt_lab.train import ending
from gpt_lab.train.leak_probe import objectives
from gpt_lab.train.leak_probe.output_changes import WATCHED, OutputRecord, change
from gpt_lab.train.leak_probe.own_randomness import SEED, own_randomness, seed_all
from gpt_lab.train.precision import Precision

GAINS = (2.0, 0.7, None)
"""Standard deviations of the twin's weights, times 1/sqrt(fan-in), tried until its logits are finite; None: as the run
begins. Scores must be large, or a mask of -20 would hide what training can dig out."""
ROUNDING = {"fp32": 1e-5, "tf32": 1e-2, "bf16": 3e-2, "fp16": 1e-2, "fp8": 0.1}
"""Change of a part's output, relative to its largest value, that is no leak: a convolution by FFT, in which each output
adds up all tokens, changes by 1e-6 in fp32."""
NARROW = {"cpu": 8, "cuda": 16, "mps": 16}
"""Head dimension of a small twin; fused kernels take no narrower heads."""
SHORT, VOCABULARY = 128, 64
"""Most tokens in a row of a small twin, and vocabulary of any: no part knows the vocabulary."""
FUTURE, ROWS, DOCUMENTS = "later tokens", "rows", "documents"
SAID = {
    FUTURE: "{0} see{1} the future: an output changes with later tokens, so a token could be predicted from itself",
    ROWS: "{0} mix{2} the rows of a batch: the output of one changes with the others",
    DOCUMENTS: "{0} see{1} other documents, although batch.document_mask=true",
}


def check(cfg: RunConfig, vocab_size: int, device: str, precision: Precision) -> None:
    """Refuses parts with which a loss would mean nothing.

    With this package's parts alone, which its tests probe, the twin's heads are narrow and it reads at most 128 tokens:
    40 ms for scale=tiny on one core of a CPU, 100 ms for scale=small. With others its width and context are the run's
    own, and it takes less than a training step of a usual batch.

    Raises:
        ConfigError: the parts at fault by name, and what they see.
        LabError: a device without the memory.
    """
    with own_randomness(device):
        refusal = objectives.refusal(cfg, torch.device(device)) or _model_refusal(cfg, vocab_size, device, precision)
    _refuse(refusal)


def _model_refusal(cfg: RunConfig, vocab_size: int, device: str, precision: Precision) -> str | None:
    if _shipped(cfg):
        with suppress(Exception):  # of sizes that a part cannot have
            return _Twin(narrow(cfg, device), vocab_size, device, precision, SHORT).refusal()
    try:
        return _Twin(cfg, vocab_size, device, precision).refusal()
    except (RuntimeError, MemoryError, TypeError) as error:
        if (lacking := hardware.lack(error, device)) is not None:
            raise lacking from error
        if not is_out_of_memory(error):
            raise
        raise ending.out_of_memory(cfg, device) from error


def check_ahead(cfg: RunConfig, vocab_size: int) -> None:
    """The same for a run that is only planned: on the CPU, narrow and short; what cannot run like that is left to it.

    Raises:
        ConfigError: as check.
    """
    plain, precision = replace(cfg, kernel={"name": "auto"}), Precision("fp32", "a probe", "cpu")
    refusal = None
    with own_randomness("cpu"), suppress(Exception):
        refusal = objectives.refusal(cfg, torch.device("cpu"))
        refusal = refusal or _Twin(narrow(plain, "cpu"), vocab_size, "cpu", precision, SHORT).refusal()
    _refuse(refusal)


def _refuse(refusal: str | None) -> None:
    if refusal is not None:
        raise ConfigError(f"{refusal}. Nothing was trained")


def _shipped(cfg: RunConfig) -> bool:
    """Whether every part of the model is this package's own."""
    chosen = [
        (kind, part) for kind in ("position", *WATCHED) for _, part in registry.parts_of(kind, getattr(cfg, kind))
    ]
    classes = [registry.load(kind, part["name"]) for kind, part in chosen]
    return all(cls.__module__.startswith("gpt_lab.") for cls in classes)


def narrow(cfg: RunConfig, device: str) -> RunConfig:
    """As many layers and heads, but narrow ones: the same parts at a fraction of the cost."""
    width = min(cfg.scale.width, cfg.scale.heads * NARROW[device])
    hidden = cfg.mlp.get("d_ff")
    mlp = cfg.mlp if hidden is None else {**cfg.mlp, "d_ff": min(hidden, 4 * width)}
    return replace(cfg, scale=replace(cfg.scale, width=width), mlp=mlp)


@dataclass(frozen=True)
class _Pair:
    """Two batches (B, T), and where a model's outputs must not tell them apart."""

    before_BT: Tensor
    after_BT: Tensor
    kept_BT: Tensor
    documents_BT: Tensor | None

    def rows(self, part: slice) -> _Pair:
        documents_BT = None if self.documents_BT is None else self.documents_BT[part]
        return _Pair(self.before_BT[part], self.after_BT[part], self.kept_BT[part], documents_BT)


class _Twin:
    """The run's model with weights of its own, and the batches that it reads."""

    def __init__(
        self, cfg: RunConfig, vocab_size: int, device: str, precision: Precision, longest: int | None = None
    ) -> None:
        self.cfg, self.device, self.precision = cfg, torch.device(device), precision
        self.vocab_size = min(vocab_size, VOCABULARY)
        self.model = bare_model(cfg, self.vocab_size).to(self.device)
        precision.lower(self.model)
        self.model.choose_kernels(device, precision.products, documents=cfg.batch.document_mask)
        parts: list[Any] = [part for part in self.model.modules() if hasattr(part, "request")]
        self.attentions = [(part, part.kernel) for part in parts if hasattr(part, "kernel")]
        dropout = longest is None and self.model.draws  # its masks cost most
        self.keys_B = row_keys(SEED, 0, torch.arange(16)).to(self.device) if dropout else None
        self.buffers: dict[str, Tensor] = {}
        self.together = cfg.batch.micro or cfg.rows
        self.length = min(cfg.scale.context, longest or cfg.scale.context)
        self.pair, self.kinds = self.make()

    @torch.no_grad()
    def drawn(self, gain: float | None) -> bool:
        """Draws the weights; whether the logits are finite with them."""
        if gain is None:
            initialize(self.model, self.cfg)
        else:
            generator = torch.Generator(self.device).manual_seed(SEED)
            for parameter in self.model.parameters():
                noise = torch.empty_like(parameter).normal_(generator=generator)
                if parameter.ndim > 1:
                    parameter.copy_(noise.mul_(gain * parameter.shape[-1] ** -0.5))
                else:  # gains and gates that begin at 0 or 1 must let everything through, each element its own way
                    parameter.add_(noise.mul_(0.5 * min(gain, 1.0)))
        self.buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        first = self.pair.rows(slice(1))
        return bool(self.read(first.before_BT, first.documents_BT, training=False).isfinite().all())

    def make(self) -> tuple[_Pair, dict[str, _Pair]]:
        """Two batches, and for each of what must not matter the rows that ask about it.

        The first row stays while all others change. Then come rows whose later tokens change: after the first token,
        after two neighbours in the middle (no chunk ends at both), after the last but one. Of three documents the outer
        ones change.
        """
        length, masked = self.length, self.cfg.batch.document_mask
        place_T = torch.arange(length)
        document_T = place_T * 3 // length
        cuts = sorted({cut for cut in (0, length // 2 - 1, length // 2, length - 2) if 0 <= cut < length - 1})
        if not self.model.shape.causal:  # later tokens may change everything
            cuts = []
        kept = [place_T >= 0, *(place_T <= cut for cut in cuts), *([document_T == 1] if masked else [])]
        if len(kept) == 1:
            kept.append(place_T < 0)
        kept_BT = torch.stack(kept)
        generator = torch.Generator().manual_seed(SEED)
        before_BT = torch.randint(self.vocab_size, kept_BT.shape, generator=generator)
        other_BT = torch.randint(1, max(self.vocab_size, 2), kept_BT.shape, generator=generator)
        after_BT = torch.where(kept_BT, before_BT, (before_BT + other_BT) % self.vocab_size)
        documents_BT = document_T.expand(len(kept), -1).contiguous().to(self.device) if masked else None
        before_BT, after_BT, kept_BT = (t.to(self.device) for t in (before_BT, after_BT, kept_BT))
        pair = _Pair(before_BT, after_BT, kept_BT, documents_BT)
        first_BT = kept_BT & (torch.arange(len(kept), device=self.device) == 0)[:, None]
        kinds = {ROWS: replace(pair, kept_BT=first_BT)}
        if cuts:
            kinds[FUTURE] = pair.rows(slice(1, 1 + len(cuts)))
        if masked:
            kinds[DOCUMENTS] = pair.rows(slice(1 + len(cuts), None))
        return pair, kinds

    @torch.no_grad()
    def read(self, tokens_BT: Tensor, documents_BT: Tensor | None, training: bool, lowered: bool = True) -> Tensor:
        """Logits, with the same random draws and the same buffers at every call."""
        for name, buffer in self.model.named_buffers():
            first = self.buffers.get(name)
            if first is not None and first.shape == buffer.shape and not torch.equal(buffer, first):
                buffer.copy_(first)
        for attention, kernel in self.attentions:
            # flash attention has no fp32, and to compile FlexAttention for these rows would take seconds
            plain = kernel == "flex" or (kernel == "flash_attn" and not lowered)
            attention.kernel = ("math" if attention.softcap else "sdpa") if plain else kernel
        seed_all(self.device.type)
        self.model.train(training)
        keys_B = None if self.keys_B is None or not training else self.keys_B[: len(tokens_BT)]
        with self.precision.autocast() if lowered else nullcontext():
            logits_BTV: Tensor = self.model(tokens_BT, documents_BT=documents_BT, keys_B=keys_B)
        return logits_BTV

    def refusal(self) -> str | None:
        """What is wrong with the parts, in words; None if nothing is."""
        any(self.drawn(gain) for gain in GAINS)  # if none is finite, what is not a number must be it in both readings
        for training in (False, True):
            for kind, found in self.faults(training).items():
                several = len(found) > 1
                said = SAID[kind].format(" and ".join(found), "" if several else "s", "" if several else "es")
                return said + (" (in training only)" if training else "")
        one = self.pair.rows(slice(1))
        given = Sequences(one.before_BT, one.after_BT.roll(-1, 1), one.documents_BT)
        with self.precision.autocast():
            return objectives.misreported(self.cfg, self.model.eval(), given)

    def faults(self, training: bool) -> dict[str, list[str]]:
        """What must not matter and does -> the parts at fault."""
        if not self.differs(training):
            return {}
        for lowered in (False, True):
            for kind, pair in self.kinds.items():
                found = [] if kind == ROWS and self.together == 1 else self.culprits(pair, training, lowered)
                if found:
                    return {kind: found}
        return {}

    def differs(self, training: bool) -> bool:
        """Whether any logit changes that must not; rows go together as many at a time as in the run."""
        for first in range(0, len(self.pair.kept_BT), self.together):
            part = self.pair.rows(slice(first, first + self.together))
            before, after = (self.read(t, part.documents_BT, training) for t in (part.before_BT, part.after_BT))
            if not torch.equal(before[part.kept_BT], after[part.kept_BT]):
                return True
        return False

    def culprits(self, pair: _Pair, training: bool, lowered: bool) -> list[str]:
        """The parts whose own output changes where it must not, in the order of the forward pass."""
        chosen = self.precision
        limit = ROUNDING["fp8" if chosen.name == "fp8" else chosen.products] if lowered else ROUNDING["fp32"]
        watch = OutputRecord(pair.kept_BT, limit)
        with watch.over(self.model, self.cfg):
            before = self.read(pair.before_BT, pair.documents_BT, training, lowered)
            watch.again = True
            after = self.read(pair.after_BT, pair.documents_BT, training, lowered)
        if not watch.found and change(before, after, pair.kept_BT[..., None]) > limit:
            return ["a part of this model"]
        return watch.found
