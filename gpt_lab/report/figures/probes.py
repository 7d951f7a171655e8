"""What `probe=light` noted while the runs trained: attention, activations, updates, gradients, noise scale."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_lab.errors import DataError
from gpt_lab.report.figures.base import Drawing, canvas, ellipsis
from gpt_lab.report.figures.material import Material
from gpt_lab.store.atomic_files import Lines
from gpt_lab.store.metric_lines import read_lines
from gpt_lab.store.run import PROBED
from gpt_lab.train.probe.light_probe import noise_scale

MOST = 6
Row = Mapping[str, Any]


def _layers(name: str, summary: Callable[[list[float]], Any]) -> Callable[[list[Row]], float]:
    """A value of the last line, over its layers."""

    def value(rows: list[Row]) -> float:
        found = [v for key, v in rows[-1].items() if re.fullmatch(rf"layer\d+/{name}", key)]
        return float(summary(found)) if found else np.nan

    return value


def _total(name: str) -> Callable[[list[Row]], float]:
    def value(rows: list[Row]) -> float:
        found = [v for key, v in rows[-1].items() if key.startswith(f"{name}/")]
        return float(np.sqrt(np.sum(np.square(found)))) if found else np.nan

    return value


def _largest(name: str) -> Callable[[list[Row]], float]:
    return lambda rows: max((v for key, v in rows[-1].items() if key.startswith(f"{name}/")), default=np.nan)


PANELS: Mapping[str, Callable[[list[Row]], float]] = {
    "attention entropy, mean (nats)": _layers("entropy", np.mean),
    "largest attention logit": _layers("logit", np.max),
    "activation RMS, largest layer": _layers("rms", np.max),
    "activation kurtosis, largest layer": _layers("kurtosis", np.max),
    "dead MLP units, mean": _layers("dead", np.mean),
    "update / weight, largest group": _largest("update_ratio"),
    "gradient norm before clipping": _total("grad_norm"),
    "gradient noise scale (targets)": lambda rows: noise_scale([dict(row) for row in rows]),
}
"""What each panel shows, of the lines of a run up to one place."""


def draw(material: Material) -> Drawing | None:
    """One panel for each kind of number, a line for each run in its arm's look; None where no run was probed."""
    shown = material.shown(MOST)
    probed = {row.arm: [_read(str(run)) for run in material.finished(row)["run"]] for row in shown}
    probed = {arm: [rows for rows in runs if rows] for arm, runs in probed.items()}
    if not any(probed.values()):
        return None
    panels = [name for name, value in PANELS.items() if _known(value, probed)]
    figure = canvas(0.5 + 1.5 * ((len(panels) + 1) // 2))
    for place, name in enumerate(panels):
        axes = figure.add_subplot((len(panels) + 1) // 2, 2, place + 1)
        axes.set_title(name)
        for arm, runs in probed.items():
            style = material.styles[arm]
            for number, rows in enumerate(runs):
                axes.plot(
                    [row["step"] for row in rows],
                    [PANELS[name](rows[: end + 1]) for end in range(len(rows))],
                    color=style.colour,
                    ls=style.dash,
                    lw=style.width,
                    marker=style.marker if len(rows) < 3 else None,
                    label=ellipsis(material.names[arm], 40) if place == 0 and number == 0 else None,
                )
        axes.set_xlabel("step" if place >= len(panels) - 2 else "")
    figure.legend(loc="outside lower center", ncols=3)
    caption = (
        "Noted at each evaluation by probe=light, a line for each run. The noise scale is the ratio of means over all "
        "lines so far; where it is not drawn, the lines do not say."
    )
    return Drawing("probes", "Inside the runs", caption + material.cut(shown), figure)


def _read(run: str) -> list[Row]:
    path = Path(run) / PROBED
    try:
        return list(read_lines(path, Lines(path).read())[0])
    except DataError:
        return []


def _known(value: Callable[[list[Row]], float], probed: Mapping[Any, list[list[Row]]]) -> bool:
    return any(np.isfinite(value(rows)) for runs in probed.values() for rows in runs)
