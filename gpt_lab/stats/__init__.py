"""Statistics of paired comparisons: arrays in, arrays out. The folder needs numpy and scipy alone and can be copied.

From a notebook: compare(variant, baseline), power(...), sample_size(...). They are imported when first asked for, as
tiers, which a plan reads, must come without scipy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plain import Verdict as Verdict
    from .plain import compare as compare
    from .power_analysis import power as power
    from .power_analysis import sample_size as sample_size

PLACES = {"compare": "plain", "Verdict": "plain", "power": "power_analysis", "sample_size": "power_analysis"}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
