"""What a run takes of memory: never more than it really does, and refused with the settings that make it so."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.config import composition, setting_names
from gpt_lab.config.schema import RunConfig
from gpt_lab.cost import memory
from gpt_lab.cost.memory import Room
from gpt_lab.errors import ConfigError
from gpt_lab.model.skip_init import bare_model


def need(cfg: RunConfig, vocab: int | None, parameters: int | None = None) -> int:
    return sum(memory.terms(cfg, memory.sizes_of(cfg, vocab, parameters)).values())


@pytest.mark.parametrize("scale", ["nano", "tiny"])
@pytest.mark.parametrize(
    "model", [*setting_names.choices("model"), "attention.head_dim=8", "mlp=relu", "mlp=reglu mlp.d_ff=40"]
)
def test_the_settings_alone_never_ask_for_more_than_the_model_has(model: str, scale: str) -> None:
    words = model.split() if "=" in model else [f"model={model}"]
    cfg = composition.compose([f"scale={scale}", "scale.depth=4", *words])
    real = sum(parameter.numel() for parameter in bare_model(cfg, 512).parameters())
    assert need(cfg, 512) <= need(cfg, 512, real)
    if memory._layer(cfg, memory.sizes_of(cfg, 512, None)) and cfg.mlp["name"] not in ("moe", "hybrid"):
        # of layers that it knows, and without experts, which are left out
        assert 0.7 * need(cfg, 512, real) < need(cfg, 512)


def test_bytes_of_weights_gradients_and_moments() -> None:
    cfg = composition.compose(["scale=nano", "optim=adamw", "model.tied=true"])
    width, depth = cfg.scale.width, cfg.scale.depth
    found = memory.terms(cfg, memory.sizes_of(cfg, 100, 100 * width + 1000 * depth))
    trained = "weights, gradients and optimizer state of"
    assert found[f"{trained} an embedding of 100 tokens"] == 100 * width * 16
    assert found[f"{trained} {depth} layers"] == (1000 * 16 + memory.LAYER) * depth
    assert found["a batch of 2,048 tokens"] == 2048 * 16
    assert found["logits of 2,048 tokens at a time"] == 2048 * 100 * 4
    small = composition.compose(["scale=nano", "optim.state=int8", "model.tied=true"])
    found = memory.terms(small, memory.sizes_of(small, 100, 0))
    assert found[f"{trained} an embedding of 100 tokens"] == 100 * width * 10


def test_what_is_just_free_is_enough() -> None:
    cfg = composition.compose(["scale=nano"])
    memory.check(cfg, Room(need(cfg, 512)), 512)
    memory.check(cfg, None, 10**15)
    with pytest.raises(ConfigError, match="are free on the GPU: lower "):
        memory.check(cfg, Room(need(cfg, 512) - 1, "on the GPU"), 512)


def test_runs_beside_each_other_fit_together() -> None:
    small, large = (
        composition.compose(["scale=nano", "tokenizer=byte"]),
        composition.compose(["scale=small", "tokenizer=byte"]),
    )
    room = Room(2 * need(large, None) + need(small, None))
    assert memory.at_once([small, large], room, 8) == 2
    assert memory.at_once([small], Room(3 * need(small, None)), 2) == 2
    assert memory.at_once([large], Room(1), 8) == 1, "the run itself is refused elsewhere"
    assert memory.at_once([large], None, 8) == 8


@pytest.mark.parametrize(
    "overrides, lower",
    [
        (["scale.depth=100000000"], "scale.depth (now 100000000)"),
        (["scale.width=1000000"], "scale.width (now 1000000)"),
        (["mlp.d_ff=10000000000000"], "mlp.d_ff (now 10000000000000)"),
        (["tokenizer.vocab_size=100000000"], "tokenizer.vocab_size (now 100000000)"),
        (["data=synthetic", "data.symbols=100000000"], "data.symbols (now 100000000)"),
        (["data=synthetic", "data.val_sequences=100000000"], "data.val_sequences (now 100000000)"),
        (["data=synthetic", "eval.contexts=[1,10000000]"], "eval.contexts (now 10000000)"),
        (["tokenizer=byte", "model.vocab_multiple=1000000000"], "model.vocab_multiple (now 1000000000)"),
        (["batch.tokens=1024000000000"], "batch.tokens (now 1024000000000)"),
        (["batch.tokens=10240000", "tokenizer=byte"], "batch.tokens (now 10240000) or batch.micro (now 80000)"),
        (["scale.depth=100000", "scale.width=128000"], "scale.width (now 128000) and scale.depth (now 100000)"),
    ],
)
def test_the_settings_to_lower(overrides: list[str], lower: str) -> None:
    with pytest.raises(ConfigError) as refused:
        memory.check(composition.compose(overrides), Room(10**9))
    assert str(refused.value).endswith(f"1 GB are free here: lower {lower}")


def test_free_memory_is_that_of_the_container(tmp_path: Path) -> None:
    own, inner = tmp_path / "own", tmp_path / "fs" / "job" / "step"
    inner.mkdir(parents=True)
    for folder, most in ((inner, "max"), (inner.parent, "1000")):
        (folder / "memory.max").write_text(most)
        (folder / "memory.current").write_text("700")
        (folder / "memory.stat").write_text("anon 400\nfile 300\n")
    old = tmp_path / "fs" / "memory" / "job"
    old.mkdir(parents=True)
    for name, text in (("limit_in_bytes", "500"), ("usage_in_bytes", "300"), ("stat", "total_cache 50\n")):
        (old / f"memory.{name}").write_text(text)
    own.write_text("4:memory:/job\n1:cpu:/job\n0::/job/step\n")
    assert list(memory._containers(tmp_path / "fs", own)) == [250, 600]
    assert list(memory._containers(tmp_path, tmp_path / "missing")) == []
    room = memory.free()
    assert room is not None and room.size > 10**7
