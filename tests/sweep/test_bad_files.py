"""A bad sweep file is one clear line that names the file and the key, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.study import cells, sweep_file

HEAD = "method: grid\n"
SEEDS = "parameters:\n  seed: {values: [0, 1]}\n"


def grid(*lines: str, more: str = "") -> str:
    """A grid over these parameters, and more top-level text."""
    return HEAD + "parameters:\n" + "".join(f"  {line}\n" for line in lines) + more


def block(*lines: str) -> str:
    return "gpt_lab:\n" + "".join(f"  {line}\n" for line in lines)


POSITION = "position: {values: [rope, alibi]}"
SEED = "seed: {values: [0, 1]}"
LR = "optim.lr: {values: [1.0e-3, 2.0e-3]}"
DRAWN = "run_cap: 4\nmetric: {name: val/bpb}\n"

BAD = {
    "empty": ("", "is empty"),
    "not a mapping": ("- position\n- seed\n", "must be a mapping"),
    "another program's name": (grid("learning_rate: {values: [0.1]}"), "did you mean 'optim.lr'?"),
    "a name without its section": (grid("lr: {values: [0.1]}"), "did you mean 'optim.lr'?"),
    "a misspelt section": (grid("bugdet.steps: {values: [9]}"), "did you mean 'budget.steps'?"),
    "the lab's key on top": (HEAD + SEEDS + "baseline: {seed: 0}\n", "line 4: baseline belongs under gpt_lab:, two"),
    "a parameter on top": ("method: grid\nparameters:\nseed: {values: [0]}\n", "line 3: seed belongs under parameters"),
    "a goal on top": (HEAD + SEEDS + "goal: minimize\n", "goal belongs under metric:"),
    "values on top": (HEAD + "parameters:\n  seed:\nvalues: [0]\n", "values belongs under the name of a parameter"),
    "W&B's key in the block": (HEAD + SEEDS + block("metric: {name: val/bpb}"), "metric belongs to the top level"),
    "a parameter in the block": (HEAD + SEEDS + block("optim.lr: 1"), "optim.lr belongs under parameters:"),
    "the lab's key as a parameter": (grid(SEED, "sesoi: 0.01"), "sesoi belongs under gpt_lab:"),
    "an indented line": ("method: grid\n  metric: {}\n" + SEEDS, "line 2: a colon where none can be: lines of one"),
    "a shallow line": (grid(" " + SEED, POSITION), "line 4: it does not stand in the column of its neighbours"),
    "no space after a colon": ("method:grid\n" + SEEDS, "a space follows the colon of each key"),
    "no colon": ("method: grid\nparameters\n  " + SEED, "line 3: a line without `key: value`"),
    "no key at all": ("method grid", "a line without `key: value`"),
    "an open quote": ("method: grid\nname: 'x\n" + SEEDS, "line 2: a quote that is not closed by line"),
    "an unquoted sign": ("method: grid\nname: @x\n", "line 2: a value cannot begin with this character"),
    "deep brackets": ("a: " + "[" * 50_000, "nested too deep"),
    "thousands of digits": ("a: 1\nb: " + "9" * 5000, "line 2: a whole number of more than 64 bits"),
    "no text": ("a: \0", "not text: character 3"),
    "a target that is no number": (HEAD + SEEDS + "metric: {name: val/bpb, target: .nan}\n", "finite number, not nan"),
    "a tab": ("method: grid\nparameters:\n\tseed: {values: [0]}\n", "line 3: a tab"),
    "torn": ("method: grid\nparameters: {seed: {values: [0, 1}\n", "line 2"),
    "key twice": (HEAD + SEEDS + SEEDS, "line 4: 'parameters' is given twice"),
    "parameter twice": (grid(SEED, SEED), "'seed' is given twice"),
    "unknown key": (HEAD + SEEDS + "metrics_: 1\n", "unknown key 'metrics_'; did you mean 'metric'?"),
    "no method": (SEEDS, "method is missing"),
    "unknown method": ("method: gird\n" + SEEDS, "unknown method 'gird'; did you mean 'grid'?"),
    "no parameters": (HEAD, "parameters is missing"),
    "empty parameters": (HEAD + "parameters:\n", "parameters is empty: fill it in or leave it out"),
    "no parameter": (HEAD + "parameters: {}\n", "parameters is missing or empty"),
    "empty metric": (HEAD + SEEDS + "metric:\n", "metric is empty"),
    "empty part of the block": (HEAD + SEEDS + block("zip:"), "gpt_lab.zip is empty"),
    "negative seeds": (grid("seed: {min: -1, max: 3}"), "seed must be a whole number >= 0, not -1"),
    "a nuisance that is no name": (grid(SEED, more=block("nuisance: [[seed]]")), "unknown swept parameter"),
    "far too many draws": ("method: random\nrun_cap: 1000000000\n" + SEEDS, "run_cap must be at most 100,000"),
    "an effect without an end": (grid(SEED, more=block("sesoi: .inf")), "gpt_lab.sesoi must be a number above 0"),
    "nothing swept": (grid("seed: {value: 0}"), "no parameter is swept"),
    "unknown parameter": (grid("positon: {values: [rope]}"), "unknown parameter 'positon'; did you mean 'position'?"),
    "unknown option": (grid("optim.lrr: {values: [0.1]}"), "unknown parameter 'optim.lrr'; did you mean 'optim.lr'?"),
    "slash in a name": (grid("model/position: {values: [rope]}"), "W&B takes no slash"),
    "part by its name key": (grid("optim.name: {values: [adamw]}"), "with the parameter 'optim'"),
    "nested parameters": (grid("optim: {parameters: {lr: {values: [0.1]}}}"), "nested parameters"),
    "value without mapping": (grid("seed: 3", POSITION), "write seed: {value: 3}"),
    "list without mapping": (grid("seed: [0, 1]"), "write seed: {values: [0, 1]}"),
    "unknown spec key": (grid("seed: {value_s: [0]}"), "unknown key of seed: 'value_s'; did you mean 'values'?"),
    "value and values": (grid("seed: {value: 0, values: [1]}"), "both value and values"),
    "no values": (grid("seed: {values: []}"), "values of seed is empty"),
    "empty spec": (grid("seed: {}"), "seed needs value, values, or min and max"),
    "values no list": (grid("seed: {values: 3}"), "must be a list"),
    "value twice": (grid("optim.lr: {values: [0.001, 1.0e-3]}"), "has 0.001 twice"),
    "1e-5 is text": (grid("optim.lr: {values: [1e-5, 1.0e-4]}"), "YAML reads 1e-5 as text: write 1.0e-5"),
    "quoted number": (grid('seed: {values: ["1", 2]}'), "'1' in quotes is text: write 1"),
    "None is text": (grid('batch.micro: {values: ["None", 2]}'), 'write "null"'),
    "truth value as a part": (grid("norm: {values: [no, rmsnorm]}"), "YAML reads yes, no, on, off as truth values"),
    "truth value as a number": (grid("seed: {values: [true, 1]}"), "seed must be a whole number"),
    "unknown part": (grid("position: {values: [rope, alibbi]}"), "unknown position 'alibbi'; did you mean 'alibi'?"),
    "out of range": (grid("model.dropout: {values: [0.0, 1.5]}"), "model.dropout must be a number in [0, 1), not 1.5"),
    "no whole number": (grid("scale.depth: {values: [2, 2.5]}"), "scale.depth must be a whole number"),
    "changes no result": (grid("tracker: {values: [none, wandb]}"), "tracker changes no result of a run"),
    "a study that is swept": (grid("study: {values: [a, b]}"), "study changes no result"),
    "force": (grid(SEED, "force: {value: true}"), "'force' cannot be set in a sweep"),
    "min above max": (grid("seed: {min: 5, max: 1}"), "min 5 must be below max 1"),
    "grid over reals": (grid("optim.lr: {min: 0.1, max: 0.2}"), "a grid cannot list the values of uniform"),
    "unknown distribution": (grid("seed: {distribution: unifrom, min: 0, max: 3}"), "did you mean 'uniform'?"),
    "foreign key": (grid("optim.lr: {distribution: normal, mu: 1, min: 0}"), "normal takes no min"),
    "a distribution of parts": (
        "method: random\n" + DRAWN + "parameters:\n  position: {min: 0, max: 1}\n",
        "is a choice of parts",
    ),
    "log of nothing": (
        "method: random\n"
        + DRAWN
        + "parameters:\n  optim.lr: {distribution: log_uniform_values, min: 0.0, max: 0.1}\n",
        "needs a min above 0",
    ),
    "draws that no run takes": (
        "method: random\n" + DRAWN + "parameters:\n  optim.lr: {distribution: normal}\n",
        "optim.lr must be a number > 0",
    ),
    "the logarithm of nothing": (
        "method: random\n" + DRAWN + "parameters:\n  optim.lr: {distribution: log_uniform, min: 1, max: 1000000}\n",
        "gives numbers that are too large; min, max, mu are natural logarithms",
    ),
    "a metric that is a number": (HEAD + SEEDS + "metric: 3\n", "metric must be a mapping"),
    "probabilities": (
        "method: random\n" + DRAWN + "parameters:\n  seed: {values: [0, 1], probabilities: [0.5, 0.6]}\n",
        "2 numbers that sum to 1",
    ),
    "random without an end": ("method: random\n" + SEEDS, "say how many runs with run_cap"),
    "bayes over seeds": ("method: bayes\n" + DRAWN + SEEDS, "would choose the luckiest"),
    "bayes without a metric": ("method: bayes\nrun_cap: 3\nparameters:\n  " + LR + "\n", "metric is missing"),
    "unknown metric": (HEAD + SEEDS + "metric: {name: val/bbp}\n", "did you mean 'val/bpb'?"),
    "unknown goal": (HEAD + SEEDS + "metric: {name: val/bpb, goal: minimise}\n", "did you mean 'minimize'?"),
    "goal the wrong way": (HEAD + SEEDS + "metric: {name: val/bpb, goal: maximize}\n", "must be minimize"),
    "run_cap": (HEAD + SEEDS + "run_cap: 0\n", "run_cap must be a whole number above 0"),
    "early_terminate of arms": (
        grid(POSITION, SEED, more="metric: {name: val/bpb}\nearly_terminate: {type: hyperband, min_iter: 2}\n"),
        "name that in gpt_lab.nuisance",
    ),
    "early_terminate type": (
        grid(LR, more="metric: {name: val/bpb}\nearly_terminate: {type: median, min_iter: 2}\n"),
        "unknown early_terminate type 'median'",
    ),
    "command without arguments": (HEAD + SEEDS + "command: [uv, run, train]\n", 'have the word "${args_no_hyphens}"'),
    "command with hyphens": (HEAD + SEEDS + 'command: [uv, run, train, "${args}"]\n', "${args} gives train words"),
    "two studies": (
        HEAD + SEEDS + 'command: [uv, run, train, study=a, "${args_no_hyphens}"]\n' + block("study: b"),
        "the study is 'a' in command, and gpt_lab.study is 'b'",
    ),
    "study of another file": (
        HEAD + SEEDS + 'command: [uv, run, train, study=mine, "${args_no_hyphens}"]\n',
        ("the study is 'mine' in command, and the file's name says 'sweep': runs made by W&B's agent and by `sweep` "
         "would lie apart. Write gpt_lab: {study: mine}, or study=sweep in command"),
    ),
    "set twice": (
        grid(SEED, "eval.every: {value: 5}", more='command: [train, eval.every=3, "${args_no_hyphens}"]\n'),
        "eval.every is set in command and in parameters",
    ),
    "unknown block key": (HEAD + SEEDS + block("base_line: {}"), "did you mean 'baseline'?"),
    "block is text": (HEAD + SEEDS + "gpt_lab: yes please\n", "gpt_lab must be a mapping"),
    "baseline is no arm": (grid(POSITION, SEED, more=block("baseline: {position: learned}")), "unknown value"),
    "baseline of the pair": (grid(POSITION, SEED, more=block("baseline: {seed: 0}")), "unknown factor"),
    "half a baseline": (
        grid(POSITION, "norm: {values: [none, rmsnorm]}", more=block("baseline: {position: rope}")),
        "norm is missing",
    ),
    "baseline excluded": (
        grid(POSITION, SEED, more=block("baseline: {position: rope}", "exclude: [{position: rope}]")),
        "is none of the arms",
    ),
    "pair is not swept": (grid(POSITION, more=block("pair: seed")), "unknown swept parameter in gpt_lab.pair"),
    "nuisance is not swept": (grid(SEED, more=block("nuisance: [optim.lr]")), "unknown swept parameter"),
    "nuisance is the pair": (grid(SEED, more=block("nuisance: [seed]")), "pairs the runs and cannot be tuned"),
    "alpha": (grid(SEED, more=block("alpha: 5")), "gpt_lab.alpha must be a number between 0 and 1"),
    "sesoi is text": (grid(SEED, more=block("sesoi: 1e-3")), "gpt_lab.sesoi: YAML reads 1e-3 as text: write 1.0e-3"),
    "no date": (grid("seed: {values: [2026-13-45]}"), "month must be in 1..12"),
    "bites its tail": (grid("seed: {values: &a [*a]}"), "recursive"),
    "zip of different lengths": (
        grid(
            "scale.depth: {values: [2, 4]}",
            "scale.width: {values: [64, 96, 128]}",
            more=block("zip: [[scale.depth, scale.width]]"),
        ),
        "equally many (scale.depth 2, scale.width 3)",
    ),
    "per outside the grid": (
        grid("optim: {values: [adamw, lion]}", LR, more=block("per: {optim.lr: {optim=adamw: [0.5]}}")),
        "unknown value of optim.lr",
    ),
    "per of another": (
        grid("optim: {values: [adamw, lion]}", LR, more=block("per: {optim.lr: {optim=muon: [1.0e-3]}}")),
        "unknown value of optim",
    ),
    "exclude what is not there": (grid(POSITION, SEED, more=block("exclude: [{seed: 7}]")), "unknown value of seed"),
    "exclude twice": (
        grid(POSITION, SEED, more=block("exclude: [{position: rope, seed: 0}]", "per: {seed: {position=rope: [1]}}")),
        "gpt_lab.exclude: no combination has position=rope, seed=0",
    ),
    "all excluded": (grid("seed: {values: [0]}", more=block("exclude: [{seed: 0}]")), "the grid is empty"),
    "too many": (grid("seed: {min: 0, max: 999}", "batch.seed: {min: 0, max: 999}"), "1,000,000 combinations"),
}  # fmt: skip

CANNOT_COMPOSE = {
    "window larger than context": (
        grid("attention: {value: sliding}", "attention.window: {values: [64, 512]}", SEED),
        "cell 1 (attention.window=512, seed=0): attention.window=512 is larger than scale.context=128",
    ),
    "heads that do not divide": (
        grid("scale.heads: {values: [4, 5]}", SEED),
        "cell 1 (scale.heads=5, seed=0): scale.heads=5 does not divide scale.width=128",
    ),
    "option of another part": (
        grid("optim: {values: [adamw, sgd]}", "optim.beta1: {values: [0.9]}"),
        "cell 1 (optim=sgd, optim.beta1=0.9): optim=sgd has no option 'beta1': optim=adafactor, optim=",
    ),
    "an option that its part alone has": (
        grid("attention.kv_heads: {values: [1, 2]}"),
        ("attention=value_residual have it, as in `attention=differential attention.kv_heads=...`"),
    ),
    "a tokenizer for data without text": (
        grid("tokenizer: {values: [bpe, char]}", "data: {value: synthetic}"),
        "tokenizer would change nothing: data=synthetic makes its own symbols",
    ),
    "rows that do not fit": (
        grid("batch.tokens: {values: [2048, 2000]}"),
        "cell 1 (batch.tokens=2000): batch.tokens=2000 is not a multiple of scale.context=128",
    ),
    "two budgets": (
        grid("budget.steps: {values: [10, 20]}", "budget.tokens: {value: 1.0e+5}"),
        "steps and tokens are set",
    ),
    "the same run twice": (
        grid("model: {values: [gqa_rope, llama]}", "attention: {value: gqa}", "model.tied: {value: true}"),
        "cells 0 (model=gqa_rope) and 1 (model=llama) are the same run",
    ),
}  # fmt: skip


def refusal(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        cells.cells(sweep_file.load(path))
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith(str(path)), "the line begins with the file"
    return line


@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path: Path, name: str) -> None:
    text, expected = BAD[name]
    assert expected in refusal(tmp_path / "sweep.yaml", text)


@pytest.mark.parametrize("name", CANNOT_COMPOSE)
def test_a_cell_that_no_run_could_have_is_named(tmp_path: Path, name: str) -> None:
    text, expected = CANNOT_COMPOSE[name]
    assert expected in refusal(tmp_path / "sweep.yaml", text)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(b"description: caf\xe9\nmethod: grid\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        sweep_file.load(path)


def test_a_file_that_is_no_sweep_is_not_printed(tmp_path: Path) -> None:
    secret = "0123456789abcdef" * 20_000
    for text in (
        f"{secret}: 1",
        f"method: {secret}",
        f"- {secret}",
        f'{{"{secret}": 1, "{secret}": 2}}',
        f"a: *{secret}",
    ):
        assert len(refusal(tmp_path / "sweep.yaml", text)) < len(str(tmp_path)) + 500
    assert "is that long" in refusal(tmp_path / "sweep.yaml", secret * 5)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown sweep 'pos_encc'; did you mean 'pos_enc'?"):
        sweep_file.load("pos_encc")
    with pytest.raises(ConfigError, match="unknown sweep 'normm'; did you mean 'norm'?"):
        sweep_file.load("screens/normm")
    with pytest.raises(ConfigError, match="no sweep file"):
        sweep_file.load(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="no sweep file"):
        sweep_file.load("x/" * 1500)
    with pytest.raises(ConfigError, match="is a folder"):
        sweep_file.load(tmp_path)


@pytest.mark.parametrize(
    "override, message",
    [
        ("seed=3", "the number of seeds is --seeds N"),
        ("position=rope", "change parameters.position in the file"),
        ("force=true", "force cannot be set in a sweep"),
        ("--fast", "is no setting"),
        ("scale.width=100", "scale.heads=3 does not divide"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(grid(POSITION, SEED))
    with pytest.raises(ConfigError, match=message):
        cells.cells(sweep_file.load(path, [override, "scale.heads=3"]))
