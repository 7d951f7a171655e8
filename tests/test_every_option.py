"""Every option of every group trains through the real trainer with falling loss, and every key changes something."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from gpt_lab import registry
from gpt_lab.train.precision import cpu_native_bf16
from tests.helpers import tiny_config
from tests.train.train_helpers import train

LARGE = {"sgd": 0.3, "prodigy": 3.0, "lamb": 0.05, "adahessian": 0.3}
"""Learning rates of optimizers whose steps are of another size than Adam's."""
WORDS = "the cat sat on the mat and the dog lay by the door while rain fell on the roof. "
TRAINED = [(kind, name) for kind in registry.KINDS for name in registry.index()[kind]]
SMALL_SPLIT = {"data.val_fraction": 0.002}
"""At its end a run validates on the whole split."""
ELSEWHERE = {
    ("kernel", "flash_attn"): "needs CUDA: tests/kernels/test_kernels.py",
    ("kernel", "flex"): "trains on CUDA only: tests/kernels/test_kernels.py",
    ("precision", "tf32"): "needs CUDA: tests/train/test_precision.py",
    ("precision", "fp8"): "needs CUDA: tests/train/few_bits",
    ("tracker", "auto"): "tests/trackers",
    ("tracker", "wandb"): "tests/trackers",
    ("tracker", "tensorboard"): "tests/trackers",
    ("tokenizer", "tiktoken"): "needs a file of ranks: tests/data",
    ("tokenizer", "hf"): "needs a tokenizer file: tests/data",
    ("data", "hf"): "needs a data set: tests/data",
    ("data", "stdlib"): "8 MB, of which whole files are held out: tests/data/corpora/test_stdlib.py",
    ("data", "chat"): "rows of whole conversations: tests/data/conversations and tests/train/adaptation",
    ("data", "preferences"): "for objective=dpo: tests/train/adaptation",
    ("objective", "dpo"): "needs a run to begin with: tests/train/adaptation",
    ("objective", "grpo"): "needs a run to begin with: tests/train/adaptation",
    ("parallel", "ddp"): "several processes: tests/train/parallel",
    ("parallel", "fsdp"): "several processes: tests/train/parallel",
    ("data", "mix"): "needs sources: tests/data/test_mixture.py and tests/data/test_trained_rows.py",
}


@pytest.fixture(scope="module", autouse=True)
def unprobed() -> Iterator[None]:
    """What ships is probed in tests/train/leak_probe: here that would be a fifth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_lab.train.leak_probe.causality.check", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same few sentences as text, JSON lines and parquet, and some others to validate with."""
    import pandas

    folder = tmp_path_factory.mktemp("corpus")
    lines = [WORDS * 4 + f"{i}." for i in range(20)]
    for name, chosen in (("a", lines), ("b", [line.upper() for line in lines[:3]])):
        (folder / f"{name}.txt").write_text("\n".join(chosen))
        rows = [{"text": line, "other": line[::-1]} for line in chosen]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        pandas.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
    ends = {"text": "txt", "jsonl": "jsonl", "parquet": "parquet"}
    return {f"{kind}.{name}": str(folder / f"{name}.{end}") for kind, end in ends.items() for name in "ab"}


def _train(corpus: dict[str, str], runs_dir: Path, overrides: dict[str, Any]) -> Path:
    """The folder of a short, finished run on the little corpus."""
    settings: dict[str, Any] = {"data": "text", "runs_dir": str(runs_dir), "device": "cpu", "compile": "off"}
    settings |= {"optim.lr": 0.003, "schedule.warmup": 0.0} | overrides
    name = settings["data"]
    if settings.get("objective") == "distill":
        settings["objective.teacher"] = str(_teacher(corpus))
    if f"{name}.a" in corpus:
        settings["data"] = {"name": name, "path": corpus[f"{name}.a"]}
        if "data.val_path" in settings:
            settings["data.val_path"] = corpus[f"{name}.b"]
    result = train(tiny_config(**settings))
    assert result.state == "finished"
    return Path(result.path)


def _teacher(corpus: dict[str, str]) -> Path:
    """A run on the same text, trained once."""
    folder = Path(corpus["text.a"]).parent
    found = list(folder.glob("taught/*/*"))
    return found[0] if found else _train(corpus, folder / "taught", {"budget.steps": 4})


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("kind", "name"), [pair for pair in TRAINED if pair not in ELSEWHERE])
def test_trains_with_falling_loss(kind: str, name: str, corpus: dict[str, str], tmp_path: Path) -> None:
    if (kind, name) == ("precision", "bf16") and cpu_native_bf16() is None:
        pytest.skip("this CPU has no native bf16")
    overrides: dict[str, Any] = {kind: name, "budget.steps": 14, "eval.every": 14}
    if name in LARGE:
        overrides["optim.lr"] = LARGE[name]
    if name == "synthetic":
        overrides |= {"optim.lr": 0.01, "data.symbols": 4}
    if name == "shakespeare":
        overrides |= SMALL_SPLIT
    run = _train(corpus, tmp_path, overrides)
    losses = [row["train/loss"] for row in _rows(run) if "train/loss" in row]
    assert len(losses) == 14
    assert sum(losses[-4:]) < sum(losses[:4])


def test_what_is_left_out_is_still_registered() -> None:
    assert set(ELSEWHERE) <= set(TRAINED)


Change = tuple[Any, dict[str, Any]]
LLAMA3 = {"position.scaling": "llama3", "position.factor": 8.0}
CHANGES: dict[str, Any] = {
    "attention.kv_heads": 1,
    "attention.qk_norm": "head",
    "attention.softcap": 0.1,
    "attention.dropout": 0.5,
    "attention.qkv_bias": True,
    "attention.head_dim": 4,
    "attention.sinks": True,
    "attention.window": 2,
    "attention.pattern": "L",
    "attention.kv_rank": 8,
    "attention.q_rank": 8,
    "attention.nope_dim": 4,
    "attention.rope_dim": 2,
    "attention.v_dim": 4,
    "attention.gate": "headwise",
    "attention.lambda_std": 2.0,
    "attention.eps": 1.0,
    "attention.top_k": 2,
    "attention.index_heads": 1,
    "attention.index_dim": 16,
    "attention.index_loss": 0.1,
    "attention.index_target": "selected",
    "attention.letters": {"A": {"name": "mqa"}, "N": {"name": "none"}},
    "attention.expand_k": 2.0,
    "attention.expand_v": 0.5,
    "attention.key_heads": 2,
    "attention.conv": 2,
    "attention.negative_eigenvalues": True,
    "attention.rank": 3,
    "attention.temperature": 2.0,
    "attention.expand": 3.0,
    "attention.state_dim": 3,
    "attention.groups": 2,
    "attention.dt_min": 0.01,
    "attention.dt_max": 1.0,
    "attention.dt_limit": 0.05,
    "attention.decay_rank": 3,
    "attention.rate_rank": 3,
    "attention.value_rank": 3,
    "attention.gate_rank": 3,
    "attention.value_residual": None,
    "position.base": 10.0,
    "position.partial": 0.5,
    "position.scaling": ("ntk", {"position.scaling": "linear", "position.factor": 4.0}),
    "position.factor": (8.0, {"position.scaling": "linear", "position.factor": 2.0}),
    "position.scaled": False,
    "position.pattern": "N",
    "position.local_base": (10.0, {"position.pattern": "L", "position.local_base": 1000.0}),
    "position.original": 1000,
    "position.low_freq_factor": (0.1, LLAMA3),
    "position.high_freq_factor": (8.0, LLAMA3),
    "position.truncate": (False, {"position.original": 1000}),
    "position.beta_fast": (0.2, {"position.beta_slow": 0.1}),
    "position.beta_slow": 0.1,
    "position.attention_factor": 2.0,
    "position.gamma": 0.1,
    "position.scale_base": 8.0,
    "position.kernel": "power",
    "position.buckets": 4,
    "position.max_distance": (20, {"position.buckets": 8}),
    "position.shared": None,
    "position.hidden": 8,
    "position.threshold": 2.0,
    "position.c": 2.0,
    "position.positions": 4,
    "norm.eps": 0.1,
    "norm.bias": False,
    "norm.gain": False,
    "norm.alpha": 0.2,
    "norm.embed_scale": 20.0,
    "mlp.d_ff": 16,
    "mlp.experts": 4,
    "mlp.top_k": 3,
    "mlp.shared_experts": 1,
    "mlp.shared_gate": (True, {"mlp.shared_experts": 1}),
    "mlp.routed_scale": 2.0,
    "mlp.groups": (4, {"mlp.groups": 2, "mlp.top_groups": 1}),
    "mlp.top_groups": (1, {"mlp.groups": 4}),
    "mlp.clamp": 1.0,
    "mlp.first": "E",
    "mlp.letters": {"D": {"name": "relu"}, "E": {"name": "moe"}},
    "mlp.router": "sigmoid",
    "mlp.renormalize": False,
    "mlp.balance": 1.0,
    "mlp.bias_rate": 1.0,
    "mlp.z_loss": 1.0,
    "mlp.capacity_factor": 0.5,
    "mlp.capacity": 0.5,
    "mlp.pattern": "R",
    "mlp.auxiliary": 1.0,
    "residual.shared_norm": False,
    "residual.alpha": 3.0,
    "residual.pattern": "HM",
    "residual.blocks": (2, {"residual.pattern": "H"}),
    "residual.rank": 3,
    "residual.d_ff": 16,
    "residual.initial": 0.5,
    "residual.unet": True,
    "residual.streams": 2,
    "residual.dynamic": False,
    "residual.iterations": (2, {"residual.streams": 3}),
    "residual.size": 1,
    "residual.loops": 1,
    "residual.prelude": (1, {"residual.loops": 1, "residual.inject": "adapter"}),
    "residual.coda": (2, {"scale.depth": 4}),
    "residual.inject": "adapter",
    "residual.group": 1,
    "residual.rate": 0.5,
    "residual.schedule": "constant",
    "residual.unit": ("layer", {"residual.rate": 0.5}),
    "residual.rescale": False,
    "residual.block": 3,
    "residual.vectors": 2,
    "residual.at": 0,
    "init.std": 0.1,
    "init.embedding_std": 0.1,
    "init.scaled_residual": False,
    "init.base_width": 8,
    "init.base_head_dim": 2,
    "optim.lr": 0.1,
    "optim.weight_decay": 0.9,
    "optim.clip": (0.001, {"optim.clip": 0.0, "batch.tokens": 16, "budget.steps": 8}),
    "optim.beta1": 0.5,
    "optim.beta2": 0.5,
    "optim.eps": 1.0,
    "optim.state": "int8",
    "schedule.warmup": 0.5,
    "schedule.final": 0.7,
    "schedule.cooldown": 0.6,
    "schedule.shape": "linear",
    "data.val_fraction": 0.4,
    "data.val_path": "b",
    "data.field": "other",
    "data.task": "induction",
    "data.symbols": 8,
    "data.items": 3,
    "data.val_sequences": 32,
    "tokenizer.vocab_size": (270, {"tokenizer.vocab_size": 300}),
    "tokenizer.fit_chars": (30, {"tokenizer.vocab_size": 300}),
    "tokenizer.eot": None,
    "tokenizer.byte_fallback": None,
    "tokenizer.lowercase": (None, {"data.val_path": "b"}),
    "objective.label_smoothing": 0.2,
    "objective.z_loss": 1.0,
    "objective.ahead": 2,
    "objective.weight": 0.9,
    "objective.style": "parallel",
    "objective.alpha": 0.9,
    "objective.temperature": 3.0,
    "objective.rate": 0.5,
    "objective.masked": 0.3,
    "objective.random": 0.2,
    "model.tied": False,
    "model.bias": True,
    "model.dropout": 0.3,
    "model.embed_scale": True,
    "model.embed_norm": True,
    "model.logit_softcap": 0.5,
    "model.vocab_multiple": 64,
    "scale.depth": 1,
    "scale.width": 48,
    "scale.heads": 2,
    "scale.context": 8,
    "budget.steps": 5,
    "budget.tokens": 300.0,
    "budget.flops": 1e8,
    "batch.tokens": 128,
    "batch.seed": 7,
    "batch.document_mask": (True, {"data": "jsonl"}),
    "batch.packing": ("best_fit", {"data": "jsonl"}),
    "batch.shortest": (4, {"batch.curriculum": 0.5}),
    "batch.curriculum": 0.5,
    "eval.every": 1,
    "eval.tokens": 64,
    "eval.contexts": [1, 2],
    "checkpoint.every": (1, {"checkpoint.keep": 9}),
    "checkpoint.keep": (9, {"checkpoint.every": 1}),
    "log.every": 2,
    "quantize.bits": 4,
    "quantize.group": (16, {"quantize.bits": 4}),
    "sample.prompt": ("cat", {"sample.tokens": 4}),
    "sample.tokens": (8, {"sample.tokens": 4}),
    "sample.temperature": (0.0, {"sample.tokens": 8}),
    "seed": 1,
    "replica": 1,
}
"""Key -> a value that must change what a run computes or leaves; with the settings under which it does.

None: the opposite of the default.
"""
CHANGES_OF: dict[tuple[str, str], Any] = {
    ("hybrid", "attention.pattern"): "NA",
    ("hybrid", "mlp.pattern"): "ED",
    ("rope", "position.original"): (1000, LLAMA3),
    ("differential", "attention.kv_heads"): 2,
    ("yarn", "position.factor"): 8.0,
    ("wsd", "schedule.final"): (0.7, {"budget.steps": 4}),
    ("wsd", "schedule.shape"): ("linear", {"budget.steps": 4}),
    ("wordpiece", "tokenizer.vocab_size"): (80, {"tokenizer.vocab_size": 100}),
    ("unigram", "tokenizer.vocab_size"): (260, {"tokenizer.vocab_size": 300}),
    ("scalenorm", "norm.eps"): 100.0,
    ("unit", "norm.eps"): 100.0,
}
"""As CHANGES, for a part to which that value means something else."""
KEYS_ELSEWHERE = {
    "attention.chunk": "tests/parts/attention/recurrent/test_chunks.py: same numbers, other speed",
    "data.path": "tests/config/test_composition.py and tests/data",
    "data.raw": "tests/data/corpora/test_file_corpora.py",
    "schedule.weight_decay": "tests/train/test_step.py and tests/train/test_trainer.py",
    "objective.teacher": "tests/train/objectives/test_teacher.py",
    "objective.val_draws": "tests/parts/objective/test_masked.py",
    "batch.start": "tests/config/test_batch_sizes.py and tests/train/test_trainer.py",
    "batch.ramp": "tests/config/test_batch_sizes.py and tests/train/test_trainer.py",
    "batch.micro": "tests/train: same gradients whatever the micro-batch",
    "model.checkpointing": "tests/model/test_gpt.py: same numbers, recomputed",
    "budget.seconds": "tests/train",
    "study": "tests/config/test_composition.py",
    "runs_dir": "everywhere in the tests",
    "device": "tests/cli/test_wrong_inputs.py",
    "compile": "tests/train",
    "chunked_loss": "tests/cost/test_loss_chunks.py and tests/train/test_resolve_auto.py",
    "force": "tests/train",
    "match": "tests/cost/test_match.py",
    "match_to": "tests/cost/test_match.py",
    "resume_from": "tests/train/begin_from/test_continuation.py",
    "model_from": "tests/train/begin_from/test_model_from.py",
    **dict.fromkeys(
        ("adapt.rank", "adapt.alpha", "adapt.targets", "adapt.bits", "adapt.group"),
        "tests/adapt/test_lora.py and tests/train/adaptation: they need a run to begin with",
    ),
    **dict.fromkeys(("eval.tasks", "eval.shots", "eval.items"), "tests/evaluate/test_tasks.py: what decides a sweep"),
    "probe": "tests/train/probe/test_light_probe.py: what it writes, and that training is the same",
    "gpus_per_trial": "tests/train/parallel: the same numbers, on several devices",
    "label": "tests/config/test_composition.py",
}


def _cases() -> list[tuple[str, str, str]]:
    cases = []
    for kind, name in TRAINED:
        if kind == "optim" and name != "adamw":  # tests/optim/test_optimizers.py: what each option changes in a step
            continue
        if kind not in ("tracker", "kernel", "precision") and (kind, name) not in ELSEWHERE:
            cases += [(kind, name, f"{kind}.{key}") for key in registry.get(kind, name).options]
    fixed = [key for key in tiny_config().flat() if key.split(".")[0] not in registry.KINDS and key != "scale.name"]
    cases += [("", "", key) for key in fixed]
    return [case for case in cases if case[2] not in KEYS_ELSEWHERE]


def _observed(run: Path) -> tuple[Any, ...]:
    """What a run computed and left, without times."""
    rows = [
        {key: value for key, value in row.items() if key != "seconds" and not key.startswith("perf/")}
        for row in _rows(run)
    ]
    shapes = {name: tuple(t.shape) for name, t in load_file(run / "checkpoints" / "last" / "model.safetensors").items()}
    names = sorted(path.name for path in run.glob("checkpoints/*"))
    samples = {path.name: path.read_text() for path in run.glob("samples/*")}
    return rows, shapes, names, samples


@pytest.fixture(scope="module")
def usual(corpus: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Any]:
    """What a run of some settings computed and left; those of most keys are the same, and trained once."""
    known: dict[str, Any] = {}

    def find(settings: dict[str, Any]) -> Any:
        name = json.dumps(settings, sort_keys=True)
        if name not in known:
            known[name] = _observed(_train(corpus, tmp_path_factory.mktemp("before"), settings))
        return known[name]

    return find


@pytest.mark.parametrize(("kind", "name", "key"), _cases())
def test_a_key_is_honoured(
    kind: str, name: str, key: str, corpus: dict[str, str], usual: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    changed = CHANGES_OF.get((name, key)) or CHANGES[key]
    value, under = changed if isinstance(changed, tuple) else (changed, {})
    settings: dict[str, Any] = {"budget.steps": 2, "eval.every": 2} | under
    if kind:
        settings[kind] = name
    if value is None:
        value = not registry.get(kind, name).options[key.split(".")[1]].default
    if name == "synthetic":
        settings["scale.context"] = 32
    if name == "shakespeare":
        settings |= SMALL_SPLIT
        value = 0.001 if key == "data.val_fraction" else value
    if key.startswith("budget.") and key != "budget.steps":
        del settings["budget.steps"]
        other = {"budget.tokens": 640.0} if key == "budget.tokens" else {"budget.flops": 3e8}
        before = settings | other
    else:
        before = settings
    after = _train(corpus, tmp_path / "after", settings | {key: value})
    assert usual(before) != _observed(after)
