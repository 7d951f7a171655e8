"""Table of metrics, one row each: goal, unit, labels, axes, dashboards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpt_lab import context_multiples

Goal = Literal["minimize", "maximize"]
EXACT, BOUND = "exact", "upper bound"
"""What the validation of an objective measures: nats of the text, or what these cannot exceed. Anything else is a
measure of its own, in words, without bits per byte."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Fields:
        name: its key in metrics.jsonl and in a run's final summary.
        unit: what it is counted in, as after a number in a sentence; empty: nothing but the number.
        goal: which direction is better; None: no comparison decides by it.
        label, form: name and value in the table at the end of a run; without a label it is not in it.
        short: where there is little room, such as a column of a live table.
        line: name and value in the line of a live view; empty: it is not in it.
        per_byte: it does not depend on the tokenizer, and the corpus's n-gram floors are in its unit.
        loss: it falls with a run's budget as a power law.
        longer: it is measured in windows of several training contexts too (lengths.py); what the table at the end of a
            run calls it there, empty: it is not in it; None: it is not measured there.
        first: dashboards show it before all others.
    """

    name: str
    unit: str = ""
    goal: Goal | None = None
    label: str = ""
    form: str = "{:.4f}"
    short: str = ""
    line: str = ""
    per_byte: bool = False
    loss: bool = False
    longer: str | None = None
    first: bool = False


TABLE = {
    metric.name: metric
    for metric in (
        Metric("train/loss", "nats per token", short="train loss", line="loss {:.4f}", first=True),
        Metric(
            "val/loss", "nats per token", "minimize", "val loss (nats per token)", short="val loss",
            line="val loss {:.4f}", loss=True, longer="",
        ),
        Metric(
            "val/bpb", "bits per byte", "minimize", "val bits per byte", short="bpb",
            line="val bpb {:.4f}", per_byte=True, loss=True, longer="bits per byte", first=True,
        ),
        Metric("val/ppl", "perplexity", "minimize", "val perplexity", "{:.2f}", short="ppl"),
        Metric(
            "val/accuracy", "of the answers", "maximize", "val accuracy", short="accuracy",
            line="val accuracy {:.3f}", longer="accuracy", first=True,
        ),
        Metric(
            "quantized/loss", "nats per token", "minimize", "quantized: val loss", short="quantized loss", loss=True,
        ),
        Metric(
            "quantized/bpb", "bits per byte", "minimize", "quantized: val bits per byte", short="quantized bpb",
            per_byte=True, loss=True,
        ),
        Metric("train/lr", line="lr {:.2e}"),
        Metric("train/weight_decay"),
        Metric("train/batch_tokens", "tokens per step"),
        Metric(
            "perf/tokens_per_s", "tokens per second", "maximize", "tokens/s", "{:,.0f}", short="tokens/s",
            line="{:,.0f} tokens/s",
        ),
        Metric("perf/mfu", "", "maximize", "MFU", "{:.1%}", short="MFU", line="MFU {:.1%}"),
        Metric(
            "perf/peak_memory_gb", "GB", "minimize", "peak memory", "{:.2f} GB", short="peak GB", line="{:.2f} GB",
        ),
        Metric("perf/tokens_per_s_per_rank", "tokens per second", None, "tokens/s of each rank", "{:,.0f}"),
        Metric("perf/total_memory_gb", "GB", None, "peak memory of all ranks", "{:.2f} GB"),
    )
}  # fmt: skip
"""By name, in a reader's order."""
EVAL, BITS = "eval/", "_bpb"
"""Of tasks (gpt_lab/evaluate): eval/NAME, where more is better unless the name ends so: then it is bits per byte."""
HEADLINE, WITHOUT_TEXT = "val/bpb", "val/loss"
"""What decides unless a study says otherwise, and what does in its place where the data is no text."""
DECIDING = tuple(name for name, metric in TABLE.items() if metric.goal is not None)
"""What a comparison may decide by."""
FIRST = tuple(
    row.name for section in ("val/", "train/") for row in TABLE.values() if row.first and row.name.startswith(section)
)
"""What dashboards show before all else."""
LONGER = tuple(name for name, metric in TABLE.items() if metric.longer is not None)
"""What is measured in windows of several training contexts too."""
FLOORS = {"unigram": "single tokens", "bigram": "pairs of tokens", "trigram": "triples of tokens"}
"""The n-gram floors of a corpus, floor/NAME in a run's final summary, in bits per byte: what each counts."""


def source(name: str) -> tuple[str, str]:
    """A metric and the source of a mixture that it is of: val/bpb and code of val/bpb/code; "" for that of all."""
    head, _, own = name.partition("/")
    base, _, of = own.partition("/")
    return (f"{head}/{base}", of) if of else (name, "")


def find(name: str) -> Metric | None:
    """The row of a metric, also of what is measured at multiples of the context: val/loss of val/loss_beyond_2x.

    And of the sources of a mixture: val/bpb of val/bpb/code; and of tasks.
    """
    if name.startswith(EVAL):
        return _of_task(name)
    name, _ = source(name)
    base, times = context_multiples.split(name)
    if times == 1:
        return TABLE.get(name)
    row = TABLE.get("val/loss" if base in (context_multiples.BEYOND, context_multiples.EXCESS) else base)
    return row if row is not None and row.longer is not None else None


def _of_task(name: str) -> Metric:
    if name.endswith(BITS):
        return Metric(name, "bits per byte", "minimize", per_byte=True)
    return Metric(name, "score", "maximize")


def goal(name: str) -> Goal:
    """Which direction of a metric is better; minimize where that is not known."""
    row = find(name)
    return "minimize" if row is None or row.goal is None else row.goal


def unit(name: str) -> str:
    """What the metric is counted in; its key where that is not known."""
    row = find(name)
    return row.unit if row is not None and row.unit else name


def axis(name: str) -> str:
    """The metric as an axis label, with its unit."""
    row = find(name)
    if row is None or not row.unit:
        return name
    return f"{name} ({'share ' if row.unit.startswith('of ') else ''}{row.unit})"


def short(name: str) -> str:
    """The metric where there is little room; its key where it has no short name."""
    row = TABLE.get(name)
    return row.short if row is not None and row.short else name


def per_byte(name: str) -> bool:
    """Whether the metric does not depend on the tokenizer."""
    row = find(name)
    return row is not None and row.per_byte


def has_floors(name: str) -> bool:
    """Whether n-gram floors, which are of windows of one context and of a whole corpus, can stand beside the metric."""
    return (
        per_byte(name) and not name.startswith(EVAL) and context_multiples.split(name)[1] == 1 and not source(name)[1]
    )


def beside_floors(name: str) -> str:
    """Column of a study's runs that n-gram floors can stand beside, whichever metric decides."""
    return "score" if has_floors(name) else f"summary.{HEADLINE}"
