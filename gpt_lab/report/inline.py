"""Inline SVG for the page: ids of its own, colours of the page's scheme, nothing that reaches beyond it."""

from __future__ import annotations

import re

from gpt_lab.report.figures.base import VARIABLES

PROLOGUE = re.compile(r"^.*?(?=<svg\b)", re.DOTALL)
DROPPED = re.compile(r"<metadata>.*?</metadata>|<style\b.*?</style>|<!--.*?-->", re.DOTALL)
PATH = re.compile(r'\bd="[^"]*"')
FINER = re.compile(r"(\.\d\d)\d+")
"""Digits of a coordinate that nobody sees: a hundredth of a point is less than one of a screen's pixels."""
SIZE = re.compile(r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"')


def inline(svg: str, name: str) -> str:
    """The <svg> element of a file that matplotlib wrote.

    Args:
        name: of the figure, unique on the page: prefix of its ids, and of the ids of its heading and caption.
    """
    svg = DROPPED.sub("", PROLOGUE.sub("", svg))
    svg = SIZE.sub(rf'\1 role="img" aria-labelledby="{name}-title" aria-describedby="{name}-caption"', svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#)([^"]+)"', rf'\1{name}-\2"', svg)
    svg = re.sub(r"(url\(#)([^)]+)\)", rf"\1{name}-\2)", svg)
    svg = PATH.sub(lambda path: FINER.sub(r"\1", path[0]), svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    return svg.strip()
