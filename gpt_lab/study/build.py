"""Build check: whether the cells of a sweep can be built on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.study.design import Cell, join

if TYPE_CHECKING:
    from gpt_lab.data.base import Dataset
    from gpt_lab.train.resolve_auto import ResolvedRun


NOT_BUILT = frozenset({"seed", "replica", "study", "runs_dir", "label", "force", "eval", "log", "sample", "checkpoint"})
"""Top-level keys that decide nothing about whether a model can be built."""


class Builder:
    """Opens each data set once, and plans each distinct run once."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._plans: dict[str, ResolvedRun] = {}

    def dataset(self, cfg: RunConfig) -> Dataset:
        """The data of a config."""
        from gpt_lab.data.dataset import open_dataset

        order = (cfg.data_seed, cfg.budget) if len(cfg.row_lengths) > 1 else None  # says how many tokens steps have
        key = repr((sorted(cfg.data.items()), sorted(cfg.tokenizer.items()), cfg.scale.context, cfg.batch, order))
        if key not in self._datasets:
            self._datasets[key] = open_dataset(cfg)
        return self._datasets[key]

    @property
    def warnings(self) -> list[str]:
        """What the data opened so far have to say."""
        return list(dict.fromkeys(line for dataset in self._datasets.values() for line in dataset.warnings))

    def plan(self, cfg: RunConfig, cell: Cell) -> ResolvedRun:
        """What the trainer would decide for a config, which can be built, and whose parts see no future."""
        from gpt_lab import trackers
        from gpt_lab.train.leak_probe import causality, padding
        from gpt_lab.train.resolve_auto import check_size, resolve

        key = repr([(k, v) for k, v in cfg.flat().items() if _built(k) and not tuned(k, v)])
        if key not in self._plans:
            try:
                trackers.check(cfg.tracker)
                check_size(cfg)
                dataset = self.dataset(cfg)
                made = resolve(cfg, dataset)
                causality.check_ahead(cfg, dataset.vocab_size)
                padding.check(cfg)
            except (ConfigError, DataError) as error:
                raise type(error)(f"cell {cell.index} ({join(tuple(cell.values), cell.values)}): {error}") from None
            self._plans[key] = made
        return self._plans[key]

    def check(self, cells: Sequence[Cell], configs: Sequence[RunConfig]) -> None:
        """Plans every cell: each distinct model, optimizer and schedule is built without touching a weight.

        Raises:
            ConfigError, DataError: a cell that cannot be built on this machine, named with its values.
        """
        for cfg, cell in zip(configs, cells, strict=True):
            self.plan(cfg, cell)


def _built(key: str) -> bool:
    """Whether a setting changes what is built, or what is checked then."""
    return key == "eval.contexts" or key.split(".")[0] not in NOT_BUILT


def tuned(key: str, value: Any) -> bool:
    """Whether a setting is a number of the optimizer or the schedule: it changes no shape and costs no time."""
    return key.split(".")[0] in ("optim", "schedule") and isinstance(value, float)
