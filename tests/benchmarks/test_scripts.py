"""The benchmarks run from start to end and write what they promise. How fast is for a quiet machine to say."""

from __future__ import annotations

import functools
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.errors import ConfigError
from tests.docs import plays
from tests.processes import commands

ROOT = Path(__file__).parent.parent.parent
RATIOS = {"lab", "lab_auto", "lab_auto_short"}


def run(script: str, out: Path, *more: str) -> dict[str, Any]:
    """The result of `script --quick`, on one thread and few plays; the commands that it waits for are forked."""
    packages = plays.few(out.parent)
    work = functools.partial(begin, packages, ROOT / "benchmarks" / script, ["--quick", "--out", str(out), *more])
    done = commands.call(work, ROOT, {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)])})
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"written: {out}" in done.stdout
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert {"cpu", "cores", "torch"} <= result["machine"].keys()
    return result


def begin(packages: Path, script: Path, words: list[str]) -> None:
    plays.use(packages)
    commands._script(script, words)


@pytest.mark.slow
def test_throughput(tmp_path: Path) -> None:
    found = run("throughput.py", tmp_path / "throughput.json")["shapes"]["A"]
    assert set(found["ratio_to_bare"]) == set(found["loading_share_of_step"]) == RATIOS
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in found["ratio_to_bare"].values())
    assert found["chosen"]["lab"] | {"precision": "fp32", "kernel": "sdpa", "compile": "off"} == found["chosen"]["lab"]
    # 4 layers of 12 width^2 and 2 gains, the last gain, 65 tokens and 64 positions
    assert found["parameters"] == 4 * (12 * 128**2 + 2 * 128) + 128 + (65 + 64) * 128


@pytest.mark.slow
def test_parts_speed(tmp_path: Path) -> None:
    """An arm of each kind and the baseline, all with the parameters of the baseline."""
    found = run("parts_speed.py", tmp_path / "parts_speed.json")["contexts"]["32"]
    assert list(found) == ["attention=gqa", "mlp=moe", "residual=parallel", "baseline"]
    for arm in found.values():
        assert arm["parameters"] == pytest.approx(found["baseline"]["parameters"], rel=0.005)
        assert math.isfinite(arm["speed"]) and arm["speed"] > 0 and arm["tokens_per_s"] > 0
        assert arm["tokens_per_s"] == pytest.approx(128 / arm["ms_per_step"] * 1e3, rel=0.01)
    assert found["baseline"]["speed"] == 1.0
    assert found["attention=gqa"]["sizes"]["d_ff"] != found["baseline"]["sizes"]["d_ff"]


def test_parts_speed_takes_every_part_but_the_baselines() -> None:
    from benchmarks import parts_speed

    every = parts_speed.arms([])
    kinds = {arm.partition("=")[0] for arm in every}
    assert kinds == {"attention", "mlp", "residual"} and len(every) > 30
    assert not {f"{kind}={name}" for kind, name in parts_speed.BASELINE.items()} & set(every)
    assert parts_speed.arms(["mlp", "attention=mla"])[0] == "attention=mla"
    assert {arm.partition("=")[0] for arm in parts_speed.arms(["mlp"])} == {"mlp"}
    with pytest.raises(ConfigError, match="did you mean 'attention=gqa'"):
        parts_speed.arms(["attention=gqaa"])


@pytest.mark.slow
def test_startup(tmp_path: Path) -> None:
    found = run("startup.py", tmp_path / "startup.json", "tokenizer=byte")
    assert {"import torch", "train, first step", "train --help"} <= found["seconds"].keys()
    assert all(seconds > 0 for seconds in found["seconds"].values())


@pytest.mark.slow
def test_sweep_overhead(tmp_path: Path) -> None:
    found = run("sweep_overhead.py", tmp_path / "sweep.json")
    assert (found["trials"], found["jobs"], found["threads_per_trial"]) == (4, 2, 1)
    assert found["ratio"] == pytest.approx(found["wall_seconds"] / (found["training_seconds_sum"] / 2), rel=0.01)
    assert found["ratio"] > 1
    parts = found["before_first_trial_seconds"] + found["after_last_trial_seconds"]
    assert 0 < parts < found["wall_seconds"]


@pytest.mark.slow
def test_grid(tmp_path: Path) -> None:
    """One trial, and one process of the loop each way."""
    found = run("grid.py", tmp_path / "grid.json")
    assert (found["trials"], found["steps"]) == (1, 4)
    for way, ratio in found["ratio"].items():
        assert ratio == pytest.approx(found["bare"][way]["seconds"] / found["lab"]["seconds"], rel=0.05)
    assert 0 < found["lab"]["training_seconds_of_a_trial"] < found["lab"]["seconds"]


@pytest.mark.slow
def test_real_studies(tmp_path: Path) -> None:
    """Two null studies of three pairs each; six steps are too few for any learning rate to show."""
    found = run("real_studies.py", tmp_path / "real_studies.json")
    assert [study["pairs"] for study in found["null_studies"]] == [3, 3]
    assert found["null_all_pairs"]["pairs"] == 6
    assert found["null_better"] == sum(study["verdict"] == "better" for study in found["null_studies"])
    assert found["planted"]["arm"] == "optim.lr=0.0005"


@pytest.mark.slow
def test_pairing(tmp_path: Path) -> None:
    """Six steps, half of them warm-up: the runs of a pair have hardly parted."""
    found = run("pairing.py", tmp_path / "pairing.json")["recipes"]
    assert all(recipe["pairs"] == 5 and set(recipe["rho_on_the_way"]) == {"3", "6"} for recipe in found.values())
    assert found["warmup"]["rho"] > 0.8


@pytest.mark.slow
def test_recipes(tmp_path: Path) -> None:
    """Two pairs of one arm under one recipe."""
    found = run("recipes.py", tmp_path / "recipes.json")["blocks"]["micro-300"]
    assert (found["seeds"], found["arms"]) == (2, ["baseline", "alibi"])
    one = found["recipes"]["w05"]
    assert one["settings"] == ["schedule.warmup=0.05"] and one["baseline"] > 0
    assert set(one["arms"]) == {"alibi"} and one["arms"]["alibi"][1] == one["pair_sd"] == one["worst"]


@pytest.mark.slow
def test_generate(tmp_path: Path) -> None:
    """Both sides write the same text, but where logits tie."""
    found = run("generate.py", tmp_path / "generate.json")["scales"]
    assert set(found) == {"nano", "small"}
    for batch in (one for scale in found.values() for one in scale.values()):
        assert batch["ratio_cpu"] > 0 and batch["alike"] > 0.8


@pytest.mark.slow
def test_loss_memory(tmp_path: Path) -> None:
    """All arms make the same loss and gradients; by how much they differ in memory is for larger sizes to say."""
    found = run("trained/loss_memory.py", tmp_path / "loss_memory.json")["arms"]
    assert {"whole", "chunked"} <= set(found)
    for arm in found.values():
        assert arm["loss"] == pytest.approx(found["whole"]["loss"], rel=1e-5)
        assert arm["grad_norms"] == pytest.approx(found["whole"]["grad_norms"], rel=1e-4)


def test_committed_loss_memory_is_what_the_page_says() -> None:
    (path,) = (ROOT / "benchmarks" / "results").glob("loss_memory-*.json")
    arms = json.loads(path.read_text(encoding="utf-8"))["arms"]
    assert arms["whole"]["peak_mb"] > 5 * arms["chunked"]["peak_mb"]
    assert arms["chunked"]["seconds"] < 1.1 * arms["whole"]["seconds"]


COMMITTED = [
    p
    for name in ("throughput", "parts_speed", "startup", "sweep_overhead", "grid", "probe_cost", "loss_memory")
    for p in (ROOT / "benchmarks" / "results").glob(f"{name}-*.json")
] + [ROOT / "benchmarks" / "results" / f"{name}.json" for name in ("pairing", "recipes", "generate")]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_name_their_machine(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    machine = result.get("machine", {})
    assert machine.get("cpu") or machine.get("gpu")
    assert "torch" in machine
