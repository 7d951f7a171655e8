"""gpt_lab.within: a baseline for each value of a factor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt_lab.config import composition
from gpt_lab.errors import ConfigError
from gpt_lab.plan import cost_table, dry_run
from gpt_lab.study import sweep_file
from gpt_lab.study.sweep import Sweep
from gpt_lab.validity.planned import Side
from tests.study.arms import settings

PARAMETERS: dict[str, Any] = {
    "scale": {"values": ["tiny", "nano"]},
    "position": {"values": ["rope", "alibi"]},
    "seed": {"values": [0, 1, 2]},
}


def read(block: dict[str, Any], **more: Any) -> Sweep:
    return sweep_file.read(Path("x.yaml"), {"method": "grid", "parameters": PARAMETERS, "gpt_lab": block, **more})


def test_the_baseline_names_the_other_factors() -> None:
    design = read({"within": ["scale"], "baseline": {"position": "rope"}}).design
    assert (design.factors, design.within, design.baseline) == (("scale", "position"), ("scale",), {"position": "rope"})
    for scale in ("tiny", "nano"):
        for position in ("rope", "alibi"):
            assert design.reference({"scale": scale, "position": position}) == settings(f"scale={scale}, position=rope")
    plain = read({"baseline": {"scale": "nano", "position": "rope"}}).design
    assert (
        plain.reference({"scale": "tiny", "position": "alibi"})
        == plain.baseline_arm
        == settings("scale=nano, position=rope")
    )


@pytest.mark.parametrize(
    "block, said",
    [
        ({"within": "scale"}, "gpt_lab.within must be a list of parameters"),
        ({"within": ["scal"]}, "unknown factor in gpt_lab.within: 'scal'; did you mean 'scale'"),
        ({"within": ["seed"]}, "unknown factor in gpt_lab.within: 'seed'"),
        ({"within": ["scale", "position"]}, "names every factor: nothing is left to compare"),
        ({"within": ["scale"], "baseline": {"scale": "tiny", "position": "rope"}}, "scale is in gpt_lab.within"),
        ({"baseline": {"position": "rope"}}, r"scale is missing .*gpt_lab.within: \[scale\]"),
        (
            {
                "within": ["scale"],
                "baseline": {"position": "rope"},
                "exclude": [{"scale": "nano", "position": "rope"}],
            },
            "baseline scale=nano, position=rope is none of the arms",
        ),
    ],
)
def test_what_cannot_be_is_one_line(block: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(block)
    assert "\n" not in str(caught.value)


def test_the_plan_compares_each_arm_with_its_own_baseline() -> None:
    """Scales differ in size by design: only an arm that differs from its own scale's baseline is worth a word."""
    sweep = read({"within": ["scale"], "baseline": {"position": "rope"}})
    arms = [
        cost_table.ArmPlan(
            settings(name), 3, 0, 1, 3, size, size, 6 * size, 1e6, 6e6 * size, 1.0, baseline=settings(baseline)
        )
        for name, size, baseline in (
            ("scale=tiny, position=rope", 1000, "scale=tiny, position=rope"),
            ("scale=tiny, position=alibi", 1000, "scale=tiny, position=rope"),
            ("scale=nano, position=rope", 5000, "scale=nano, position=rope"),
            ("scale=nano, position=alibi", 6000, "scale=nano, position=rope"),
        )
    ]
    cfg = composition.compose()
    sides = [Side(arm.arm, (), cfg, "", arm.parameters, arm.tokens, arm.flops) for arm in arms]
    (said,) = dry_run.warnings(sweep, arms, sides)
    assert said.startswith("scale=nano, position=alibi: +20.0% parameters against the baseline")
