"""Modeling files: every option of the registry and every preset, as transformers runs them without the lab."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt_lab import registry
from gpt_lab.config import components
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.export import custom_code
from gpt_lab.export.exported_model import Source
from gpt_lab.interchange import convert
from gpt_lab.model.gpt import GPT, initialize
from tests.export.conftest import TINY
from tests.helpers import tiny_config
from tests.interchange.test_families import compose

VOCAB = 60
KINDS = ("attention", "position", "norm", "mlp", "residual", "init", "objective")
OPTIONS = [(kind, name) for kind in KINDS for name in registry.index()[kind]]
DEEP = {"kimi_linear", "qwen3_next"}
"""Presets whose pattern of layers is longer than two."""
READS_BOTH_WAYS = {"masked_diffusion", "mlm"}


def source_of(cfg: RunConfig) -> Source:
    model = GPT(cfg, VOCAB).eval()
    initialize(model, cfg)
    model.choose_kernels("cpu", "fp32")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Source(model, cfg, None)


def opened(source: Source, name: str = "made") -> Any:
    """The model of the file's class, without a folder."""
    cfg = custom_code.plain(source.cfg)
    module = sys.modules[name] = types.ModuleType(name)
    text = custom_code.modeling_file(cfg, custom_code.serves(cfg, source.model))
    assert "gpt_lab." not in "".join(line for line in text.splitlines() if "import " in line)
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    config = custom_code.configuration(source)
    made = module.GptLabForCausalLM(module.GptLabConfig(**{k: v for k, v in config.items() if k != "model_type"}))
    missing, unexpected = made.load_state_dict(dict(custom_code.weights(source)), strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if cfg.model.tied else set())
    made.tie_weights()
    return made.eval()


@pytest.mark.parametrize("kind, name", OPTIONS)
def test_every_option(kind: str, name: str) -> None:
    """The exact class has it, or one line says what it lacks; the modeling file has it in any case."""
    if name in READS_BOTH_WAYS:
        pytest.skip("refused where runs are read: tests/export/test_export.py")
    source = source_of(tiny_config(**{kind: name}))
    theirs = opened(source)
    tokens = torch.randint(VOCAB, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = source.model(tokens)
        torch.testing.assert_close(theirs(tokens, use_cache=False).logits, ours, rtol=0, atol=1e-5)
        if source.model.generates:  # in two pieces, by its states
            first = theirs(tokens[:, :9], use_cache=True)
            if first.past_key_values is not None:
                rest = theirs(tokens[:, 9:], past_key_values=first.past_key_values, use_cache=True).logits
                torch.testing.assert_close(rest, ours[:, 9:], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", sorted(components.catalogue("model")["model"]))
def test_every_preset(name: str) -> None:
    tiny = [word.replace("depth=2", "depth=4") if name in DEEP else word for word in TINY]
    source = source_of(compose([f"model={name}", *tiny]))
    tokens = torch.randint(VOCAB, (1, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(opened(source)(tokens).logits, source.model(tokens), rtol=0, atol=2e-5)


def test_exactly_or_by_name() -> None:
    """Which options have an exact class is no accident: those of a Llama, one at a time."""
    exact, refused = set(), []
    for kind, name in OPTIONS:
        cfg = tiny_config(**{kind: name})
        model = GPT(cfg, VOCAB)
        initialize(model, cfg)
        try:
            exact.add((f"{kind}={name}", convert.to_hf(model, cfg)[0]["architectures"][0]))
        except ConfigError as error:
            refused.append(str(error))
    assert all("\n" not in line and "no family of transformers" in line for line in refused)
    assert {one for one, _ in exact} >= {"attention=gqa", "attention=sliding", "position=yarn", "init=fan_in"}
    assert ("attention=sliding", "MistralForCausalLM") in exact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path]:
    """What no family has, as a folder."""
    source = source_of(tiny_config(attention="gated", mlp="moe", **{"model.vocab_multiple": 32, "model.tied": True}))
    out = tmp_path_factory.mktemp("custom") / "out"
    assert custom_code.write_folder(source, out).architecture == "GptLabForCausalLM"
    return source, out


def load(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()


def test_padded_rows_generate_as_they_would_alone(folder: tuple[Source, Path]) -> None:
    theirs = load(folder[1])
    short, long = torch.tensor([[3, 4, 5]]), torch.tensor([[7, 8, 9, 10, 11]])
    both = torch.cat((torch.cat((torch.tensor([[0, 0]]), short), dim=1), long))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    found = theirs.generate(both, attention_mask=mask, **options)[:, 5:]
    alone = [theirs.generate(x, attention_mask=torch.ones_like(x), **options)[0, x.shape[1] :] for x in (short, long)]
    assert found.equal(torch.stack(alone))
    with pytest.raises(ValueError, match="cannot follow beams"):
        theirs.generate(long, attention_mask=torch.ones_like(long), num_beams=2, **options)


def test_it_trains_and_saves(folder: tuple[Source, Path], tmp_path: Path) -> None:
    theirs = load(folder[1]).train()
    tokens = torch.randint(VOCAB, (2, 16))
    loss = theirs(tokens, labels=tokens).loss
    loss.backward()
    assert loss > 0 and theirs.lm_head.weight is theirs.model.gpt.embed.weight
    assert len(theirs.lm_head.weight) == VOCAB, "rows that pad the vocabulary are cut"
    theirs.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert load(tmp_path / "again")(tokens).logits.equal(theirs.eval()(tokens).logits)


def test_a_function_of_others_computes_attention(folder: tuple[Source, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As servers have it: registered by name, given queries, keys, values, its window and what the call brings."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    source = source_of(tiny_config(attention="sliding", **{"attention.window": 4, "attention.kv_heads": 2}))
    calls: list[Any] = []

    def function(part: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **more: Any) -> Any:
        calls.append((part.layer_idx, more["sliding_window"], more["wanted"]))
        k, v = (one.repeat_interleave(part.num_key_value_groups, dim=1) for one in (k, v))
        length = q.shape[2]
        seen = torch.ones(length, length).tril().bool()
        if more["sliding_window"] is not None:
            seen &= torch.ones(length, length).triu(1 - more["sliding_window"]).bool()
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling)
        return out.transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("own", function)
    theirs = opened(source)
    assert theirs._supports_attention_backend
    theirs.config._attn_implementation = "own"
    tokens = torch.randint(VOCAB, (1, 16))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens, wanted=7).logits, source.model(tokens), rtol=0, atol=1e-5)
    windows = [block.attention.window for block in source.model.blocks]  # type: ignore[union-attr]
    assert calls == [(layer, window, 7) for layer, window in enumerate(windows)]
    assert 4 in windows


@pytest.mark.parametrize(
    "settings",
    [{"attention": "mla"}, {"attention": "gla"}, {"position": "alibi"}, {"residual": "looped"}, {"mlp": "mod"}],
)
def test_what_others_cannot_compute_says_so(settings: dict[str, Any]) -> None:
    cfg = tiny_config(**settings)
    assert not custom_code.serves(cfg, GPT(cfg, VOCAB))


def test_the_file_is_clean() -> None:
    """No name that is not there, and none that is there twice."""
    cfg = custom_code.plain(tiny_config(attention="hybrid", mlp="hybrid", residual="hyper_connections"))
    text = custom_code.modeling_file(cfg, True)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F811", "--no-cache", "-"]
    done = subprocess.run(ruff, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_part_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file goes along; one that imports another package is refused, by name."""
    monkeypatch.setenv("GPT_LAB_PARTS", str(tmp_path))
    (tmp_path / "halved.py").write_text(
        '"""A norm."""\nimport torch\nfrom torch import nn\nfrom gpt_lab.registry import register\n\n\n'
        '@register("norm", "halved")\nclass Halved(nn.Module):\n    """Half of it.\n\n    Reference: none\n    """\n\n'
        "    def __init__(self, dim: int) -> None:\n        super().__init__()\n\n"
        "    def forward(self, x):\n        return x / 2\n"
    )
    registry.index.cache_clear()
    try:
        source = source_of(tiny_config(norm="halved"))
        tokens = torch.randint(VOCAB, (1, 8))
        with torch.no_grad():
            torch.testing.assert_close(opened(source)(tokens).logits, source.model(tokens), rtol=0, atol=1e-5)
        text = (tmp_path / "halved.py").read_text()
        (tmp_path / "halved.py").write_text(
            text.replace("import torch\n", "import scipy as torch\n").replace("x / 2", "torch.x")
        )
        from gpt_lab.export import own_source

        own_source.read_module.cache_clear()
        with pytest.raises(ConfigError, match="imports scipy"):
            custom_code.modeling_file(custom_code.plain(source.cfg), True)
    finally:
        registry.index.cache_clear()
