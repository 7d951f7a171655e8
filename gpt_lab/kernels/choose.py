"""Kernel selection: which attention kernel a layer uses, and why; the one call that runs it."""

from __future__ import annotations

from torch import Tensor

from gpt_lab.errors import ConfigError, unknown
from gpt_lab.kernels.base import Kernel, KernelChoice, KernelRequest, KeyView
from gpt_lab.kernels.dense import Math, Sdpa
from gpt_lab.kernels.fused import FlashAttention, Flex
from gpt_lab.registry import register

KERNELS: dict[str, type[Kernel]] = {"math": Math, "sdpa": Sdpa, "flash_attn": FlashAttention, "flex": Flex}

CPU_MATH_CONTEXT = {"fp32": 128, "bf16": 1024, "fp16": 0}
"""Longest context, by precision, up to which `math` is at least as fast as `sdpa` on CPU, forward and backward."""
MEASURED = "benchmarks/results/attention_crossover.json"


@register("kernel", "auto")
class AutoKernel:
    """The fastest kernel that can do what the layer asks, chosen once from device, precision, mask, bias and context.

    Reference: benchmarks/attention_crossover.py. The run's record keeps the choice and its reason. No options.
    """


def available() -> dict[str, str | None]:
    """Every kernel, and None where it works on this machine, else why it does not."""
    return {name: kernel.unavailable() for name, kernel in KERNELS.items()}


def choose(name: str, request: KernelRequest) -> KernelChoice:
    """The kernel for a request; `auto` picks, any other name is checked.

    Raises:
        ConfigError: unknown, not installed, or unable to do what is asked; the line names the kernels that can.
    """
    if name == "auto":
        return _auto(request)
    if name not in KERNELS:
        raise ConfigError(unknown("kernel", name, ["auto", *KERNELS]))
    missing, refused = KERNELS[name].unavailable(), KERNELS[name].refusal(request)
    if missing is not None:
        raise ConfigError(f"kernel={name} {missing} (kernels that can: {', '.join(_able(request))})")
    if refused is not None:
        raise ConfigError(f"kernel={name} cannot be used: {refused} (kernels that can: {', '.join(_able(request))})")
    return KernelChoice(name, "asked for")


def _able(request: KernelRequest) -> list[str]:
    return ["auto", *(name for name, kernel in KERNELS.items() if _can(name, request))]


def _can(name: str, request: KernelRequest) -> bool:
    return KERNELS[name].unavailable() is None and KERNELS[name].refusal(request) is None


def _auto(request: KernelRequest) -> KernelChoice:
    if not _can("sdpa", request) and (request.device != "cuda" or request.dropout > 0.0 or request.twice):
        return KernelChoice("math", f"only math can do this here: of sdpa, {Sdpa.refusal(request)}")
    if request.device == "cpu":
        longest = CPU_MATH_CONTEXT.get(request.dtype, 0)
        if request.context <= longest:
            return KernelChoice(
                "math", f"cpu, {request.dtype}, context {request.context} <= {longest}: faster ({MEASURED})"
            )
        if request.sinks or request.value_dim not in (None, request.head_dim):
            return KernelChoice("math", "cpu: faster (sdpa fuses neither sinks nor values of another width than keys)")
        return KernelChoice("sdpa", f"cpu, {request.dtype}, context {request.context} > {longest}: faster ({MEASURED})")
    if request.device == "mps":
        return KernelChoice("sdpa", f"mps, {request.dtype}: torch's own (not measured against math)")
    if not _what(request):
        way = "causal" if request.causal else "both ways"
        first = "cuDNN's attention" if (request.capability or (0, 0))[0] == 9 else "flash attention"
        return KernelChoice(
            "sdpa", f"cuda, {request.dtype}, plain {way}: {first if _half(request) else 'memory-efficient'}"
        )
    for name, why in (
        ("flash_attn", "it needs no mask in memory"),
        ("flex", "it skips hidden blocks and needs no mask in memory"),
        ("sdpa", "its memory-efficient kernel takes the mask"),
    ):
        if _can(name, request):
            return KernelChoice(name, f"cuda, {request.dtype}, {_what(request)}: {why}")
    return KernelChoice("math", f"cuda, {request.dtype}, {_what(request)}: no fused kernel here can do it")


def _half(request: KernelRequest) -> bool:
    return request.dtype in ("bf16", "fp16")


def _what(request: KernelRequest) -> str:
    parts = {
        f"window {request.window}": request.window is not None and request.window < request.context,
        "documents": request.documents,
        f"{request.bias_kind} bias": request.bias_kind != "none",
        "sinks": request.sinks,
        "capped scores": request.softcap is not None,
    }
    return ", ".join(part for part, asked in parts.items() if asked)


def attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSV: Tensor,
    *,
    kernel: str,
    scale: float,
    window: int | None = None,
    slopes_H: Tensor | None = None,
    bias_HTS: Tensor | None = None,
    sinks_H: Tensor | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    keys_B: Tensor | None = None,
    salt: int = 0,
    positions_q: Tensor | None = None,
    positions_k: Tensor | None = None,
    documents_q: Tensor | None = None,
    documents_k: Tensor | None = None,
    causal: bool = True,
    all_seen: bool = False,
) -> Tensor:
    """Attention: softmax(softcap(scale q k) + bias) v over the keys that each query sees; (B, H, T, V).

    Args:
        q_BHTK, k_BGSK, v_BGSV: queries, keys and values; query head h uses key head h // (H / G).
        kernel: a name that `choose` returned.
        scale: factor of the scores.
        window: keys that a query sees, itself included; None: all earlier ones.
        slopes_H: ALiBi's slopes. bias_HTS: any other term to add to the scores.
        sinks_H: a logit of each head that joins its softmax, uncapped, and brings no value.
        softcap: scores become softcap * tanh(score / softcap), before any bias.
        dropout: share of the weights dropped, by the row keys `keys_B` and `salt`; off without keys.
        positions_q, positions_k: (T,) and (S,) int64, where keys come from a cache, or (B, T) and (B, S) or (S,);
            without them the queries are the last T of the S tokens.
        documents_q, documents_k: (B, T) and (B, S): a query sees only keys of its own document.
        causal: whether a query sees no later key.
        all_seen: whether it is known that every query sees every key.
    """
    view = KeyView(
        window, slopes_H, bias_HTS, positions_q, positions_k, documents_q, documents_k, sinks_H, causal, all_seen
    )
    return KERNELS[kernel].run(q_BHTK, k_BGSK, v_BGSV, view, scale, softcap, dropout, keys_B, salt)
