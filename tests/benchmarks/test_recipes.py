"""The recipes' figures against planted scores, and that the defaults are the recipe that was chosen by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import recipes
from gpt_lab.config.composition import compose
from gpt_lab.parts.init import usual_std
from gpt_lab.study import cells, sweep_file


def test_a_pair_s_deviation_is_what_pairing_leaves() -> None:
    shared, own = np.array([0.0, 0.3, -0.3, 0.0]), np.array([0.01, -0.01, 0.01, -0.01])
    found = recipes.summary({"baseline": 2.0 + shared, "alibi": 1.9 + shared + own, "gelu": 2.1 + shared - own})
    assert found["arms"] == {"alibi": [-0.1, 0.0115], "gelu": [0.1, 0.0115]}
    assert (found["pair_sd"], found["worst"], found["baseline"]) == (0.0115, 0.0115, 2.0)
    assert found["rho"] == pytest.approx(1 - 0.0115**2 / (2 * found["run_sd"] ** 2), abs=0.01) and found["rho"] > 0.9
    alone = recipes.summary({"baseline": 2.0 + shared})
    assert alone == {"baseline": 2.0, "run_sd": pytest.approx(0.2449, abs=1e-4)}


def test_the_grid_has_each_arm_and_nothing_else(tmp_path: Path) -> None:
    for block in recipes.BLOCKS:
        found = cells.cells(sweep_file.read(tmp_path / "recipes.yaml", block.sweep()))
        assert len(found) == len(block.arms) * block.seeds


def test_the_defaults_are_the_chosen_recipe() -> None:
    stated = dict(word.split("=") for word in [*recipes.COMMON, *recipes.RECIPES[recipes.CHOSEN]])
    default = compose([]).flat()
    for key in ("schedule.warmup", "optim.lr", "optim.beta2", "optim.clip", "optim.weight_decay"):
        assert default[key] == float(stated[key]), key
    assert default["init.std"] is None
    for block in recipes.BLOCKS:
        width = compose([f"scale={block.scale}"]).scale.width
        assert usual_std(width) == pytest.approx(float(stated["init.std"]), rel=0.03)


def test_the_committed_measurements_speak_for_it() -> None:
    """A pair's difference varies half as much as under the recipe it replaced, in every arm a run varies less than 0.02
    about its mean, and the longest run ends no higher."""
    found = json.loads(recipes.RESULTS.read_text(encoding="utf-8"))["blocks"]
    assert {name: set(block["recipes"]) for name, block in found.items()} == {
        block.name: set(block.recipes) for block in recipes.BLOCKS
    }
    for block in found.values():
        chosen, others = block["recipes"][recipes.CHOSEN], block["recipes"]
        if "pair_sd" in chosen:
            replaced = others.get("w05", others["b95"])
            assert chosen["pair_sd"] < 0.6 * replaced["pair_sd"] and chosen["run_sd"] < 0.02
    long = found["tiny-1000"]["recipes"]
    assert long[recipes.CHOSEN]["baseline"] <= long["w05"]["baseline"]
