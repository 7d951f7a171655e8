"""Training from weights of others and of other runs: what they fix, what contradicts them, what is wrong with them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from gpt_lab.cost import match
from gpt_lab.errors import LabError
from gpt_lab.infer.trained_model import load_run
from gpt_lab.interchange.convert import to_hf
from gpt_lab.store import Run
from gpt_lab.study import cells, sweep_file
from gpt_lab.train import start
from gpt_lab.train.begin_from import model_from
from tests.train.train_helpers import quiet, said

SHORT = "device=cpu compile=off budget.steps=1 eval.every=1 eval.tokens=64 sample.tokens=0 tracker=none"
TINY = "tokenizer=bpe tokenizer.vocab_size=270 scale.depth=2 scale.width=32 scale.heads=4 scale.context=16"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run a/... on one text, another text, and the run's model as a folder, released/."""
    place = tmp_path_factory.mktemp("place")
    (place / "one.txt").write_text("the cat sat on the mat and the dog lay by the door. " * 60)
    (place / "two.txt").write_text("a dog sat by the mat, and the cat is at the door: it lay there. " * 60)
    words = ["study=a", f"runs_dir={place}", "data=text", f"data.path={place}/one.txt", "attention=gqa"]
    result = start.run_training(match.compose([*words, *TINY.split(), *SHORT.split()]), quiet())
    trained = load_run(Run.open(result.path), "last")
    config, weights = to_hf(trained.model, trained.cfg)
    (place / "released").mkdir()
    (place / "released" / "config.json").write_text(json.dumps(config))
    save_file(weights, place / "released" / "model.safetensors")
    shutil.copy(result.path / "tokenizer" / "tokenizer.json", place / "released")
    return place


def compose(place: Path, name: str, *words: str) -> Any:
    text = ["data=text", f"data.path={place}/two.txt", *SHORT.split()]
    return model_from.compose([f"model_from={name}", f"runs_dir={place}", *text, *words])


@pytest.mark.parametrize("name", ["a", "released"])
def test_it_begins_with_these_weights(place: Path, name: str) -> None:
    spec = name if name == "a" else str(place / name)
    cfg = compose(place, spec, f"study=from-{name}", "optim.lr=1e-9", "attention.dropout=0.1")
    assert (cfg.scale.width, cfg.attention["name"], cfg.attention["kv_heads"]) == (32, "gqa", 2)
    assert cfg.tokenizer["name"] == "hf" and cfg.attention["dropout"] == 0.1
    console = quiet()
    run = Run.open(start.run_training(cfg, console).path)
    origin = load_run(Run.open(next((place / "a").iterdir())), "last").model.state_dict()
    for key, tensor in load_file(run.path / "checkpoints/last/model.safetensors").items():
        torch.testing.assert_close(tensor, origin[key], rtol=0, atol=1e-6)
    assert run.record["continues"]["before"]["val/loss"] == pytest.approx(run.summary["val/loss"], rel=1e-3)
    assert "no verdict will rest on this run" in said(console) and run.record["text"]["seen"]
    again = start.run_training(cfg, quiet())
    assert again.path == run.path, "the same weights and settings are the same run"


def test_on_the_same_text_nothing_was_seen(place: Path) -> None:
    words = ["model_from=a", f"runs_dir={place}", "study=same", "data=text", f"data.path={place}/one.txt"]
    run = Run.open(start.run_training(model_from.compose([*words, *SHORT.split()]), quiet()).path)
    assert run.config["tokenizer"]["name"] == "bpe" and "seen" not in run.record["text"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["attention=mha"], "attention=mha contradicts model_from="),
        (["scale.width=64"], "scale.width=64 contradicts model_from="),
        (["scale.context=32"], "scale.context=32 contradicts"),
        (["tokenizer=byte"], "tokenizer=byte contradicts"),
        (["norm.eps=0.1"], "norm.eps=0.1 contradicts"),
        (["model=gpt2"], "model=... cannot be given with"),
        (["position.factor=x"], "position.factor=x contradicts"),
        (["mlp.experts=4"], "mlp.experts is no setting of the model"),
        (["resume_from=a"], "resume_from=... cannot be given with"),
    ],
)
@pytest.mark.parametrize("name", ["a", "released"])
def test_what_contradicts_the_weights_is_named(place: Path, name: str, words: list[str], what: str) -> None:
    with pytest.raises(LabError, match=re.escape(what)) as error:
        compose(place, name if name == "a" else str(place / name), *words)
    assert "\n" not in str(error.value)


def test_what_agrees_with_them_is_taken(place: Path) -> None:
    cfg = compose(place, str(place / "released"), "attention=gqa", "scale.width=32", "scale.context=8")
    assert cfg.scale.context == 8 and cfg.batch.tokens % 8 == 0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop("model.norm.weight"), "lack model.norm.weight"),
        (lambda t: t.update({"model.extra": torch.ones(1)}), "model.extra has no place in a LlamaForCausalLM"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), "norm.weight is (3,)"),
    ],
)
def test_wrong_weights_are_one_line(place: Path, tmp_path: Path, change: Any, what: str) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(place / "released", folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(LabError, match=re.escape(what)) as error:
        compose(place, str(folder))
    assert "\n" not in str(error.value)


def test_folders_that_are_none(place: Path, tmp_path: Path) -> None:
    for name, what in (("nobody", "a folder of Hugging Face's has a config.json"), (str(tmp_path), "no run")):
        with pytest.raises(LabError, match=re.escape(what)):
            compose(place, name)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 9}')
    with pytest.raises(LabError, match="has no weights"):
        compose(place, str(tmp_path))
    shutil.copy(place / "released" / "model.safetensors", tmp_path)
    with pytest.raises(LabError, match="unknown model_type 'bert'"):
        compose(place, str(tmp_path))


def test_another_tokenizer_is_refused_before_training(place: Path, tmp_path: Path) -> None:
    """More tokens than the weights have rows."""
    folder = tmp_path / "bare"
    shutil.copytree(place / "released", folder)
    (folder / "tokenizer.json").unlink()
    cfg = compose(place, str(folder), "study=refused", "tokenizer=bpe", "tokenizer.vocab_size=280")
    with pytest.raises(LabError, match=r"embed\.weight is 270 x 32, and this run has it as 280 x 32"):
        start.run_training(cfg, quiet())
    assert not (place / "refused").exists()


def test_in_a_sweep_each_cell_begins_with_them(place: Path, tmp_path: Path) -> None:
    """As the factor of a sweep, too: with these weights, and with the lab's own."""
    swept = {"model_from": ["a", None], "seed": [0, 1]}
    words = ["study=swept", *SHORT.split(), "data=text", f"data.path={place}/two.txt"]
    fixed = dict(word.split("=") for word in [*words, f"runs_dir={place}"])
    parameters = {key: {"values": values} for key, values in swept.items()}
    parameters |= {key: {"value": yaml.safe_load(value)} for key, value in fixed.items() if key != "study"}
    file = tmp_path / "swept.yaml"
    command = ["uv", "run", "train", "study=swept", "${args_no_hyphens}"]
    lab = {"study": "swept", "question": "Do they help?", "baseline": {"model_from": None}}
    content = {"program": "train", "method": "grid", "metric": {"name": "val/bpb", "goal": "minimize"}}
    file.write_text(yaml.safe_dump({**content, "parameters": parameters, "command": command, "gpt_lab": lab}))
    found = cells.cells(sweep_file.load(file))
    configs = cells.configs(found)
    assert [cfg.scale.width for cfg in configs] == [32, 128, 32, 128]
    assert [cfg.model_from for cfg in configs] == ["a", None, "a", None]
    assert configs[0].identity() == found[0].identity == compose(place, "a", "seed=0", "study=swept").identity()
