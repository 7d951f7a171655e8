"""Arms as values, their names, and the arm that a user means."""

from __future__ import annotations

import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.study.arm_names import find_arm, short_names
from gpt_lab.study.design import Design, Settings
from tests.study.arms import settings as arm

ARMS = [arm(f"norm={norm}, residual={residual}") for norm in ("rmsnorm", "layernorm") for residual in ("pre", "post")]


def test_equal_is_what_the_command_line_writes_alike() -> None:
    design = Design("x", factors=("optim.lr", "norm"))
    one, other = (design.arm({"norm": "none", "optim.lr": lr, "seed": 0}) for lr in (0.001, "0.001"))
    assert one == other and hash(one) == hash(other) and str(one) == "optim.lr=0.001, norm=none"
    assert dict(one.given)["optim.lr"] == 0.001 and one.text("norm") == "none" and one.text("seed", "no") == "no"
    assert one.without({"norm"}) == design.arm({"optim.lr": 0.001}) != one
    assert not design.tuning({"optim.lr": 1}) and str(Settings()) == ""


def test_values_that_look_like_settings_stay_values() -> None:
    first, second = (Settings((("a", a), ("b", b))) for a, b in (("1, b=2", "3"), ("1", "2, b=3")))
    assert first != second and str(first) == "a='1, b=2', b=3" and str(second) == "a=1, b='2, b=3'"
    for asked in ("a='1, b=2', b=3", "a=1, b=2", "1, b=2"):
        assert find_arm(asked, [first, second]) == first


def test_short_names_tell_arms_apart() -> None:
    rope, none = arm("position=rope"), arm("position=none")
    assert short_names([rope, none]) == {rope: "rope", none: "none"}
    assert list(short_names([arm("attention=mqa, scale.depth=4")]).values()) == ["mqa · depth=4"]
    assert list(short_names([arm("attention=mqa, position=none")]).values()) == ["mqa · position=none"]
    clash = [Settings((("a.x", x), ("b.x", y))) for x, y in (("1 · 2", "3"), ("1", "2 · 3"))]
    assert list(short_names(clash).values()) == ["a.x=1 · 2, b.x=3", "a.x=1, b.x=2 · 3"]
    assert short_names([Settings()]) == {Settings(): ""}


@pytest.mark.parametrize(
    "asked",
    [
        "norm=layernorm, residual=post",
        "norm=layernorm,residual=post",
        "residual=post,norm=layernorm",
        "layernorm · post",
    ],
)
def test_all_settings(asked: str) -> None:
    assert find_arm(asked, ARMS) == arm("norm=layernorm, residual=post")


def test_what_is_enough_to_tell_it_apart() -> None:
    arms = [*ARMS[:2], arm("norm=none, residual=pre")]
    assert find_arm("none", arms) == find_arm("norm=none", arms) == arms[-1]
    assert find_arm("residual=post", arms) == ARMS[1]


def test_values_as_the_command_line_writes_them() -> None:
    arms = [Settings((("optim.lr", value),)) for value in (0.003, None)]
    assert find_arm("0.003", arms) == arms[0] and find_arm("null", arms) == arms[1]


@pytest.mark.parametrize("asked", ["layernorm", "norm=layernorm"])
def test_several(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"variant '{asked}' means several arms: norm=layernorm, residual=post; "):
        find_arm(asked, ARMS, "variant")


@pytest.mark.parametrize("asked", ["layernrm", "norm=layernorm, residual=past", "norm=layernorm, residual=pre, x=1"])
def test_none(asked: str) -> None:
    with pytest.raises(ConfigError, match="unknown arm .*did you mean 'norm=layernorm, residual="):
        find_arm(asked, ARMS)


def test_a_study_without_factors() -> None:
    assert find_arm("", [Settings()]) == Settings()
    with pytest.raises(ConfigError, match="unknown arm 'x'"):
        find_arm("x", [Settings(), arm("a=1")])
