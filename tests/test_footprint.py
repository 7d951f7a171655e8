"""What a run takes of memory: never more than it really does, and refused with the settings that make it so."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab import config, footprint
from gpt_lab.errors import ConfigError
from gpt_lab.footprint import Room
from gpt_lab.train.bare import bare_model


@pytest.mark.parametrize("scale", ["nano", "tiny"])
@pytest.mark.parametrize("model", [*config.choices("model"), "mlp=relu", "mlp=reglu mlp.d_ff=40"])
def test_the_settings_alone_never_ask_for_more_than_the_model_has(model: str, scale: str) -> None:
    words = model.split() if "=" in model else [f"model={model}"]
    cfg = config.compose([f"scale={scale}", "scale.depth=3", *words])
    real = sum(parameter.numel() for parameter in bare_model(cfg, 512).parameters())
    asked, known = (sum(term.size for term in footprint._terms(cfg, 512, count)) for count in (None, real))
    assert 0.7 * known < asked <= known


def test_bytes_of_weights_gradients_and_moments() -> None:
    cfg = config.compose(["scale=nano", "optim=adamw"])
    terms = {term.what: term.size for term in footprint._terms(cfg, 100, 1_000_000)}
    width = cfg.scale.width
    assert terms["weights, gradients and optimizer state of the embedding of 100 tokens"] == 100 * width * 16
    layers = next(size for what, size in terms.items() if what.endswith("layers"))
    assert layers == (1_000_000 - 100 * width) * 16 + footprint.LAYER * cfg.scale.depth


def test_what_is_just_free_is_enough() -> None:
    cfg = config.compose(["scale=nano"])
    need = sum(term.size for term in footprint._terms(cfg, 512, None))
    footprint.check(cfg, Room(need), 512)
    footprint.check(cfg, None, 10**15)
    with pytest.raises(ConfigError, match="are free on the GPU: lower "):
        footprint.check(cfg, Room(need - 1, "on the GPU"), 512)


@pytest.mark.parametrize(
    "overrides, keys",
    [
        (["scale.depth=100000"], "scale.depth=100000 or scale.width=128"),
        (["tokenizer.vocab_size=100000000"], "tokenizer.vocab_size=100000000 or scale.width=128"),
        (["tokenizer=byte", "model.vocab_multiple=100000000"], "model.vocab_multiple=100000000 or scale.width=128"),
        (["batch.tokens=1024000000", "batch.micro=1"], "batch.tokens=1024000000"),
        (["batch.tokens=102400000", "tokenizer=byte"], "batch.micro or scale.depth=4"),
        (["batch.tokens=12800000", "tokenizer.vocab_size=8000"], "batch.micro or tokenizer.vocab_size=8000"),
    ],
)
def test_the_settings_to_lower(overrides: list[str], keys: str) -> None:
    with pytest.raises(ConfigError) as refused:
        footprint.check(config.compose(overrides), Room(10**10))
    assert str(refused.value).endswith(f"10 GB are free here: lower {keys}")


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
    assert list(footprint._containers(tmp_path / "fs", own)) == [250, 600]
    assert list(footprint._containers(tmp_path, tmp_path / "missing")) == []
    room = footprint.free()
    assert room is not None and room.size > 10**7
