"""The arm that a user means."""

from __future__ import annotations

import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.study.arm_lookup import arm_named

FACTORS = ("norm", "residual")
ARMS = [f"norm={norm}, residual={residual}" for norm in ("rmsnorm", "layernorm") for residual in ("pre", "post")]


@pytest.mark.parametrize(
    "asked", ["norm=layernorm, residual=post", "norm=layernorm,residual=post", "residual=post,norm=layernorm"]
)
def test_all_settings(asked: str) -> None:
    assert arm_named(asked, ARMS, FACTORS) == "norm=layernorm, residual=post"


def test_what_is_enough_to_tell_it_apart() -> None:
    arms = [*ARMS[:2], "norm=none, residual=pre"]
    assert arm_named("none", arms, FACTORS) == arm_named("norm=none", arms, FACTORS) == "norm=none, residual=pre"
    assert arm_named("residual=post", arms, FACTORS) == "norm=rmsnorm, residual=post"


@pytest.mark.parametrize("asked", ["layernorm", "norm=layernorm"])
def test_several(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"variant '{asked}' means several arms: norm=layernorm, residual=post; "):
        arm_named(asked, ARMS, FACTORS, "variant")


@pytest.mark.parametrize("asked", ["layernrm", "norm=layernorm, residual=past", "norm=layernorm, residual=pre, x=1"])
def test_none(asked: str) -> None:
    with pytest.raises(ConfigError, match="unknown arm .*did you mean 'norm=layernorm, residual="):
        arm_named(asked, ARMS, FACTORS)


def test_names_that_no_factors_made() -> None:
    """Of a study without factors, or joined from several: only the whole name is one."""
    assert arm_named("", [""], ()) == ""
    with pytest.raises(ConfigError, match="unknown arm 'x'"):
        arm_named("x", ["", "a=1"], ())
