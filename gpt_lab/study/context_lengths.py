"""Check of a sweep's windows longer than the training context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt_lab import context_multiples
from gpt_lab.errors import ConfigError
from gpt_lab.study.design import Design

if TYPE_CHECKING:
    from gpt_lab.config.schema import RunConfig


def check(design: Design, cfg: RunConfig) -> None:
    """Refuses a metric at a multiple of the context at which the run is not validated.

    Raises:
        ConfigError: the multiple is none of eval.contexts.
    """
    _, times = context_multiples.split(design.metric)
    if times > 1 and times not in cfg.eval.contexts:
        raise ConfigError(
            f"metric {design.metric} needs a validation at {times} times the context, and eval.contexts is "
            f"{cfg.eval.contexts}: set it to a list with {times}, such as [1, {times}]"
        )
