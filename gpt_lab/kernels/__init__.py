"""Attention kernels: `attention(q, k, v, kernel=...)` computes, `choose` decides once per layer and says why."""

from gpt_lab.kernels.base import KernelChoice, KernelRequest
from gpt_lab.kernels.choose import attention, available, choose

__all__ = ["KernelChoice", "KernelRequest", "attention", "available", "choose"]
