"""Which kernel is chosen, and what a refusal says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from gpt_lab.errors import ConfigError
from gpt_lab.kernels import KernelRequest, available, choose
from gpt_lab.kernels import fused as fused_kernels
from gpt_lab.kernels.choose import CPU_MATH_CONTEXT

PLAIN = KernelRequest("cpu", "fp32", 4, 4, 32, 64)
HOPPER = dataclasses.replace(PLAIN, device="cuda", dtype="bf16", capability=(9, 0))


class TestChoice:
    @pytest.mark.parametrize("dtype", CPU_MATH_CONTEXT)
    def test_cpu_by_context(self, dtype: str) -> None:
        longest = CPU_MATH_CONTEXT[dtype]
        short = choose("auto", dataclasses.replace(PLAIN, dtype=dtype, context=longest))
        long = choose("auto", dataclasses.replace(PLAIN, dtype=dtype, context=longest + 1))
        assert (short.name, long.name) == ("math", "sdpa")
        assert str(longest) in short.reason and "\n" not in short.reason

    @pytest.mark.parametrize("changes", [{"softcap": 30.0}, {"dropout": 0.1}])
    def test_what_only_math_can(self, changes: dict[str, Any]) -> None:
        asked = dataclasses.replace(PLAIN, context=4096, **changes)
        assert choose("auto", asked).name == "math"
        with pytest.raises(ConfigError, match=r"kernel=sdpa cannot be used: .* \(kernels that can: auto, math\)"):
            choose("sdpa", asked)
        assert choose("math", asked).reason == "asked for"

    def test_unknown(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown kernel 'spda'; did you mean 'sdpa'\? \(allowed: auto, flash"):
            choose("spda", PLAIN)

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fused_kernels, "flash_version", lambda: None)
        line = r"^kernel=flash_attn is not installed: uv sync --extra cuda \(kernels that can: auto, math, sdpa\)$"
        with pytest.raises(ConfigError, match=line):
            choose("flash_attn", PLAIN)
        assert "uv sync --extra cuda" in str(available()["flash_attn"])

    def test_flex_on_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match=r"flex .*needs a CUDA device \(on CPU it has no backward pass\)"):
            choose("flex", PLAIN)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert {name for name, reason in available().items() if reason is None} == {"math", "sdpa"}

    @pytest.mark.parametrize(
        ("changes", "flash", "flex", "expected"),
        [
            ({}, True, True, "sdpa"),
            ({"window": 64}, True, True, "sdpa"),
            ({"window": 16}, True, True, "flash_attn"),
            ({"window": 16}, False, True, "flex"),
            ({"window": 16}, False, False, "sdpa"),
            ({"documents": True}, True, True, "flex"),
            ({"bias_kind": "tensor"}, True, True, "sdpa"),
            ({"bias_kind": "alibi"}, True, True, "flash_attn"),
            ({"softcap": 30.0}, True, True, "flash_attn"),
            ({"softcap": 30.0, "dtype": "fp32"}, True, True, "flex"),
            ({"softcap": 30.0}, False, False, "math"),
            ({"softcap": 30.0, "bias_kind": "tensor"}, True, True, "math"),
            ({"dropout": 0.1}, True, True, "math"),
            ({"dtype": "fp32"}, True, True, "sdpa"),
        ],
    )
    def test_cuda(
        self, changes: dict[str, Any], flash: bool, flex: bool, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fused_kernels.FlashAttention, "unavailable", lambda: None if flash else "missing")
        monkeypatch.setattr(fused_kernels.Flex, "unavailable", lambda: None if flex else "missing")
        monkeypatch.setattr(fused_kernels, "flash_version", lambda: 2)
        found = choose("auto", dataclasses.replace(HOPPER, **changes))
        assert found.name == expected
        assert found.reason and "\n" not in found.reason
        assert choose(expected, dataclasses.replace(HOPPER, **changes)).name == expected

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"device": "cpu"}, "CUDA device"),
            ({"dtype": "tf32"}, "bf16 or fp16, not tf32"),
            ({"capability": (7, 5)}, "capability 8.0"),
            ({"documents": True}, "document mask"),
            ({"bias_kind": "tensor"}, "bias"),
            ({"dropout": 0.1}, "dropout"),
            ({"head_dim": 320}, "up to 256, not 320"),
            ({"head_dim": 36}, "not 36"),
        ],
    )
    def test_flash_attn_refuses(self, changes: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fused_kernels.FlashAttention, "unavailable", lambda: None)
        monkeypatch.setattr(fused_kernels, "flash_version", lambda: 2)
        with pytest.raises(ConfigError, match=why):
            choose("flash_attn", dataclasses.replace(HOPPER, **changes))

    def test_flash_attn_4_refuses_alibi_and_older_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fused_kernels.FlashAttention, "unavailable", lambda: None)
        monkeypatch.setattr(fused_kernels, "flash_version", lambda: 4)
        for changes in ({"bias_kind": "alibi"}, {"capability": (8, 0)}):
            with pytest.raises(ConfigError, match="version 4|9.0"):
                choose("flash_attn", dataclasses.replace(HOPPER, **changes))
