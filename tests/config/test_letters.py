"""A pattern of letters over the layers: settings of each letter's part, checked, recorded and swept like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.config import checked, composition, setting_names
from gpt_lab.config.schema import misfit
from gpt_lab.cost.flops import cost
from gpt_lab.errors import ConfigError
from gpt_lab.frame import arms
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.study import cells, sweep_file
from gpt_lab.train.leak_probe import causality
from gpt_lab.train.precision import Precision
from tests.helpers import tiny_config
from tests.train.leak_probe import leaky

TWO = "attention=hybrid attention.pattern=MMMG attention.letters.M.name=mla attention.letters.M.kv_rank=32"
TWO += " attention.letters.G.name=gqa attention.letters.G.kv_heads=2 scale.depth=4"
MIXED = {"name": "hybrid", "pattern": "GM", "letters": {"G": {"name": "gqa", "kv_heads": 1}, "M": {"name": "mla"}}}


def test_they_are_settings_like_any_other() -> None:
    """Flat in the record, the options not given at their defaults, the letters not used left out; and read back."""
    cfg = composition.compose(TWO.split())
    flat = {key: value for key, value in cfg.flat().items() if key.startswith("attention.letters.")}
    assert flat["attention.letters.M.kv_rank"] == 32 and flat["attention.letters.M.q_rank"] is None
    assert flat["attention.letters.G.name"] == "gqa" and flat["attention.letters.G.kv_heads"] == 2
    assert {key.split(".")[2] for key in flat} == {"M", "G"}
    assert checked.from_dict(cfg.to_dict()) == cfg and misfit(cfg.flat()) == ""
    other = composition.compose([*TWO.split()[:-2], "attention.letters.G.kv_heads=4", "scale.depth=4"])
    assert cfg.identity() != other.identity()
    spare = composition.compose([*TWO.split(), "attention.letters.A.name=mqa"])
    assert spare.identity() == cfg.identity()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "attention.pattern=AG",
            "letter 'G' has no attention: add attention.letters.G.name=NAME",
        ),
        ("attention.letters.A.name=gqaa", "unknown attention 'gqaa'; did you mean 'gqa'?"),
        ("attention.letters.A.kvheads=2", "attention.letters.A: unknown key of attention=mha: 'kvheads'; did you mean"),
        (
            "attention.letters.A.window=2",
            "attention.letters.A: attention=mha has no option 'window': attention=",
        ),
        ("attention.letters.A.dropout=2", "attention.letters.A.dropout must be a number in [0, 1), not 2"),
        ("attention.letters.A.name=gqa attention.letters.A.kv_heads=3", "letters.A.kv_heads=3 does not divide"),
        ("attention.letters.AB.name=gqa", "attention.letters must be a mapping of letters, each to a part's name"),
        (
            "attention.letters.A=gqa",
            "attention.letters.A must be a part with its options, not 'gqa': choose with",
        ),
        ("attention.letters.B.kv_heads=2", "attention.letters.B must be a part with its options, not {'kv_heads': 2}"),
        ("attention.letters=5", "attention.letters must be a mapping, not 5"),
        ("attention.letters.A.name=hybrid", "attention.letters.A.name=hybrid: a letter cannot have letters of its own"),
        (
            "attention.pattern=AAAN scale.depth=3",
            "attention.pattern=AAAN: 3 layers (scale.depth) never come to",
        ),
        ("attention.pattern=''", "attention.pattern must be text of 1 to"),
        ("attention.letter.A.name=gqa", "unknown key of attention=hybrid: 'letter.A.name'"),
    ],
)
def test_what_cannot_be_is_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        composition.compose(["attention=hybrid", *given.split()])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_another_attention_has_no_letters() -> None:
    with pytest.raises(ConfigError, match="attention=mha has no option 'letters': attention=hybrid has it"):
        composition.compose(["attention=mha", "attention.letters.A.name=gqa"])


def test_a_letter_s_options_go_with_its_part() -> None:
    """As a preset's do when the command line swaps the part."""
    tree: dict[str, Any] = {"attention": {"letters": {"G": {"name": "sliding", "window": 4, "kv_heads": 2}}}}
    composition._swap_letter(tree, "attention.letters.G.name", "gqa")
    assert tree["attention"]["letters"]["G"] == {"name": "sliding", "kv_heads": 2}


def test_names_of_letters() -> None:
    assert setting_names.lettered("attention.letters.G.kv_heads") == "attention.kv_heads"
    assert setting_names.lettered("attention.letters.G.name") == "attention"
    for other in ("attention.kv_heads", "attention.letters", "attention.pattern.G.kv_heads", "optim.lr"):
        assert setting_names.lettered(other) == other
    assert composition.compose(["attention=hybrid", "attention.letters.A.qkv_bias=None"]).attention["letters"]["A"] == {
        **composition.compose(["attention=mha"]).attention
    }


def sweep(parameters: dict[str, Any]) -> Any:
    fixed = {"attention": {"value": "hybrid"}, "scale.depth": {"value": 4}}
    return sweep_file.read(Path("a.yaml"), {"method": "grid", "parameters": {**fixed, **parameters}, "gpt_lab": {}})


def test_sweeps_vary_patterns_parts_and_options() -> None:
    found = sweep(
        {
            "attention.letters.M.name": {"value": "mla"},
            "attention.pattern": {"values": ["MMMA", "A"]},
            "attention.letters.A.name": {"values": ["gqa", "sinks"]},
            "attention.letters.A.kv_heads": {"values": [1, 2]},
        }
    )
    composed = cells.configs(cells.cells(found))
    assert len({cfg.identity() for cfg in composed}) == len(composed) == 8
    assert composed[0].attention["letters"]["A"]["kv_heads"] == 1 and "M" not in composed[-1].attention["letters"]
    arm = cells.cells(found)[0].arm
    assert str(arm) == "attention.pattern=MMMA, attention.letters.A.name=gqa, attention.letters.A.kv_heads=1"


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("attention.letters.A.name", ["gqa", "gqaa"], "unknown attention.letters.A.name 'gqaa'; did you mean 'gqa'?"),
        ("attention.letters.A.kvheads", [1, 2], "unknown parameter 'attention.letters.A.kvheads'"),
        ("attention.letters.A.kv_heads", [1, "x"], "attention.letters.A.kv_heads must be a whole number"),
    ],
)
def test_sweep_files_are_checked(name: str, values: list[Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep({name: {"values": values}})
    assert said in str(caught.value)


def test_options_follow_from_a_letter_s_part() -> None:
    """Arms without a sweep file are told apart by the letter's choice, not by all that comes with it."""
    letters = {"gqa": {"name": "gqa"}, "mla": {"name": "mla"}}
    rows = [
        {"config": tiny_config(attention={"name": "hybrid", "pattern": "G", "letters": {"G": one}}).flat()}
        for one in letters.values()
    ]
    assert arms._independent(rows, arms._different(rows)) == ["attention.letters.G"]


def test_a_layer_is_as_with_its_attention_everywhere() -> None:
    """The same names, so the same initial values, costs and kernels."""
    hybrid, gqa, mla = (
        GPT(tiny_config(attention=one), 61) for one in (MIXED, {"name": "gqa", "kv_heads": 1}, {"name": "mla"})
    )
    for model in (hybrid, gqa, mla):
        initialize(model, tiny_config())
    for layer, plain in enumerate((gqa, mla)):
        expected, found = plain.blocks[layer].state_dict(), hybrid.blocks[layer].state_dict()
        assert expected.keys() == found.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    prices = [cost(tiny_config(attention=one), 61) for one in (MIXED, {"name": "gqa", "kv_heads": 1}, {"name": "mla"})]
    assert 2 * prices[0].non_embedding == prices[1].non_embedding + prices[2].non_embedding
    assert len(hybrid.choose_kernels("cpu", "fp32")) == 2


def test_the_probe_names_the_letter_s_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in registry._scan("tests.train.leak_probe.leaky", Path(leaky.__file__)):
        monkeypatch.setitem(registry.index()[part.kind], part.name, part)  # type: ignore[arg-type]
    letters = {"A": {"name": "mha"}, "R": {"name": "roll"}}
    cfg = tiny_config(attention={"name": "hybrid", "pattern": "AR", "letters": letters})
    with pytest.raises(ConfigError, match="^attention=roll sees the future"):
        causality.check(cfg, 61, "cpu", Precision("fp32", "", "cpu"))
    assert not causality._shipped(cfg) and causality._shipped(tiny_config(attention=MIXED))
