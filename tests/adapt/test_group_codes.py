"""Weights in few bits: against numpy by the definition, the bound of the error, and torchao's codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt_lab.adapt import group_codes


def by_definition(weight: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Each weight as the nearest whole number of its group's scale, and the scales of all weights."""
    largest = 2 ** (bits - 1) - 1
    found, scales = np.zeros_like(weight), np.zeros_like(weight)
    for row in range(len(weight)):
        for start in range(0, weight.shape[1], group):
            part = weight[row, start : start + group]
            scale = np.abs(part).max() / np.float32(largest)
            scales[row, start : start + group] = scale
            found[row, start : start + group] = np.rint(part / scale) * scale if scale else 0
    return found, scales


@pytest.mark.parametrize(("bits", "group", "columns"), [(8, 16, 48), (4, 16, 48), (4, 5, 13), (4, 64, 7), (8, 64, 7)])
def test_decoded_is_the_definition(bits: int, group: int, columns: int) -> None:
    weight = torch.randn(6, columns, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    kept = group_codes.encode(weight, bits, group)
    decoded = group_codes.decode(kept["codes"], kept["scales"], kept["format"]).numpy()
    wanted, scales = by_definition(weight.numpy(), bits, min(group, columns))
    np.testing.assert_allclose(decoded, wanted, rtol=1e-6, atol=1e-7)
    assert (np.abs(decoded - weight.numpy()) <= scales / 2 * (1 + 1e-5)).all()
    assert kept["codes"].nbytes <= 6 * (-(-columns // group) + 1) * group * bits / 8
    again = group_codes.encode(torch.from_numpy(decoded), bits, group)
    assert torch.equal(again["codes"], kept["codes"]), "what was rounded once stays"


def test_codes_are_those_of_torchao() -> None:
    from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    block = (1, 32)
    scale, zero = choose_qparams_affine(
        weight, MappingType.SYMMETRIC_NO_CLIPPING_ERR, block, torch.int8, -127, 127, eps=1e-12
    )
    theirs = quantize_affine(weight, block, scale, zero, torch.int8, -127, 127)
    kept = group_codes.encode(weight, 8, 32)
    torch.testing.assert_close(kept["scales"], scale.view(8, 2))
    assert torch.equal(kept["codes"], theirs)
