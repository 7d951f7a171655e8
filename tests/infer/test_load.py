"""A model out of its run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from gpt_lab.data.simple import Char
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.infer.load import checkpoint_folder, load_run
from gpt_lab.store import Run

MakeRun = Callable[..., Run]


def test_weights_tokenizer_and_config_come_back(make_run: MakeRun, letters: Char) -> None:
    run = make_run("a", tokenizer=letters, **{"model.vocab_multiple": 64, "scale.width": 48})
    model, tokenizer, cfg = load_run(run)
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
        return load_run(run, name)[0].embed.weight

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
    model, _, cfg = load_run(run)
    assert cfg.kernel["name"] == "flash_attn"
    with torch.no_grad():
        assert model(torch.tensor([[0, 1]])).isfinite().all()


def test_what_is_missing_or_torn_is_named(make_run: MakeRun) -> None:
    run = make_run("a", checkpoints={}, links={})
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        checkpoint_folder(run)
    run = make_run("b")
    weights = run.path / "checkpoints" / "step-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot use .*checkpoints/best: "):
        load_run(run)
    run = make_run("c")
    shutil.rmtree(run.path / "tokenizer")
    with pytest.raises(DataError, match="has no tokenizer: it was trained on data=shakespeare"):
        load_run(run)
    run = make_run("d")
    (run.path / "config.yaml").write_text("seed: [")
    with pytest.raises(DataError, match=r"cannot read .*config\.yaml"):
        load_run(run)


def test_weights_of_another_model_are_refused(make_run: MakeRun) -> None:
    small, large = make_run("a"), make_run("b", **{"scale.width": 64})
    shutil.copy(large.path / "checkpoints/step-1/model.safetensors", small.path / "checkpoints/step-1")
    with pytest.raises(DataError, match="size mismatch") as caught:
        load_run(small)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="use device=cpu or device=auto"):
        load_run(make_run("a"), device="cuda")
