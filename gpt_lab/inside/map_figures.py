"""Figures of attention maps, one a layer with a panel for each head, and of the norms of states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from gpt_lab.inside.attention_maps import AttentionMap, Inside, StateNorms
from gpt_lab.report.figures.base import COLOURS, WIDTH, Drawing, canvas, ellipsis, look, write

ACROSS = 4
"""Panels side by side."""
NAMED = 24
"""Most tokens that are written at the axes."""


def draw(seen: Inside, tokens: Sequence[str], folder: Path) -> list[tuple[Drawing, Path]]:
    """Writes NAME.svg and NAME.png of each layer into a folder; each drawing with its PNG.

    Args:
        tokens: their texts, in order.

    Raises:
        LabError: the folder cannot be written.
    """
    found = []
    with look():
        for one in seen.maps:
            found.append(_map(one, tokens))
        for kept in seen.states:
            found.append(_norms(kept, tokens))
        return [(drawing, write(drawing, folder)[1]) for drawing in found]


def _map(one: AttentionMap, tokens: Sequence[str]) -> Drawing:
    heads = len(one.weights_HTS)
    down = math.ceil(heads / ACROSS)
    across = min(heads, ACROSS)
    figure = canvas(0.3 + down * (WIDTH / ACROSS + 0.25))
    signed = bool((one.weights_HTS < 0).any())
    most = float(one.weights_HTS.abs().max()) if signed else 1.0
    for head, weights in enumerate(one.weights_HTS.cpu().numpy()):
        axes = figure.add_subplot(down, across, head + 1)
        colours = ("RdBu_r", -most, most) if signed else ("magma_r", 0.0, most)
        axes.imshow(weights, cmap=colours[0], vmin=colours[1], vmax=colours[2], interpolation="nearest")
        taken = "" if one.sinks_HT is None else f", sink {float(one.sinks_HT[head].mean()):.2f}"
        axes.set_title(f"head {head}{taken}")
        axes.grid(False)
        if len(tokens) <= NAMED:
            axes.set_xticks(range(weights.shape[1]), [_shown(one) for one in tokens][: weights.shape[1]], rotation=90)
            axes.set_yticks(range(weights.shape[0]), [_shown(one) for one in tokens])
            axes.tick_params(labelsize=5)
    which = f", {one.name}" if one.name else ""
    name = f"layer{one.layer:02d}" + (f"_{one.name}" if one.name else "")
    return Drawing(
        name,
        f"Attention of layer {one.layer}{which}",
        "Each row is a token, each column one that it reads. "
        + ("Red is more of the first map, blue more of the second." if signed else "Pale is 0, black is 1."),
        figure,
    )


def _norms(kept: StateNorms, tokens: Sequence[str]) -> Drawing:
    figure = canvas(2.2)
    axes = figure.add_subplot()
    for number, name in enumerate(kept.names):
        axes.plot(kept.norms_TN[:, number].cpu().numpy(), color=COLOURS[number % len(COLOURS)], label=name)
    axes.set_xlabel("token")
    axes.set_ylabel("norm of the state")
    if len(tokens) <= NAMED:
        axes.set_xticks(range(len(tokens)), [_shown(one) for one in tokens], rotation=90)
    axes.legend()
    return Drawing(
        f"layer{kept.layer:02d}_state",
        f"State of layer {kept.layer}",
        "Euclidean norm of what the layer keeps after each token: it has no weights of tokens.",
        figure,
    )


def _shown(token: str) -> str:
    return ellipsis(repr(token)[1:-1], 12) if token.strip() else repr(token)
