"""A model out of its run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from gpt_lab.data.tokenizers.simple import Char
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.infer.trained_model import load_run
from gpt_lab.store import Run
from tests.helpers import flip

MakeRun = Callable[..., Run]


def test_weights_tokenizer_and_config_come_back(make_run: MakeRun, letters: Char) -> None:
    run = make_run("a", tokenizer=letters, **{"model.vocab_multiple": 64, "scale.width": 48})
    model, tokenizer, cfg, _ = load_run(run)
    assert cfg.scale.width == 48 and cfg.study == "default"
    assert tokenizer.decode(tokenizer.encode("ROMEO 東😀")) == "ROMEO 東😀"
    saved = load_file(run.path / "checkpoints" / "step-1" / "model.safetensors")
    assert model.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    with torch.no_grad():
        assert model(torch.tensor([[0, 1]])).shape == (1, 2, tokenizer.vocab_size)


def test_best_is_taken_by_default_then_last_and_others_by_name(make_run: MakeRun) -> None:
    run = make_run("a", checkpoints={"step-1": 1, "step-2": 2, "step-3": 3}, links={"best": "step-2", "last": "step-3"})

    def loaded(name: str | None) -> torch.Tensor:
        return load_run(run, name).model.embed.weight

    def saved(step: int) -> torch.Tensor:
        return load_file(run.path / "checkpoints" / f"step-{step}" / "model.safetensors")["embed.weight"]

    assert torch.equal(loaded(None), saved(2)) and torch.equal(loaded("best"), saved(2))
    assert torch.equal(loaded("last"), saved(3)) and torch.equal(loaded("step-1"), saved(1))
    (run.path / "checkpoints" / "best").unlink()
    assert torch.equal(loaded(None), saved(3))
    with pytest.raises(ConfigError, match=r"unknown checkpoint 'best'.*\(allowed: last, step-1, step-2, step-3\)"):
        loaded("best")
    with pytest.raises(ConfigError, match="did you mean 'last'"):
        loaded("latest")


def test_a_kernel_of_another_machine_does_not_matter(make_run: MakeRun) -> None:
    run = make_run("a", kernel="flash_attn")
    model, _, cfg, _ = load_run(run)
    assert cfg.kernel["name"] == "flash_attn"
    with torch.no_grad():
        assert model(torch.tensor([[0, 1]])).isfinite().all()


def test_a_damaged_checkpoint_is_not_used(make_run: MakeRun) -> None:
    """Unless one is named, the next best that is whole takes its place, and one line says so."""
    three = {"step-1": 1, "step-2": 2, "step-10": 3}
    run = make_run("a", checkpoints=three, links={"best": "step-2", "last": "step-10"})
    said: list[str] = []

    def loaded(name: str | None = None) -> str:
        return load_run(run, name, say=said.append).checkpoint

    assert (loaded(), said) == ("best", [])
    flip(run.checkpoints / "step-2", "model.safetensors")
    assert loaded() == "last"
    why = "is damaged (model.safetensors is not what was written)"
    assert said == [f"checkpoint best of {run.path} {why}: last is used instead"]
    (run.checkpoints / "step-10" / "model.safetensors").unlink()
    assert loaded() == "step-1"
    assert said[1].endswith("is damaged (model.safetensors is missing): step-1 is used instead")
    with pytest.raises(
        DataError, match=r"checkpoint step-2 of .* is damaged .*; others are best, last, step-1, step-10"
    ):
        loaded("step-2")
    (run.checkpoints / "step-1" / "SHA256SUMS").unlink()
    with pytest.raises(
        DataError, match=r"step-1 of .* is damaged \(SHA256SUMS is missing\): .* used; name another run$"
    ):
        loaded()


def test_what_is_missing_or_damaged_is_named(make_run: MakeRun) -> None:
    run = make_run("a", checkpoints={}, links={})
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        load_run(run)
    run = make_run("b")
    flip(run.path / "tokenizer", "state.json")
    with pytest.raises(DataError, match=r"tokenizer is damaged \(state.json is not what was written\): copy it from"):
        load_run(run)
    shutil.rmtree(run.path / "tokenizer")
    with pytest.raises(DataError, match="has no tokenizer: it was trained on data=shakespeare"):
        load_run(run)
    run = make_run("c")
    for text, says in {"seed: [": "not valid YAML", "[" * 5000: "not valid YAML", "- 1": "it holds a list"}.items():
        (run.path / "config.yaml").write_text(text)
        with pytest.raises(DataError, match=rf"cannot read .*config\.yaml: {says}"):
            load_run(run)


def test_weights_of_another_model_are_refused(make_run: MakeRun) -> None:
    small, large = make_run("a"), make_run("b", **{"scale.width": 64})
    shutil.copytree(large.checkpoints / "step-1", small.checkpoints / "step-1", dirs_exist_ok=True)
    with pytest.raises(DataError, match="size mismatch") as caught:
        load_run(small)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="use device=cpu or device=auto"):
        load_run(make_run("a"), device="cuda")
