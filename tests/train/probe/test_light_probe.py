"""probe=light: numbers against formulas, and training as without it, bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.parts.objective.base import Outcome, Sequences
from gpt_lab.store import Run
from gpt_lab.train import precision
from gpt_lab.train.feed import Micro, StepBatch
from gpt_lab.train.probe import gradients
from gpt_lab.train.probe.activations import activations
from gpt_lab.train.probe.light_probe import noise_scale
from tests.helpers import tiny_config
from tests.train.train_helpers import assert_same, train

Make = Callable[..., RunConfig]
EXACT = precision.resolve("fp32", "cpu")


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "probe.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        {"mlp": "moe", "model": {"dropout": 0.2}},
        {"attention": "differential", "optim": "schedule_free", "batch.micro": 1, "objective": "mtp"},
        {"attention": "gated_deltanet", "precision": "bf16", "batch.packing": "bucketed"},
    ],
    ids=lambda options: "-".join(options),
)
def test_training_is_as_without_it(make: Make, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_native_bf16", lambda: "emulated for the test")
    kept = {"tokenizer": "byte", **options}
    off, on = (train(make(study=probe, probe=probe, **kept)) for probe in ("off", "light"))
    assert_same(off.path, on.path)
    assert not (off.path / "probe.jsonl").exists()
    found = lines(Run.open(on.path))
    assert [line["step"] for line in found] == [10, 20]
    assert all(math.isfinite(value) for line in found for value in line.values())
    assert {"layer1/rms", "layer1/kurtosis", "noise/trace", "grad_norm/embed", "update_ratio/mlp"} <= found[0].keys()
    assert ("layer1/entropy" in found[0]) == (options.get("attention") != "gated_deltanet")


def test_updates_of_plain_descent_are_the_clipped_gradient(make: Make) -> None:
    sgd = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "clip": 0.5}
    cfg = make(probe="light", optim=sgd, schedule={"name": "constant", "warmup": 0}, **{"budget.steps": 10})
    path = train(cfg).path
    (found,) = lines(Run.open(path))
    whole = math.sqrt(sum(v**2 for key, v in found.items() if key.startswith("grad_norm/")))
    logged = Run.open(path).metrics()[-1]["train/grad_norm"]
    assert whole == pytest.approx(logged, rel=1e-4) and whole > 0.5
    from safetensors.torch import load_file

    after = load_file(path / "checkpoints" / "last" / "model.safetensors")
    size = math.sqrt(sum(t.square().sum().item() for name, t in after.items() if ".mlp." in name))
    moved = 0.1 * 0.5 / whole * found["grad_norm/mlp"]
    assert found["update_ratio/mlp"] == pytest.approx(moved / size, rel=0.02), "the weights are those before the step"


def test_uniform_attention_and_a_dead_unit() -> None:
    cfg = tiny_config(mlp="relu2", norm="layernorm")
    model = GPT(cfg, 64).eval()
    initialize(model, cfg)
    block: Any = model.layers()[0]
    with torch.no_grad():
        block.attention.qkv.weight[:32].zero_()
        wide = next(p for p in block.mlp.parameters() if p.shape == (128, 32))
        wide[:16].zero_()
    seen = activations(model, torch.arange(32).view(2, 16), None)
    by_hand = sum(math.log(t + 1) for t in range(16)) / 16
    assert seen["layer0/entropy"] == pytest.approx(by_hand, rel=1e-5) and seen["layer0/logit"] == 0.0
    assert seen["layer0/dead"] == pytest.approx(16 / 128) and seen["layer1/dead"] == 0.0
    assert seen["layer1/logit"] != 0.0
    states: list[torch.Tensor] = []
    hook = model.layers()[1].register_forward_hook(lambda module, args, out: states.append(out))
    model(torch.arange(32).view(2, 16))
    hook.remove()
    x = states[0].double()
    assert seen["layer1/rms"] == pytest.approx(x.square().mean().sqrt().item(), rel=1e-5)
    assert seen["layer1/kurtosis"] == pytest.approx(
        ((x - x.mean()) ** 4).mean().item() / x.var(correction=0).item() ** 2, rel=1e-4
    )


class Linear(torch.nn.Module):
    """Whose gradient of a row is the row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))


class Mean:
    """A loss with one target a row."""

    rows = ""

    def train(self, model: Any, given: Sequences) -> Outcome:
        assert not model.training
        loss = (given.tokens_BT.float() @ model.weight).mean() / 100
        return Outcome(loss, loss.detach(), torch.tensor(len(given.tokens_BT)))


def test_noise_scale_of_known_gradients() -> None:
    """Rows of mean (1, 1, 1, 1) and standard deviation 2 in each place: |G|^2 = 4, trace = 16, scale = 4."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for step in range(400):
        rows = (100 * (1 + 2 * torch.randn(9, 4, generator=generator))).round().long()
        targets = torch.full((9, 4), -100)
        targets[:, 0] = 0
        micro = [Micro(rows[a:b], targets[a:b], None, None, 0.5) for a, b in ((0, 5), (5, 9))]
        values = gradients.noise(Linear(), Mean(), EXACT, StepBatch(micro, 9))  # type: ignore[arg-type]
        found.append({"step": step, **{f"noise/{name}": value for name, value in values.items()}})
    square, trace = (sum(one[f"noise/{name}"] for one in found) / 400 for name in ("square", "trace"))
    assert square == pytest.approx(4, rel=0.1) and trace == pytest.approx(16, rel=0.1)
    assert noise_scale(found) == pytest.approx(trace / square) == pytest.approx(4, rel=0.2)
    assert math.isnan(noise_scale([]))
