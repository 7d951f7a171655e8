"""Composition of a RunConfig from conf/ and overrides, by Hydra where plain_files does not do. Imports no torch."""

from __future__ import annotations

import contextlib
import copy
import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_lab import options, project, registry, yamlfile
from gpt_lab.config import auto_scale, checked, combinations, plain_files, setting_names
from gpt_lab.config.overrides import readable
from gpt_lab.config.schema import RunConfig
from gpt_lab.config.setting_names import GROUPS, SECTIONS
from gpt_lab.console.invocation import prefix
from gpt_lab.errors import ConfigError, one_line, quoted, unknown

_UNNAMED = frozenset(
    {
        *("seed", "study", "runs_dir", "device", "force", "tracker", "budget", "log", "eval", "checkpoint", "match_to"),
        *("parallel", "gpus_per_trial"),
    }
)
"""Keys that say nothing of the question a run answers, left out of its label."""


def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """The checked config of `conf/config.yaml` with command-line overrides (`optim=muon`, `optim.lr=0.01`).

    Raises:
        ConfigError: an override that is malformed, unknown, of the wrong type, out of range or impossible with another.
    """
    return checked.from_dict(compose_tree(overrides) | {"label": label(overrides)})


def compose_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """The composed, unchecked tree of settings: groups, then single values in the order given."""
    return Composer(factored=False).tree(overrides)


class Composer:
    """Composes many command lines in milliseconds each: what is made of a choice of groups is kept.

    Args:
        factored: compose each group's choice once and put the results together, instead of each combination. The
            result is the same: a choice that changes more than its own group is composed as a whole.
    """

    def __init__(self, factored: bool = True) -> None:
        self._factored = factored
        self._made: dict[tuple[str, ...], dict[str, Any]] = {}
        self._parsed: dict[str, Any] = {}

    def compose(self, overrides: Sequence[str]) -> RunConfig:
        """As the function `compose`."""
        return checked.from_dict(self.tree(overrides) | {"label": label(overrides)})

    def tree(self, overrides: Sequence[str]) -> dict[str, Any]:
        """As the function `compose_tree`."""
        parsed = [self._parse(text) for text in overrides]
        _refuse_twice(parsed)
        groups = [p.input_line for p in parsed if _is_group(p)]
        tree = copy.deepcopy(self._grouped(groups))
        _drop_foreign_options(tree, {p.key_or_group for p in parsed if p.key_or_group in registry.KINDS})
        for override in parsed:
            if setting_names.lettered(override.key_or_group) in registry.KINDS:
                _swap_letter(tree, override.key_or_group, override.value())
        leaves = set(_leaves(tree))
        budgets: list[str] = []
        for override in parsed:
            key = override.key_or_group
            if _is_group(override):
                continue
            _refuse_structure(override, tree, leaves)
            _set(tree, key, override.value())
            if key.startswith("budget."):
                budgets.append(key.removeprefix("budget."))
        if budgets:  # the last word: naming one budget lifts the default one
            for name in set(tree["budget"]) - set(budgets):
                tree["budget"][name] = None
        tree = _resolved(tree)
        auto_scale.apply(tree, {p.key_or_group: p.value() for p in parsed})
        combinations.refuse_ignored({p.key_or_group for p in parsed}, tree)
        return tree

    def _parse(self, text: str) -> Any:
        if text not in self._parsed:
            self._parsed[text] = _parse(text)
        return self._parsed[text]

    def _grouped(self, groups: list[str]) -> dict[str, Any]:
        """The tree of a choice of groups, not to be changed."""
        kinds = [text for text in groups if text.partition("=")[0] in (*registry.KINDS, "scale")]
        names = {text.partition("=")[0] for text in kinds}
        if not self._factored or len(kinds) < 2 or len(names) < len(kinds):
            return self._composed(groups)
        rest = [text for text in groups if text not in kinds]
        base = self._composed(rest)
        tree = dict(base)
        for text in kinds:
            key = text.partition("=")[0]
            one = self._composed([*rest, text])
            if any(one[other] != base[other] for other in {*one, *base} - {key}):
                return self._composed(groups)
            tree[key] = one[key]
        return tree

    def _composed(self, groups: list[str]) -> dict[str, Any]:
        if tuple(groups) not in self._made:
            self._made[tuple(groups)] = plain_files.compose(groups) or _by_hydra(groups)
        return self._made[tuple(groups)]


def label(overrides: Sequence[str]) -> str:
    """A short name of what a command line changes: `gqa_rope-muon-lr0.01`; empty for the default."""
    words = []
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key.split(".")[0] in _UNNAMED:
            continue
        words.append(value if key in GROUPS else key.split(".")[-1] + value)
    slug = re.sub(r"[^A-Za-z0-9_.=+]+", "-", "-".join(words)).strip("-")
    return slug[:80]


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from gpt_lab.config import conf_source

    conf_source.install()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(project.shipped("conf")), version_base="1.3"):
        yield


def _by_hydra(groups: list[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    with _hydra():
        return typing.cast(dict[str, Any], OmegaConf.to_container(_compose_groups(groups)))


def _parse(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if text.startswith("-"):
        meant = setting_names.closest_settings(text.lstrip("-").partition("=")[0])
        way = f"; did you mean {meant[0]}=...?" if meant else ""
        raise ConfigError(f"unknown flag {quoted(text)}{way} (flags: --help, --cfg; settings are written key=value)")
    if "=" not in text:
        raise ConfigError(f"{quoted(text)} is no setting: write key=value, such as optim=muon or optim.lr=0.01")
    try:
        override = OverridesParser.create().parse_override(readable(text))
    except (HydraException, ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        reason = one_line(str(error).partition("\n")[0], 200)
        raise ConfigError(f"cannot read {quoted(text)}: {reason} (quote values as key='text')") from None
    key = override.key_or_group
    if key.partition(".")[0] == "hydra":
        raise ConfigError(
            f"{quoted(text)}: Hydra only composes the settings here, and nothing reads its own: a run's folder is set "
            "by runs_dir=... and study=..."
        )
    if override.is_sweep_override():
        raise ConfigError(f"{key} has several values: one run takes one (grids are for `{prefix()}sweep`)")
    if override.is_delete():
        raise ConfigError(f"{quoted(text)}: nothing can be deleted; set {key} to another value")
    if override.package is not None:
        raise ConfigError(f"{quoted(text)}: packages (@) cannot be given; write {key}=...")
    if override.is_add() and key != "experiment":
        raise ConfigError(f"{quoted(text)}: keys cannot be added; only +experiment=NAME takes a plus")
    return override


def _refuse_twice(parsed: Sequence[Any]) -> None:
    """Refuses a setting with two values: which of them is meant?"""
    first: dict[str, Any] = {}
    for override in parsed:
        key = override.key_or_group
        before = first.setdefault(key, override)
        if before is not override and before.value() != override.value():  # nan is not equal to itself
            given = " and ".join(quoted(one.input_line) for one in (before, override))
            raise ConfigError(f"{key} is given twice, as {given}: leave one out")


def _is_group(override: Any) -> bool:
    return override.key_or_group in GROUPS


def _compose_groups(groups: list[str]) -> Any:
    import yaml
    from hydra import compose as hydra_compose
    from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    final = []
    for text in groups:
        key, _, value = text.lstrip("+").partition("=")
        if key in GROUPS:
            allowed = setting_names.choices(key)
            if value not in allowed:
                raise ConfigError(unknown(key, value, allowed))
            text = f"+experiment={value}" if key == "experiment" else text
        final.append(text)
    try:
        return hydra_compose(config_name="config", overrides=final)
    except MissingConfigException as error:
        raise ConfigError(_missing(str(error), groups)) from None
    except (ConfigCompositionException, HydraException) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        where = getattr(getattr(error, "problem_mark", None), "name", "conf/")
        raise ConfigError(f"{where} cannot be read: {yamlfile.reason(error)}") from None


def _missing(message: str, groups: list[str]) -> str:
    """The line of a preset or experiment that names an option which there is not, from what Hydra says of it."""
    found = re.search(r"Could not (?:find|load) '([^']+)'", message)
    if found is None:
        return message.partition("\n")[0]
    group, _, name = found[1].rpartition("/")
    chosen = [text.lstrip("+").partition("=") for text in groups]
    files = [
        project.files("experiments") if key == "experiment" else project.files("conf", key) for key, _, _ in chosen
    ]
    paths = [stems[stem] for stems, (_, _, stem) in zip(files, chosen, strict=True) if stem in stems]
    where = next((path for path in paths if name in path.read_text(encoding="utf-8")), Path("conf"))
    if group not in GROUPS:
        return f"{where}: there is no {quoted(found[1])}: defaults name an option of a group, such as optim: muon"
    return f"{where}: {unknown(group, name, setting_names.choices(group))}"


def _drop_foreign_options(tree: Any, swapped: set[str]) -> None:
    """A preset's setting of a part's option goes with that part when the command line swaps it.

    Options that the new part has too stay, so that one component alone changes; keys that no part of the kind
    has stay as well, to be refused.
    """
    for kind in swapped:
        parts = registry.index()[kind]
        own = parts[tree[kind]["name"]].options
        for key in [k for k in tree[kind] if k != "name" and k not in own]:
            if any(key in part.options for part in parts.values()):
                del tree[kind][key]


def _swap_letter(tree: Any, key: str, name: Any) -> None:
    """The same where the command line swaps the part of a letter or source, such as by attention.letters.G.name."""
    kind, *inside = key.split(".")
    if len(inside) == 3 and isinstance(letters := tree[kind].get(inside[0]), dict):
        taken = {} if (part := registry.index()[kind].get(name)) is None else part.options
        before = letters.get(inside[1])
        if isinstance(before, dict):
            kept = ("name", options.WEIGHT, *taken)
            letters[inside[1]] = {one: value for one, value in before.items() if one in kept}


def _refuse_structure(override: Any, tree: Any, leaves: set[str]) -> None:
    key = override.key_or_group
    group, _, rest = key.partition(".")
    if rest == "name" and group in GROUPS:
        raise ConfigError(f"{key} cannot be set: choose the whole part with {group}={override.value()}")
    if key in leaves:
        return
    if key in SECTIONS:
        inner = ", ".join(f"{key}.{name}" for name in tree[key])
        raise ConfigError(f"{key} is a section, not a value: set one of {inner}")
    if group in registry.KINDS and rest:
        option = rest.partition(".")[0]
        taken = registry.get(group, tree[group]["name"]).options
        if option in taken and taken[option].annotation in options.INSIDE:
            return  # checked with the part of the letter or source
        rest = option if setting_names.holds_parts(f"{group}.{option}") else rest
        raise ConfigError(setting_names.unknown_option(registry.get(group, tree[group]["name"]), rest))
    if group in SECTIONS and rest:
        inside = [name for name in tree[group] if name != "name"]
        close = difflib.get_close_matches(rest, inside, n=1, cutoff=0.5)
        raise ConfigError(unknown(f"key of {group}:", rest, inside, close or setting_names.closest_settings(key)))
    tops = sorted({leaf for leaf in leaves if "." not in leaf} | set(GROUPS) | set(SECTIONS))
    raise ConfigError(setting_names.unknown_setting("setting", key, tops))


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(tree.setdefault(section, {}), dict):
            tree[section] = {}
        tree = tree[section]
    tree[last] = value


def _resolved(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with its interpolations (`${seed}`) filled in."""
    if not any(isinstance(value, str) and "${" in value for value in _values(tree)):
        return tree
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(tree), resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def _values(tree: Any) -> Iterator[Any]:
    for value in tree.values() if isinstance(tree, Mapping) else tree:
        if isinstance(value, Mapping | list):
            yield from _values(value)
        else:
            yield value


def _leaves(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
