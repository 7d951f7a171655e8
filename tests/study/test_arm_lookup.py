"""The arm that a user means."""

from __future__ import annotations

import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.study.arm_lookup import find_arm

ARMS = {
    f"norm={norm}, residual={residual}": {"norm": norm, "residual": residual}
    for norm in ("rmsnorm", "layernorm")
    for residual in ("pre", "post")
}


@pytest.mark.parametrize(
    "asked", ["norm=layernorm, residual=post", "norm=layernorm,residual=post", "residual=post,norm=layernorm"]
)
def test_all_settings(asked: str) -> None:
    assert find_arm(asked, ARMS) == "norm=layernorm, residual=post"


def test_what_is_enough_to_tell_it_apart() -> None:
    arms = {arm: ARMS[arm] for arm in list(ARMS)[:2]} | {"norm=none, residual=pre": {"norm": "none", "residual": "pre"}}
    assert find_arm("none", arms) == find_arm("norm=none", arms) == "norm=none, residual=pre"
    assert find_arm("residual=post", arms) == "norm=rmsnorm, residual=post"


def test_values_as_the_command_line_writes_them() -> None:
    arms = {"optim.lr=0.003": {"optim.lr": 0.003}, "optim.lr=null": {"optim.lr": None}}
    assert find_arm("0.003", arms) == "optim.lr=0.003" and find_arm("null", arms) == "optim.lr=null"


@pytest.mark.parametrize("asked", ["layernorm", "norm=layernorm"])
def test_several(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"variant '{asked}' means several arms: norm=layernorm, residual=post; "):
        find_arm(asked, ARMS, "variant")


@pytest.mark.parametrize("asked", ["layernrm", "norm=layernorm, residual=past", "norm=layernorm, residual=pre, x=1"])
def test_none(asked: str) -> None:
    with pytest.raises(ConfigError, match="unknown arm .*did you mean 'norm=layernorm, residual="):
        find_arm(asked, ARMS)


def test_names_that_no_factors_made() -> None:
    """Of a study without factors, or joined from several: only the whole name is one."""
    assert find_arm("", {"": {}}) == ""
    with pytest.raises(ConfigError, match="unknown arm 'x'"):
        find_arm("x", {"": {}, "a=1": {}})
