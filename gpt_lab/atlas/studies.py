"""The sweeps of the atlas: one for each kind of part on each corpus, and one for a row that is run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt_lab import registry
from gpt_lab.errors import ConfigError, unknown
from gpt_lab.study import sweep_file
from gpt_lab.study.format import lookup
from gpt_lab.study.sweep import Sweep

CORPORA = ("shakespeare", "stdlib")
"""Plays in verse, and the Python standard library's source: every machine has both."""
SWEEPS = {
    "attention": "atlas/attention",
    "position": "atlas/position",
    "mlp": "atlas/mlp",
    "norm": "atlas/norm",
    "residual": "atlas/residual",
    "init": "atlas/init",
    "optim": "optim",
    "objective": "atlas/objective",
}
"""Kinds of parts, and the sweep over their options."""
LEFT_OUT: Mapping[tuple[str, str], str] = {
    ("mlp", "none"): "no depth or width brings it near the others' parameters at this scale",
    ("init", "deepnorm"): "it belongs to residual=post, not to this block",
    ("objective", "distill"): "it needs a teacher: the sweep distillation answers for it, by a report of its own",
    ("objective", "dpo"): "it is of pairs of answers: docs/fine-tuning.md",
    ("objective", "grpo"): "it is of answers to questions: docs/fine-tuning.md",
    ("objective", "mlm"): "it sees both sides of a token, so its loss is no bits per byte of text",
}
"""Options that no sweep of the atlas has, and why."""
AGAIN, TUNING_AGAIN = 100, 20_000
"""First seed, and first tuning seed, of a row that is run again: no other study of the lab counts from there."""


@dataclass(frozen=True)
class GroupStudy:
    """One sweep on one corpus.

    Fields:
        kind: of the parts that are compared. option: of a row that is run again on fresh seeds; "" for the group.
    """

    kind: str
    corpus: str
    sweep: Sweep
    option: str = ""

    @property
    def baseline(self) -> str:
        """The option that all others are compared with."""
        assert self.sweep.design.baseline is not None
        return str(self.sweep.design.baseline[self.kind])

    @property
    def options(self) -> list[str]:
        """All that the sweep compares, the baseline among them."""
        return list(map(str, self.sweep.design.values[self.kind]))

    @property
    def shipped(self) -> str:
        """The name of the sweep file, which is the same in every folder."""
        return SWEEPS[self.kind]

    @property
    def name(self) -> str:
        """Of its folder where results are kept: the kind, or kind-option of a row that is run again."""
        return f"{self.kind}-{self.option}" if self.option else self.kind


def group(kind: str, corpus: str, settings: Sequence[str] = (), option: str = "") -> GroupStudy:
    """The sweep over a kind of parts; over one option and the baseline, on seeds of its own, where `option` is given.

    Args:
        settings: overrides of every run (`scale=tiny`): another study, in a folder of its own.

    Raises:
        ConfigError: no such kind, option or corpus; the sweep cannot be had with these settings.
    """
    if kind not in SWEEPS:
        raise ConfigError(unknown("kind of the atlas", kind, SWEEPS))
    if corpus not in CORPORA:
        raise ConfigError(unknown("corpus of the atlas", corpus, CORPORA))
    overrides = [*([f"data={corpus}"] if corpus != CORPORA[0] else []), *settings]
    path = lookup.find(SWEEPS[kind])
    content = lookup.read(path)
    if option:
        content = _narrowed(content, kind, option)
    return GroupStudy(kind, corpus, sweep_file.read(path, content, overrides), option)


def chosen(only: Sequence[str], corpora: Sequence[str], settings: Sequence[str] = ()) -> list[GroupStudy]:
    """The studies of `--only attention position=alibi`: groups, and rows that are run again; all groups without any.

    Raises:
        ConfigError: as `group`.
    """
    asked = [word.partition("=")[::2] for word in only or SWEEPS]
    return [group(kind, corpus, settings, option) for kind, option in asked for corpus in corpora or CORPORA]


def _narrowed(content: Mapping[str, Any], kind: str, option: str) -> dict[str, Any]:
    """A sweep's content with one option beside the baseline, and other seeds."""
    block, parameters = content["gpt_lab"], content["parameters"]
    baseline, offered = block["baseline"][kind], parameters[kind]["values"]
    others = [name for name in offered if name != baseline]
    if option not in others:
        why = LEFT_OUT.get((kind, option), "")
        known = why and option in registry.index()[kind]
        raise ConfigError(f"{kind}={option} is not in the atlas: {why}" if known else unknown(kind, option, others))
    most = block["seeds"]["max"]
    narrowed = {**block, "study": f"{block['study']}_{option}_again", "family": f"{block['study']}_again"}
    if "tune" in block:
        tune = {key: _of_arms(value, kind, (baseline, option)) for key, value in block["tune"].items()}
        count = tune.get("seeds", 3)
        narrowed["tune"] = tune | {"seeds": list(range(TUNING_AGAIN, TUNING_AGAIN + count))}
    seeds = {"values": list(range(AGAIN, AGAIN + most))}
    return {
        **{key: value for key, value in content.items() if key != "command"},
        "parameters": {**parameters, kind: {"values": [baseline, option]}, "seed": seeds},
        "gpt_lab": narrowed,
    }


def _of_arms(value: Any, kind: str, kept: Sequence[str]) -> Any:
    """A tuned setting without what it says of other arms."""
    if not isinstance(value, Mapping):
        return value
    arms = [f"{kind}={name}" for name in kept]
    return {
        key: {arm: one for arm, one in stated.items() if arm in arms} if isinstance(stated, Mapping) else stated
        for key, stated in value.items()
    }
