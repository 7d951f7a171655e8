"""What was measured of each part: its cost in one layer, and its agreement with implementations nobody here wrote.

`components --parity` runs the cases of a checkout's tests/parity and writes certificates.json beside this file; nothing in
it is typed. Reading it imports nothing but json.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt_lab import project, registry
from gpt_lab.errors import ConfigError

PATH = Path(__file__).with_name("certificates.json")
COSTED = ("attention", "position", "norm", "mlp", "residual")
"""Groups whose parts cost parameters and FLOPs."""
SHAPE = ("scale.depth=12", "scale.width=256", "scale.heads=8", "scale.context=512")
"""Where costs are told: twelve layers, so that every letter of a pattern has its share."""


@dataclass(frozen=True)
class Parity:
    """One comparison: largest absolute differences of outputs of size 1, and of gradients, in fp32."""

    reference: str
    version: str
    outputs: float
    gradients: float
    date: str
    options: str = ""

    def __str__(self) -> str:
        about = f" ({self.options})" if self.options else ""
        return (
            f"{self.reference} {self.version}{about}: outputs {self.outputs:.0e}, gradients {self.gradients:.0e}, "
            f"{self.date}"
        )


@dataclass(frozen=True)
class Certificate:
    """What is known of one part.

    Fields:
        parameters, flops: of a layer, beside what the default part of the group has: parameters that a token uses, and
            forward FLOPs of a token, at width 256, 8 heads, context 512. None: not measured.
    """

    parity: list[Parity] = field(default_factory=list)
    parameters: int | None = None
    flops: int | None = None

    @property
    def cost(self) -> str:
        """In words; "" if it was not measured."""
        if self.parameters is None or self.flops is None:
            return ""
        return f"{self.parameters:,} parameters, {self.flops:,} FLOPs a token and layer (width 256, context 512)"


def read() -> dict[tuple[str, str], Certificate]:
    """(kind, name) -> what was measured; {} where nothing was."""
    if not PATH.is_file():
        return {}
    tree = json.loads(PATH.read_text(encoding="utf-8"))
    return {
        (kind, name): Certificate([Parity(**one) for one in entry["parity"]], entry["parameters"], entry["flops"])
        for kind, names in tree.items()
        for name, entry in names.items()
    }


def measure(kind: str | None = None, name: str | None = None) -> Iterator[tuple[str, str, Certificate]]:
    """Runs every case again, or those of one kind or part, and counts each part's cost.

    Raises:
        ConfigError: this is no checkout, or a package of the dev group is missing.
    """
    cases = _cases()
    today = datetime.date.today().isoformat()
    for each in ([kind] if kind else registry.KINDS):
        for one in [name] if name else registry.index()[each]:
            found = [
                Parity(case.reference, _version(case.package), outputs, gradients, today, case.options)
                for case in cases
                if (case.kind, case.name) == (each, one)
                for outputs, gradients in [_differences(case)]
            ]
            if found or each in COSTED:
                yield each, one, Certificate(found, *_cost(each, one))


def write(measured: dict[tuple[str, str], Certificate]) -> None:
    """Replaces what was measured anew and keeps the rest, but for parts that are no longer there."""
    kept = {key: value for key, value in (read() | measured).items() if key[1] in registry.index()[key[0]]}
    tree: dict[str, Any] = {}
    for (kind, name), certificate in sorted(kept.items()):
        tree.setdefault(kind, {})[name] = asdict(certificate)
    PATH.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def _cases() -> list[Any]:
    root = project.PACKAGE.parent
    if not (root / "tests" / "parity" / "case.py").is_file():
        raise ConfigError("components --parity needs a checkout of gpt_lab: an installed package has no tests")
    sys.path[:0] = [str(root)]
    try:
        from tests.parity import case
    except ImportError as error:
        raise ConfigError(f"components --parity needs the dev group ({error}): `uv sync`") from None
    return list(case.cases())


def _differences(case: Any) -> tuple[float, float]:
    from tests.parity.case import largest

    made = case.run()
    return largest(made.outputs), largest(made.gradients)


def _version(package: str) -> str:
    """Of a distribution; "" of a formula."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def _cost(kind: str, name: str) -> tuple[int | None, int | None]:
    """Active parameters and forward FLOPs of a token, of a layer's share of the part; None where it cannot be built."""
    import torch
    from torch import nn

    from gpt_lab import config
    from gpt_lab.model import GPT, cost

    if kind not in COSTED:
        return None, None
    cfg = config.compose([f"{kind}={name}", *SHAPE])
    with torch.device("meta"):
        model = GPT(cfg, 64)
    depth = cfg.scale.depth
    if kind == "position":
        own: list[nn.Module] = [model.position]
    elif kind == "residual":
        own = []
    else:
        own = [module for module in model.modules() if getattr(type(module), "part", None) == (kind, name)]
    parameters = sum(p.numel() for module in own for p in module.parameters())
    idle = sum(getattr(inner, "idle_parameters", 0) for module in own for inner in module.modules())
    flops = sum(cost.stated(module, cfg.scale.context) for module in own)
    if kind == "residual":
        inside = {id(p) for block in model.blocks for part in ("attention", "mlp") for p in getattr(block, part).parameters()}
        parameters = sum(p.numel() for p in model.blocks.parameters() if id(p) not in inside)
        flops = sum(block.flops_per_token(cfg.scale.context) for block in model.layers() if hasattr(block, "flops_per_token"))
    return round((parameters - idle) / depth), round(flops / depth)
