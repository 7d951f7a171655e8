"""Every case of parity, and that every part of the model has one."""

from __future__ import annotations

import pytest

from tests.parity.case import TOLERANCE, Case, cases, largest

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}-{case.options or case.reference}")
def test_outputs_and_gradients(case: Case) -> None:
    found = case.run()
    assert found.outputs and found.gradients
    assert max(ours.std().item() for ours, _ in found.outputs) > 0.1, "too small for a mistake to show"
    assert largest(found.outputs) <= TOLERANCE
    assert largest(found.gradients) <= TOLERANCE * max(
        1.0, *(theirs.abs().max().item() for _, theirs in found.gradients)
    )
