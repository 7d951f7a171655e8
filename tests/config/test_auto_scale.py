"""`scale=auto`: the laws in a composed config, what somebody states, the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gpt_lab.cli import train as cli
from gpt_lab.config import auto_scale, composition
from gpt_lab.config.schema import RunConfig
from gpt_lab.console import terminal
from gpt_lab.errors import ConfigError
from gpt_lab.study import cells, sweep_file

compose = composition.Composer().compose
AT_FOUR = {
    "scale.width": 256,
    "scale.heads": 4,
    "tokenizer.vocab_size": 1728,
    "budget.tokens": 80_609_280,
    "batch.tokens": 66_560,
    "optim.lr": 0.002,
    "optim.weight_decay": 1.85,
}
"""By hand: M = 12 x 4 x 256^2 = 3,145,728, N = M + 2 x 1728 x 256 = 4,030,464, D = 20 N."""


def auto(*words: str) -> RunConfig:
    return compose(["scale=auto", *words])


def rows(*words: str) -> dict[str, auto_scale.LawRow]:
    return {row.key: row for row in auto_scale.rows(auto(*words))}


def test_what_the_laws_say() -> None:
    flat = auto("scale.depth=4").flat()
    assert {key: flat[key] for key in AT_FOUR} == AT_FOUR
    assert flat["budget.steps"] is None
    found = rows("scale.depth=4")
    assert {key: row.value for key, row in found.items()} == AT_FOUR
    assert all(row.source and not row.given for row in found.values())
    assert auto_scale.rows(compose([])) == []


def test_what_is_given_wins_and_the_laws_go_on_from_it() -> None:
    found = rows("scale.width=128", "batch.tokens=4096", "optim.lr=0.01")
    assert {key for key, row in found.items() if row.given} == {"scale.width", "batch.tokens", "optim.lr"}
    assert found["scale.width"].says == 256 and found["scale.heads"].value == 2
    assert found["optim.lr"].says == 0.004, "at the width that the default was tuned at"
    matrices, vocabulary = 12 * 4 * 128**2, found["tokenizer.vocab_size"].value
    assert found["budget.tokens"].value == 20 * (matrices + 2 * vocabulary * 128)
    assert found["optim.weight_decay"].value == pytest.approx(
        4096 / (0.01 * found["budget.tokens"].value * 1.084 * 20**-0.527), rel=5e-3
    )


@pytest.mark.parametrize(
    "words, batch, decay",
    [
        (["budget.tokens=2e6"], "2048 x 0.0306 D^0.383", True),
        (["budget.steps=100"], "2048 x 0.0306 D^0.383", True),
        (["budget.flops=1e12"], "2048 x 0.0306 D^0.383", True),
        (["budget.seconds=10"], "no law: budget.seconds has no D", False),
        (["optim=muon"], "2048 x 0.0306 D^0.383", False),
        (["optim=adam"], "2048 x 0.0306 D^0.383", False),
    ],
)
def test_where_no_law_speaks(words: list[str], batch: str, decay: bool) -> None:
    found = rows(*words)
    assert found["batch.tokens"].law == batch
    assert found["optim.weight_decay"].law.startswith("batch / " if decay else "no law")
    cfg = auto(*words)
    kind = [key for key, value in cfg.to_dict()["budget"].items() if value is not None]
    assert len(kind) == 1 and found[f"budget.{kind[0]}"].given == any(word.startswith("budget.") for word in words)
    if batch.startswith("no law"):
        assert cfg.batch.tokens == 2048
    if not decay:
        assert cfg.optim["weight_decay"] == compose(words).optim["weight_decay"]


def test_of_muon_neither_rate_nor_decay_is_set() -> None:
    assert auto("optim=muon").optim == compose(["optim=muon"]).optim


def test_with_mup_the_init_divides_the_rate() -> None:
    """So that matrices have the same rate and the same decay as without."""
    plain, mup = auto(), auto("init=mup")
    assert mup.optim["lr"] == 0.004 and plain.optim["lr"] == 0.002
    assert mup.optim["weight_decay"] == plain.optim["weight_decay"]


@pytest.mark.parametrize("word, known", [("tokenizer=byte", 0), ("data=synthetic", 1), ("model=gqa_rope", 1)])
def test_which_parameters(word: str, known: int) -> None:
    """The embedding counts where its size is a setting, twice where the head has weights of its own."""
    cfg = auto(word)
    vocabulary = cfg.data["symbols"] if word == "data=synthetic" else cfg.tokenizer.get("vocab_size")
    copies = known * (1 if cfg.model.tied else 2)
    assert cfg.budget.tokens == 20 * (12 * 4 * 256**2 + copies * (vocabulary or 0) * 256)
    assert ("tokenizer.vocab_size" in {row.key for row in auto_scale.rows(cfg)}) == (word == "model=gqa_rope")


def test_what_an_experiment_states_stays() -> None:
    cfg, own = auto("+experiment=shakespeare_char_cpu"), compose(["+experiment=shakespeare_char_cpu"])
    for key in ("optim.lr", "optim.weight_decay", "batch.tokens", "budget.steps"):
        assert cfg.flat()[key] == own.flat()[key]
    assert (own.scale.width, cfg.scale.width) == (128, 256), "its scale is swapped for this one"


def test_what_a_project_states_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config.yaml, and a preset of its own that the command line names."""
    (tmp_path / "model").mkdir()
    (tmp_path / "config.yaml").write_text("batch: {tokens: 4096}\n")
    (tmp_path / "model" / "mine.yaml").write_text("# @package _global_\n# Mine\noptim: {lr: 0.01}\n")
    monkeypatch.setenv("GPT_LAB_CONF", str(tmp_path))
    cfg = composition.compose(["scale=auto", "model=mine"])
    assert (cfg.batch.tokens, cfg.optim["lr"], cfg.scale.width) == (4096, 0.01, 256)


@pytest.mark.parametrize(
    "words, said",
    [
        (["scale.depth=x"], "scale.depth"),
        (["scale.depth=0"], "scale.depth"),
        (["scale.width=null", "scale.heads=5"], "scale.heads=5 does not divide scale.width=256"),
        (["budget.tokens=-1"], "budget.tokens"),
        (["batch.tokens=1.5"], "batch.tokens"),
        (["optim.lr=0"], "optim.lr"),
        (["tokenizer.vocab_size=many"], "tokenizer.vocab_size"),
        (["budget.tokens=1e6", "budget.steps=5"], "exactly one of budget.steps"),
        (["optim=nosuch"], "nosuch"),
    ],
)
def test_wrong_values_are_refused_as_elsewhere(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        auto(*words)


def test_cells_of_a_sweep_see_the_same() -> None:
    raw = {
        "method": "grid",
        "metric": {"name": "val/bpb"},
        "parameters": {"scale": {"value": "auto"}, "scale.depth": {"values": [2, 4]}, "seed": {"values": [0, 1]}},
    }
    sweep = sweep_file.read(Path("laws.yaml"), raw, [])
    found = cells.configs(cells.cells(sweep))
    assert len(found) == 4
    for cfg in found:
        alone = auto(f"scale.depth={cfg.scale.depth}", f"seed={cfg.seed}", f"study={cfg.study}")
        assert cfg.identity() == alone.identity()
        assert auto_scale.rows(cfg) == auto_scale.rows(alone)


@pytest.mark.parametrize("words", [[], ["scale.depth=12", "tokenizer=byte"], ["optim=muon", "budget.seconds=9"]])
def test_the_table_fits_into_a_terminal(words: list[str]) -> None:
    cfg = auto(*words)
    lines = terminal.plain(lambda console: auto_scale.show(cfg, console), 78)
    assert max(map(len, lines)) <= 78
    table = [line.split()[0] for line in lines if "." in line.split()[0]]
    assert table[: len(auto_scale.rows(cfg))] == [row.key for row in auto_scale.rows(cfg)], "in one piece"
    assert terminal.plain(lambda console: auto_scale.show(compose([]), console), 78) == []


def test_cfg_says_it_in_comments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["scale=auto", "scale.depth=4", "optim.lr=0.003", "--cfg"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^# optim\.lr +0\.003  given \(law: 0\.002\) +2203\.03466 T8$", text, re.MULTILINE)
    assert yaml.safe_load(text) == auto("scale.depth=4", "optim.lr=0.003").to_dict() | {"label": "auto-depth4-lr0.003"}
