"""Hydra's config source and search path for what is no file of the shipped conf/: project, experiments/, parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from gpt_lab import project, registry, yamlfile
from gpt_lab.config import setting_names
from gpt_lab.errors import ConfigError, quoted, unknown

SCHEME = "gptlab"
LAID_OVER = "laid_over"
"""Path of the source that has config.yaml alone."""


def laid_over() -> dict[str, Any]:
    """The shipped conf/config.yaml with what the project's own states: defaults by group, values by key.

    Raises:
        ConfigError: the project's file states what there is not, or what something else would overrule.
    """
    base = yamlfile.read(project.shipped("conf") / "config.yaml")
    found = project.own_config()
    if found is None:
        return base
    path, mine = found
    chosen = _defaults(path, mine.get("defaults") or [])
    before = {key: value for item in base["defaults"] if isinstance(item, Mapping) for key, value in item.items()}
    preset = chosen.get("model", before["model"])
    others = {key: value for key, value in mine.items() if value != base.get(key)}
    _refuse_overruled(path, others, {group: name for group, name in chosen.items() if name != before[group]}, preset)
    base["defaults"] = [
        {key: chosen.get(key, name) for key, name in item.items()} if isinstance(item, Mapping) else item
        for item in base["defaults"]
    ]
    for key, value in mine.items():
        if key in ("defaults", project.PARTS, "hydra"):
            base.update({key: value} if key == "hydra" else {})
        elif key in (*registry.KINDS, "scale"):
            raise ConfigError(
                f"{path}: {key} is a group: choose under defaults (- {key}: NAME); its values stand in "
                f"{path.parent.name}/{key}/NAME.yaml"
            )
        elif key not in base:
            if "." in str(key):
                section, _, rest = str(key).partition(".")
                raise ConfigError(
                    f"{path}: {key}: dotted names are for the command line; in a file write {section}: {{{rest}: ...}}"
                )
            raise ConfigError(f"{path}: {setting_names.unknown_setting('key', str(key), set(base) - {'defaults'})}")
        else:
            base[key] = _section(path, key, base[key], value) if isinstance(base[key], Mapping) else value
    return base


def _defaults(path: Path, own: Any) -> dict[str, str]:
    """Group -> option, of a list of defaults in the project's conf/config.yaml."""
    groups = (*registry.KINDS, "scale", "model")
    chosen: dict[str, str] = {}
    for item in own if isinstance(own, list) else [own]:
        if item == "_self_":
            continue
        pairs = list(item.items()) if isinstance(item, Mapping) else []
        group = str(pairs[0][0]).removeprefix("override ").strip("/ ") if len(pairs) == 1 else ""
        if group not in groups:
            raise ConfigError(
                f"{path}: defaults lists one group a line, such as `- optim: muon`, not {quoted(item)} "
                f"(groups: {', '.join(groups)})"
            )
        if pairs[0][1] not in setting_names.choices(group):
            raise ConfigError(f"{path}: {unknown(group, pairs[0][1], setting_names.choices(group))}")
        chosen[group] = pairs[0][1]
    return chosen


def _section(path: Path, name: str, base: Mapping[str, Any], own: Any) -> dict[str, Any]:
    if not isinstance(own, Mapping):
        raise ConfigError(f"{path}: {name} is a section, not a value: {quoted(own)}")
    for key in own:
        if key not in base:
            raise ConfigError(f"{path}: {unknown(f'key of {name}:', key, base)}")
    kept = dict.fromkeys(base) if name == "budget" and own else base  # naming one budget lifts the default one
    return {**kept, **own}


def _refuse_overruled(path: Path, mine: Mapping[str, Any], chosen: Mapping[str, str], preset: str) -> None:
    """Refuses what the preset in use, which comes after config.yaml, chooses or sets otherwise."""
    content = yamlfile.read(project.files("conf", "model")[preset])
    picks: dict[str, Any] = {}
    for item in content.get("defaults") or []:
        if isinstance(item, Mapping):
            picks |= {str(key).removeprefix("override ").strip("/ "): name for key, name in item.items()}
    lost = [group for group, name in chosen.items() if picks.get(group, name) != name]
    for section, values in content.items():
        own = mine.get(section)
        if isinstance(own, Mapping) and isinstance(values, Mapping):
            lost += [f"{section}.{key}" for key in own if values.get(key, own[key]) != own[key]]
    if lost:
        raise ConfigError(
            f"{path}: {lost[0]} is set by model={preset}, which comes after: state it in a preset of your own, "
            f"{path.parent.name}/model/NAME.yaml, and choose that under defaults (- model: NAME)"
        )


def _default(option: registry.Option) -> Any:
    return "???" if option.default is registry.REQUIRED else option.default


class LabSource(ConfigSource):
    """Serves experiment/<name> from experiments/ and <kind>/<name> from the registry's index; or config.yaml alone."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def _experiment(self, config_path: str) -> Path | None:
        group, _, name = config_path.partition("/")
        if group != "experiment" or not name:
            return None
        return project.files("experiments").get(name.removesuffix(".yaml"))

    @property
    def _first(self) -> bool:
        return self.path.endswith(LAID_OVER)

    def _part(self, config_path: str) -> registry.Part | None:
        kind, _, name = config_path.removesuffix(".yaml").partition("/")
        return registry.index().get(kind, {}).get(name)

    def load_config(self, config_path: str) -> ConfigResult:
        header: dict[str, str | None] = {"package": None}
        if self._first:
            merged = OmegaConf.create(laid_over())
            return ConfigResult(config=merged, path=f"{SCHEME}://{LAID_OVER}", provider=self.provider, header=header)
        experiment = self._experiment(config_path)
        if experiment is not None:
            content = yamlfile.read(experiment)
            header = ConfigSource._get_header_dict(experiment.read_text(encoding="utf-8"))
            config = OmegaConf.create(content)
        else:
            part = self._part(config_path)
            if part is None:
                raise ConfigLoadError(f"no config {config_path}")
            config = OmegaConf.create({"name": part.name} | {k: _default(o) for k, o in part.options.items()})
        return ConfigResult(config=config, path=f"{SCHEME}://", provider=self.provider, header=header)

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return not self._first and (config_path in registry.KINDS or config_path == "experiment")

    def is_config(self, config_path: str) -> bool:
        if self._first:
            return config_path.removesuffix(".yaml") == "config"
        return self._experiment(config_path) is not None or self._part(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if self._first:
            return []
        if results_filter == ObjectType.GROUP:
            return [*registry.KINDS, "experiment"] if config_path == "" else []
        if config_path == "experiment":
            return list(project.files("experiments"))
        return list(registry.index().get(config_path, {}))


class LabSearchPath(SearchPathPlugin):
    """The project's conf/ before the shipped one, and behind both what has no YAML."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        mine = project.own("conf")
        if mine is not None:
            search_path.prepend(provider="gpt_lab", path=f"{SCHEME}://{LAID_OVER}", anchor="main")
            search_path.prepend(provider="project", path=f"file://{mine}", anchor="main")
        search_path.append(provider="gpt_lab", path=f"{SCHEME}://")


def install() -> None:
    """Makes both known to Hydra; a second call changes nothing."""
    plugins = Plugins.instance()
    if LabSearchPath not in plugins.discover(SearchPathPlugin):
        plugins.register(LabSource)
        plugins.register(LabSearchPath)
