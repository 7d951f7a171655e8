"""Check of a sweep that is decided by a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt_lab.errors import ConfigError
from gpt_lab.evaluate.task_names import find_all
from gpt_lab.metrics import EVAL
from gpt_lab.study.design import Design

if TYPE_CHECKING:
    from gpt_lab.config.schema import RunConfig


def check(design: Design, cfg: RunConfig) -> None:
    """Refuses a metric of a task that the run is not measured on.

    Raises:
        ConfigError: the task is none of eval.tasks, or one of these is not known. DataError: no such file.
    """
    if not design.metric.startswith(EVAL):
        return
    name = design.metric.removeprefix(EVAL)
    if name not in [one.name for one in find_all(cfg.eval.tasks)]:
        raise ConfigError(
            f"metric {design.metric} needs each run to be measured on {name}, and eval.tasks is {cfg.eval.tasks}: "
            f"write parameters: eval.tasks: {{value: [{name}]}} (of a file, its path)"
        )
