"""Attention kernels: `attention(q, k, v, kernel=...)` computes, `choose` decides once per layer and says why."""

from gpt_lab.kernels.base import Choice, Request
from gpt_lab.kernels.choose import attention, available, choose

__all__ = ["Choice", "Request", "attention", "available", "choose"]
