"""The typed sweep: what it compares, and how its runs are drawn. Made by sweep_file.py alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpt_lab.study.design import Design
from gpt_lab.study.format import grid
from gpt_lab.study.format.early_terminate import Hyperband
from gpt_lab.study.format.grid import Rules, Values
from gpt_lab.study.format.parameters import Parameter
from gpt_lab.study.format.tune_block import TuneBlock

Method = Literal["grid", "random", "bayes"]


@dataclass(frozen=True)
class Sweep:
    """All that a sweep file says, each thing checked once.

    Fields:
        path: the file.
        design: what is compared with what, by which metric; fractions of a factorial and sequential seeds included.
        method: how values are drawn.
        parameters: each setting that the file names, in its order, those with one value included; none for a sweep that
            a ledger keeps and whose settings are no longer there.
        rules: of a grid, the combinations that go together or are left out.
        tune: what is tuned within each arm; None: nothing.
        trunk: whether runs that differ in their budget alone share training.
        match: what the arms are made equal in; None: nothing.
        command: settings that the file's command gives every run.
        target: value of the metric at which no other run is begun. early_terminate: which runs are ended early.
        overrides: settings of the command line that hold for every run.
        run_cap: how many runs at most.
        content: the file as it stands, for the ledger's copy; nothing else reads it.
    """

    path: Path
    design: Design
    method: Method = "grid"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    tune: TuneBlock | None = None
    trunk: bool = False
    match: Literal["params", "flops"] | None = None
    command: tuple[str, ...] = ()
    target: float | None = None
    early_terminate: Hyperband | None = None
    overrides: tuple[str, ...] = ()
    run_cap: int | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def swept(self) -> dict[str, Parameter]:
        """The parameters that runs may differ in."""
        return swept(self.parameters)

    @property
    def listed(self) -> bool:
        """Whether its cells are known before the first run."""
        return self.method == "grid" and not self.design.tuning_pairs

    def combinations(self) -> list[Values]:
        """The values of every combination of a grid, in order (grid.combinations)."""
        return grid.combinations(self.swept, self.design.pair, self.rules)


def swept(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Those of the parameters that runs may differ in."""
    return {name: parameter for name, parameter in parameters.items() if parameter.swept}
