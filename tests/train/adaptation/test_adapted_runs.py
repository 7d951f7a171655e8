"""Runs that adapt another: ordinary runs, that resume bit for bit, answer, are exported and quantized."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpt_lab.adapt import lora
from gpt_lab.cli.trained import generate, quantize
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.chat_template import FILE, ChatTemplate
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import ConfigError
from gpt_lab.infer.generate import complete
from gpt_lab.infer.trained_model import load_run
from gpt_lab.parts.objective.base import IGNORED, Sequences
from gpt_lab.parts.objective.grpo import GroupRelative, questions
from gpt_lab.store import Run
from gpt_lab.train import resolve_auto, start, trainer
from gpt_lab.train.begin_from import first_weights
from gpt_lab.train.begin_from.teacher import may_have_seen
from tests.adapt.test_group_codes import by_definition
from tests.helpers import tiny_config
from tests.train.train_helpers import assert_same, quiet, said, train, weights

SHAPE = {"scale.context": 48, "batch.tokens": 384, "optim.lr": 0.01, "schedule.warmup": 0.0}
OPPOSITES = {"up": "down", "on": "off", "in": "out", "yes": "no"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations on opposites, two of three answers wrong; right ones; pairs; a run that has learnt the first."""
    place = tmp_path_factory.mktemp("adapted")

    def talk(*turns: tuple[str, str]) -> dict[str, Any]:
        return {
            "messages": [
                one
                for asked, answer in turns
                for one in ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
            ]
        }

    mixed = [talk((asked, answer)) for asked, right in OPPOSITES.items() for answer in (right, "?", "?")]
    right = [talk(one) for one in OPPOSITES.items()]
    turns = [talk(one, two) for one in OPPOSITES.items() for two in OPPOSITES.items()]
    pairs = [{"prompt": asked, "chosen": right, "rejected": "?"} for asked, right in OPPOSITES.items()]
    for name, lines in (("mixed", mixed), ("right", right), ("turns", turns), ("pairs", pairs)):
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    train(
        _config(place, study="base", data=_file(place, "mixed", packed=False), **{"budget.steps": 60, "eval.every": 60})
    )
    return place


def _file(place: Path, name: str, kind: str = "chat", **more: Any) -> dict[str, Any]:
    path = str(place / f"{name}.jsonl")
    return {"name": kind, "path": path, "val_path": path, **more}


def _config(place: Path, **overrides: Any) -> RunConfig:
    return tiny_config(**{"runs_dir": str(place / "runs"), **SHAPE, **overrides})


def _from(place: Path, **overrides: Any) -> RunConfig:
    short = {"model_from": "base", "budget.steps": 6, "eval.every": 3, "checkpoint.keep": 9}
    return _config(place, **{**short, **overrides})


RUNS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "chat": lambda place: {"data": _file(place, "right"), "quantize.bits": 4, "quantize.group": 16},
    "lora": lambda place: {"data": _file(place, "right"), "adapt.rank": 2, "adapt.targets": ["qkv"]},
    "qlora": lambda place: {"data": _file(place, "right"), "adapt.rank": 2, "adapt.bits": 4, "adapt.group": 16},
    "dpo": lambda place: {"data": _file(place, "pairs", "preferences"), "objective": "dpo"},
    "grpo": lambda place: {
        "data": _file(place, "right", packed=False),
        "objective": {"name": "grpo", "tokens": 6, "group": 4},
        "adapt.rank": 2,
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_as_one_that_was_not(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sampled included: the process dies two steps after a checkpoint; a probe of it changes nothing."""
    whole = train(_from(place, study=f"{name}-whole", **RUNS[name](place)))
    cfg = _from(place, study=f"{name}-killed", probe="light", **RUNS[name](place))
    step = trainer.Trainer.step

    class Dead(BaseException):
        pass

    def dying(self: trainer.Trainer) -> None:
        if self.state.step == 5:
            raise Dead
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", dying)
        with pytest.raises(Dead):
            train(cfg)
    again = train(cfg)
    assert again.state == "finished" and Run.open(again.path).record["resumed"]
    assert_same(whole.path, again.path)
    seen = (again.path / "probe.jsonl").read_text()
    assert ("noise/trace" in seen) == (name not in ("dpo", "grpo")), "their losses are no means over targets"


def test_adapters_alone_are_trained_and_told(place: Path) -> None:
    console = quiet()
    result = start.run_training(_from(place, study="told", **RUNS["qlora"](place)), console)
    assert "parameters are trained; the optimizer keeps" in said(console)
    kept = weights(result.path)
    base = weights(next((place / "runs/base").iterdir()))
    assert kept["blocks.0.attention.qkv.codes"].dtype == torch.uint8 and "blocks.0.attention.qkv.weight" not in kept
    assert torch.equal(kept["embed.weight"], base["embed.weight"])
    assert any(tensor.any() for key, tensor in kept.items() if key.endswith(lora.B))
    trained = load_run(Run.open(result.path), "last")
    assert torch.equal(trained.model.embed.weight, base["embed.weight"])
    once_more = train(_from(place, study="on", model_from=str(result.path), **RUNS["chat"](place)))
    assert once_more.state == "finished", "a run that was adapted can be begun from"


def test_chat_answers_in_turns(place: Path) -> None:
    """On what it was taught, the template and the run that was saved with it."""
    lasting = {"budget.steps": 60, "eval.every": 60}
    result = train(_from(place, study="answers", data=_file(place, "turns"), **lasting))
    run = Run.open(result.path)
    template = ChatTemplate.load(run.path)
    assert template is not None and (run.path / "tokenizer" / FILE).is_file()
    model = load_run(run, "last").model
    messages: list[dict[str, str]] = []
    for asked in ("on", "yes"):
        messages.append({"role": "user", "content": asked})
        ids = template.render(messages, add_generation_prompt=True)
        (found,) = complete(model, ids, max_tokens=6, temperature=0.0, seed=0, stop=template.stop)
        messages.append({"role": "assistant", "content": template.answer(found)})
        assert messages[-1]["content"] == OPPOSITES[asked]


def test_quantized_weights_are_the_definition_and_cost_what_is_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dequantized weights by numpy; the difference in bits per byte, computed again from them."""
    run = Run.open(next((place / "runs/base").iterdir()))
    assert quantize.run([str(run.path), "bits=4", "group=16", "checkpoint=last"]) == 0
    text = capsys.readouterr().out
    assert "groups of 16" in text and "tokens/s" in text and "MB -> " in text
    before, after = load_run(run, "last").model, load_run(run, "int4-g16").model
    for (name, one), (_, two) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        linear = name.startswith("blocks") and one.ndim == 2
        wanted, scales = by_definition(one.detach().numpy(), 4, 16) if linear else (one.detach().numpy(), 0)
        assert abs(two.detach().numpy() - wanted).max() < 1e-6, name
        assert (abs(two.detach().numpy() - one.detach().numpy()) <= scales / 2 + 1e-6).all()
    dataset = open_dataset(_config(place, data=_file(place, "mixed", packed=False)))
    nats, bits = [], []
    for model in (before, after):
        total, number = 0.0, 0
        for tokens, targets, _ in dataset.validation(64):
            with torch.no_grad():
                log_probs = model(tokens).log_softmax(-1)
            for row, aims in zip(log_probs.tolist(), targets.tolist(), strict=True):
                for one_row, aim in zip(row, aims, strict=True):
                    if aim != -100:
                        total, number = total - one_row[aim], number + 1
        nats.append(total / number)
        bits.append(total / math.log(2) / dataset.val_bytes)
    assert f"val bpb     {bits[0]:.4f} -> {bits[1]:.4f} ({bits[1] - bits[0]:+.4f})" in text
    assert f"val loss    {nats[0]:.4f} -> {nats[1]:.4f}" in text
    again = _config(
        place, study="base4", data=_file(place, "mixed", packed=False),
        **{"budget.steps": 60, "eval.every": 60, "quantize.bits": 4, "quantize.group": 16},
    )  # fmt: skip
    result = train(again)
    assert result.summary["quantized/bpb"] == pytest.approx(bits[1], rel=1e-4)
    assert result.summary["val/bpb"] == pytest.approx(bits[0], rel=1e-4)
    assert generate.run([f"run={run.path}", "checkpoint=int4-g16", "device=cpu", "max_tokens=3"]) == 0


def test_preferences_and_rewards_rise(place: Path) -> None:
    """The pairs' chosen answers gain, and more answers are right than before."""
    dpo = train(_from(place, study="dpo-long", **RUNS["dpo"](place), **{"budget.steps": 30, "eval.every": 30}))
    before = Run.open(dpo.path).record["continues"]["before"]
    assert before["val/loss"] == pytest.approx(math.log(2), abs=1e-6), "with itself as reference nothing is gained"
    assert dpo.summary["val/loss"] < 0.5 and dpo.summary["val/accuracy"] > 0.9 > before["val/accuracy"]
    settings = {**RUNS["grpo"](place), "budget.steps": 25, "eval.every": 25, "optim.lr": 0.003}
    settings["objective"] = {"name": "grpo", "tokens": 6, "group": 8, "ending": 0.0}
    del settings["adapt.rank"]
    grpo = train(_from(place, study="grpo-long", **settings))
    before = Run.open(grpo.path).record["continues"]["before"]
    rows = [row["train/loss"] for row in Run.open(grpo.path).metrics() if "train/loss" in row]
    assert sum(rows[-5:]) < 0.5 * sum(rows[:5]), "the share of sampled answers that are not right"
    assert grpo.summary["val/accuracy"] > before["val/accuracy"]


def test_what_a_step_costs(place: Path) -> None:
    """Each sample is learnt from, the reference is paid for; adapters and codes change no count of parameters."""
    found = {}
    for name, more in {
        "plain": {"data": _file(place, "right", packed=False)},
        "qlora": {"data": _file(place, "right", packed=False), "adapt.rank": 2, "adapt.bits": 4, "adapt.group": 16},
        "two": {**RUNS["grpo"](place), "objective": {"name": "grpo", "tokens": 6, "group": 2}},
        "six": {**RUNS["grpo"](place), "objective": {"name": "grpo", "tokens": 6, "group": 6}},
    }.items():
        cfg = _from(place, **more)
        found[name] = resolve_auto.resolve(cfg, open_dataset(cfg)).cost
    assert found["qlora"] == found["plain"]
    assert found["two"].parameters == found["plain"].parameters
    once = found["plain"].train_flops_per_token
    assert found["two"].train_flops_per_token == 2 * (once + once // 3)
    assert found["six"].train_flops_per_token == 3 * found["two"].train_flops_per_token


def test_the_reference_is_what_the_run_begins_with(place: Path) -> None:
    """Rounded where frozen weights are: nothing is gained before the first step."""
    settings = {**RUNS["dpo"](place), "adapt.rank": 2, "adapt.bits": 4, "adapt.group": 16}
    run = Run.open(train(_from(place, study="dpo-bits", **settings, **{"budget.steps": 1, "eval.every": 1})).path)
    assert run.record["continues"]["before"]["val/loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_what_is_sampled_is_not_counted_as_learnt(place: Path) -> None:
    """Routers count the tokens of the pass that learns, not those of the passes that sample."""
    cfg = _config(place, data=_file(place, "right", packed=False), mlp={"name": "moe", "experts": 4})
    model = first_weights.begun(cfg, open_dataset(cfg).vocab_size, None).train()
    objective = GroupRelative(group=2, tokens=4)
    tokens_BT = torch.randint(97, 120, (2, 12))
    targets_BT = torch.full_like(tokens_BT, IGNORED)
    targets_BT[:, 5:8] = tokens_BT[:, 6:9]
    asked = questions(Sequences(tokens_BT, targets_BT), 4)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    objective.answer(model, tokens_BT, asked, torch.rand(2, 2, 4))
    assert model.training and all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"objective": "dpo"}, "objective=dpo and data=preferences need each other, and here are .* data=chat"),
        ({"objective": "grpo"}, "objective=grpo needs one conversation a row: use data=chat data.packed=false"),
        (
            {"objective": {"name": "grpo", "tokens": 3}, "data.packed": False},
            "objective.tokens=3 is less than the 6 of the longest answer, which could never be right: raise it",
        ),
        ({"precision": "bf16_sr", "adapt.rank": 2}, "precision=bf16_sr has layers of its own"),
        ({"precision": "bf16_sr", "quantize.bits": 4}, "quantize.bits rounds fp32 weights"),
    ],
)
def test_what_does_not_fit_is_one_line(settings: dict[str, Any], line: str, place: Path) -> None:
    with pytest.raises(ConfigError, match=line):
        train(_from(place, study="none", **{"data": _file(place, "right"), **settings}))
    assert not (place / "runs/none").exists()


def test_what_the_lab_makes_is_in_no_other_text(place: Path) -> None:
    """A verdict may rest on conversations that the origin cannot have read."""
    run = SimpleNamespace(record={}, config={"data": {"name": "shakespeare"}})
    own = open_dataset(_config(place, data="chat"))
    theirs = open_dataset(_config(place, data=_file(place, "right")))
    assert may_have_seen(run, "it", own) == ""  # type: ignore[arg-type]
    assert "may hold the validation text" in may_have_seen(run, "it", theirs)  # type: ignore[arg-type]
    run.config["data"]["name"] = "chat"
    assert "may hold the validation text" in may_have_seen(run, "it", own)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["latest"], "quantize needs a number of bits: quantize latest bits=4"),
        (["bits=4"], "quantize needs a run: quantize latest bits=4"),
        (["latest", "bits=5"], "bits"),
        (["latest", "bits=4", "grup=3"], "unknown argument 'grup'; did you mean 'group'"),
        (["latest", "other", "bits=4"], "run is given twice"),
    ],
)
def test_what_quantize_does_not_know_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        quantize.parse(words)
