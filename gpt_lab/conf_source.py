"""Hydra's view of what lies outside conf/: experiments/ as the group `experiment`, registered parts without a YAML."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from gpt_lab import registry, yamlfile
from gpt_lab.errors import ConfigError

SCHEME = "gptlab"


def conf_dir() -> Path:
    """The folder of config groups: $GPT_LAB_CONF, ./conf, the one of the source tree, the packaged copy."""
    return _find("GPT_LAB_CONF", "conf", "config.yaml")


def experiments_dir() -> Path:
    """The folder of experiments: $GPT_LAB_EXPERIMENTS, ./experiments, the source tree's, the packaged copy."""
    return _find("GPT_LAB_EXPERIMENTS", "experiments", "")


def sweeps_dir() -> Path:
    """The folder of sweep files: $GPT_LAB_SWEEPS, ./sweeps, the source tree's, the packaged copy."""
    return _find("GPT_LAB_SWEEPS", "sweeps", "")


def _find(variable: str, name: str, marker: str) -> Path:
    if variable in os.environ:
        chosen = Path(os.environ[variable])
        if not (chosen / marker).exists():
            raise ConfigError(f"{variable}={chosen} has no {marker or 'such folder'}")
        return chosen.resolve()
    package = Path(__file__).resolve().parent
    for place in (Path.cwd() / name, package.parent / name, package / name):
        if place.is_dir() and (place / marker).exists():
            return place.resolve()
    raise ConfigError(f"no folder {name}/ found here or in the installation: set {variable}")


def _default(option: registry.Option) -> Any:
    return "???" if option.default is registry.REQUIRED else option.default


class LabSource(ConfigSource):
    """Serves experiment/<name> from experiments/ and <kind>/<name> from the registry's index."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def _experiment(self, config_path: str) -> Path | None:
        group, _, name = config_path.partition("/")
        if group != "experiment" or not name:
            return None
        path = experiments_dir() / self._normalize_file_name(name)
        return path if path.is_file() else None

    def _part(self, config_path: str) -> registry.Part | None:
        kind, _, name = config_path.removesuffix(".yaml").partition("/")
        return registry.index().get(kind, {}).get(name)

    def load_config(self, config_path: str) -> ConfigResult:
        header: dict[str, str | None] = {"package": None}
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
        return config_path in registry.KINDS or config_path == "experiment"

    def is_config(self, config_path: str) -> bool:
        return self._experiment(config_path) is not None or self._part(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if results_filter == ObjectType.GROUP:
            return [*registry.KINDS, "experiment"] if config_path == "" else []
        if config_path == "experiment":
            return sorted(path.stem for path in experiments_dir().glob("*.yaml"))
        return list(registry.index().get(config_path, {}))


class LabSearchPath(SearchPathPlugin):
    """Puts LabSource behind conf/: a YAML of the user's wins over the registry's defaults."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="gpt_lab", path=f"{SCHEME}://")


def install() -> None:
    """Makes both known to Hydra; a second call changes nothing."""
    plugins = Plugins.instance()
    if LabSearchPath not in plugins.discover(SearchPathPlugin):
        plugins.register(LabSource)
        plugins.register(LabSearchPath)
