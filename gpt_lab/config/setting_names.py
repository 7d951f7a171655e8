"""Names of settings, and the closest ones to a wrong name, those of other libraries included."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from gpt_lab import options, project, registry
from gpt_lab.config import sections
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import QUOTED, quoted, unknown

GROUPS = (*registry.KINDS, "scale", "model", "experiment")
SECTIONS: Mapping[str, type] = {
    "scale": sections.Scale,
    "model": sections.Model,
    "budget": sections.Budget,
    "batch": sections.Batching,
    "eval": sections.Eval,
    "checkpoint": sections.Checkpoint,
    "log": sections.Log,
    "sample": sections.Sample,
    "adapt": sections.Adapt,
    "quantize": sections.Quantize,
}
NAMES_ELSEWHERE: Mapping[str, str] = {
    "seed": "random_seed rng_seed",
    "runs_dir": "out_dir output_dir save_dir log_dir",
    "study": "run_name exp_name experiment_name",
    "compile": "torch_compile use_compile",
    "chunked_loss": "fused_loss fused_ce fused_cross_entropy liger",
    "scale": "size model_size",
    "scale.depth": "layers n_layer n_layers num_layers num_hidden_layers",
    "scale.width": "n_embd n_embed d_model dim embed_dim hidden_size model_dim",
    "scale.heads": "n_head n_heads num_heads num_attention_heads",
    "scale.context": "block_size context_length seq_len seq_length sequence_length max_seq_len n_ctx n_positions",
    "model": "arch architecture preset",
    "model.tied": "tie_embeddings tied_embeddings tie_word_embeddings weight_tying",
    "model.checkpointing": "gradient_checkpointing activation_checkpointing",
    "attention": "attn attention_type",
    "attention.kv_heads": "n_kv_head n_kv_heads num_kv_heads num_key_value_heads",
    "attention.window": "window_size sliding_window",
    "position": "pos pos_enc pos_emb pos_encoding position_encoding position_embedding positional_encoding",
    "position.base": "theta rope_theta rope_base",
    "norm": "normalization norm_type",
    "norm.eps": "norm_eps layer_norm_eps rms_norm_eps",
    "mlp": "ffn feed_forward activation activation_function",
    "mlp.d_ff": "ffn_dim ffn_hidden_size hidden_dim intermediate_size n_inner",
    "kernel": "attn_implementation attention_kernel",
    "precision": "dtype amp mixed_precision",
    "objective": "loss criterion",
    "parallel": "strategy distributed distributed_strategy",
    "gpus_per_trial": "nproc_per_node num_gpus n_gpus gpus devices world_size num_processes num_devices",
    "tracker": "logger wandb",
    "data": "dataset corpus",
    "data.path": "data_path data_dir train_file",
    "data.val_path": "val_file validation_file",
    "optim": "optimizer opt",
    "optim.lr": "learning_rate max_lr peak_lr base_lr",
    "optim.weight_decay": "wd weight_decay",
    "optim.clip": "grad_clip clip_grad gradient_clip_val max_grad_norm",
    "optim.beta1": "beta_1 adam_beta1",
    "optim.beta2": "beta_2 adam_beta2",
    "schedule": "scheduler lr_scheduler lr_schedule lr_scheduler_type",
    "schedule.warmup": "warmup_steps warmup_iters warmup_ratio warmup_fraction num_warmup_steps",
    "schedule.final": "min_lr final_lr",
    "budget.steps": "max_steps max_iters n_steps num_steps train_steps num_iterations iterations iters",
    "budget.tokens": "max_tokens train_tokens num_tokens n_tokens epochs num_epochs max_epochs num_train_epochs",
    "batch.tokens": "batch_size total_batch_size train_batch_size global_batch_size",
    "batch.start": "start_batch_size initial_batch_size",
    "batch.ramp": "rampup_batch_size batch_size_warmup rampup_samples",
    "batch.micro": "micro_batch_size device_batch_size per_device_train_batch_size gradient_accumulation_steps",
    "eval.every": "eval_every eval_interval eval_freq eval_steps val_interval",
    "eval.tokens": "eval_iters eval_batches",
    "log.every": "log_every log_interval logging_steps",
    "checkpoint.every": "save_every save_interval save_steps checkpoint_interval ckpt_every",
}
"""What other code bases call our settings."""


def choices(group: str) -> list[str]:
    """The options of one group, from conf/, experiments/ and the registry: the project's and the shipped ones."""
    if group == "experiment":
        return list(project.files("experiments"))
    return sorted({*project.files("conf", group), *registry.index().get(group, {})})


@functools.cache
def settings() -> Mapping[str, tuple[Any, ...]]:
    """Every name that a command line may set, with the types that its value may have (of an option: in any part)."""
    found: dict[str, tuple[Any, ...]] = dict.fromkeys(GROUPS, ())
    for kind, parts in registry.index().items():
        for part in parts.values():
            for key, option in part.options.items():
                found[f"{kind}.{key}"] = (*found.get(f"{kind}.{key}", ()), option.annotation)
                if option.annotation == options.Sources:
                    found[f"{kind}.{options.WEIGHT}"] = (options.PositiveFloat,)
    hints = typing.get_type_hints(RunConfig, include_extras=True)
    for f in dataclasses.fields(RunConfig):
        if f.name in SECTIONS:
            for key, hint in typing.get_type_hints(SECTIONS[f.name], include_extras=True).items():
                found[f"{f.name}.{key}"] = (hint,)
        elif f.name not in registry.KINDS and not f.metadata.get("derived"):
            found[f.name] = (hints[f.name],)
    return {name: types for name, types in found.items() if not name.endswith(".name")}


def lettered(name: str) -> str:
    """The setting whose values one of a letter or of a source takes, any other name as it is.

    `attention.kv_heads` for `attention.letters.G.kv_heads`, the group for `attention.letters.G.name`.
    """
    kind, *rest = name.split(".")
    if len(rest) == 3 and holds_parts(f"{kind}.{rest[0]}"):
        return kind if rest[2] == "name" else f"{kind}.{rest[2]}"
    return name


def holds_parts(name: str) -> bool:
    """Whether the values of a setting are parts with options of their own: letters, sources."""
    return any(one in options.INSIDE for one in settings().get(name, ()))


def closest_settings(name: str) -> list[str]:
    """The settings that a wrong name stands for, the likeliest first; none where nothing is like it.

    A name of another code base (`n_layer`), a path without its section (`lr`), a misspelt word (`bugdet.steps`).
    """
    known = settings()
    key = name[: 2 * QUOTED].strip().lower().replace("-", "_")
    head, dot, rest = key.partition(".")
    leaf = key.rpartition(".")[2]
    section = _section(head)
    if dot and f"{section}.{rest}" in known:
        return [f"{section}.{rest}"]
    theirs = _other_names()
    for said in (key, leaf):
        if said in theirs:
            return [theirs[said]]
    same = [one for one in known if one.rpartition(".")[2] == leaf]
    if same:
        return sorted(same, key=lambda one: (not one.startswith(f"{section}."), one not in _always(), one))[:4]
    if not dot and section in known:
        return [section]
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.75):
        return close
    leaves = {one.rpartition(".")[2] for one in known}
    close = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)
    return [one for one in known if close and one.rpartition(".")[2] == close[0]][:4]


def unknown_setting(what: str, name: str, allowed: Iterable[str]) -> str:
    """The line of a setting that does not exist. `allowed` are the names there are, or those of its section."""
    return unknown(what, name, allowed, closest_settings(name))


def unknown_option(part: registry.Part, key: str) -> str:
    """The line of an option that a part does not have: which parts of its kind do, or what it has instead."""
    own = sorted(part.options)
    others = [f"{part.kind}={other.name}" for other in registry.index()[part.kind].values() if key in other.options]
    if others:
        have = "has it" if len(others) == 1 else "have it"
        return (
            f"{part.kind}={part.name} has no option {quoted(key)}: {', '.join(others)} {have}, as in "
            f"`{others[0]} {part.kind}.{key}=...` (options of {part.name}: {', '.join(own) or 'none'})"
        )
    close = difflib.get_close_matches(key[: 2 * QUOTED], own, n=1, cutoff=0.5)
    return unknown(f"key of {part.kind}={part.name}:", key, own, close or closest_settings(f"{part.kind}.{key}"))


@functools.cache
def _other_names() -> Mapping[str, str]:
    return {word: ours for ours, words in NAMES_ELSEWHERE.items() for word in words.split()}


@functools.cache
def _always() -> frozenset[str]:
    """Settings that every run has, whatever its parts."""
    return frozenset(name for name in settings() if name.partition(".")[0] not in registry.KINDS)


def _section(word: str) -> str:
    """The group or section that a word means: itself, what another code base calls so, the closest one."""
    ours = {*GROUPS, *SECTIONS}
    if word in ours:
        return word
    if _other_names().get(word) in ours:
        return _other_names()[word]
    close = difflib.get_close_matches(word, ours, n=1, cutoff=0.6)
    return close[0] if close else word
