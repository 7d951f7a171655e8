"""Runs that train adapters of another's weights: what that needs, and what it saves."""

from __future__ import annotations

from typing import NamedTuple

from gpt_lab.adapt import lora
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.model.gpt import GPT
from gpt_lab.train.precision import Precision


class Adapted(NamedTuple):
    """Numbers that a run trains, and that it keeps as they are."""

    trained: int
    frozen: int

    def note(self, state_bytes: int | None) -> tuple[str, ...]:
        """What that saves, in a line; none where nothing is frozen."""
        if not self.frozen:
            return ()
        total = self.trained + self.frozen
        line = f"adapters: {self.trained:,} of {total:,} parameters are trained"
        if state_bytes is not None:
            whole = round(state_bytes * total / self.trained)
            line += f"; the optimizer keeps {state_bytes / 1e6:.2f} MB, about {whole / 1e6:.2f} MB if it trained all"
        return (line,)


def prepare(model: GPT, cfg: RunConfig, precision: Precision) -> Adapted:
    """Gives a model, of which no weight is touched yet, the adapters of its config.

    Raises:
        ConfigError: as lora.attach; a precision that keeps the weights its own way.
    """
    if cfg.adapt.rank is not None and (precision.kept is not None or precision.name == "fp8"):
        raise ConfigError(
            f"adapt.rank={cfg.adapt.rank}: precision={cfg.precision['name']} has layers of its own: use precision=auto "
            "and, for frozen weights in few bits, adapt.bits=4"
        )
    if cfg.quantize.bits is not None and (precision.kept is not None or precision.name == "fp8"):
        raise ConfigError(f"quantize.bits rounds fp32 weights, which precision={cfg.precision['name']} has not")
    lora.attach(model, cfg)
    return Adapted(*lora.trained(model))
