"""Validation of a run's weights rounded to few bits, as `quantize` would keep them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from gpt_lab.adapt.rounding import rounded
from gpt_lab.config.sections import Quantize


def evaluate_quantized(
    model: nn.Module, wanted: Quantize, evaluate: Callable[[], dict[str, float] | None]
) -> dict[str, float] | None:
    """quantized/loss and, for text, quantized/bpb; {} where no bits are asked for, None where `evaluate` says so.

    Args:
        evaluate: the metrics of the model as it is.
    """
    if wanted.bits is None:
        return {}
    with rounded(model, wanted.bits, wanted.group):
        values = evaluate()
    if values is None:
        return None
    return {f"quantized/{key}": values[f"val/{key}"] for key in ("loss", "bpb") if f"val/{key}" in values}
