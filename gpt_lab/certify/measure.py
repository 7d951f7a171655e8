"""Measures the certificates: runs a checkout's cases of parity (tests/parity), and counts what parts cost."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpt_lab import project, registry
from gpt_lab.config.certificates import PATH, Certificate, Parity, read
from gpt_lab.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

COSTED = ("attention", "position", "norm", "mlp", "residual")
"""Groups whose parts cost parameters and FLOPs."""
KEEPING = "optim"
"""The group whose parts keep something of each parameter."""
SHAPE = ("scale.depth=12", "scale.width=256", "scale.heads=8", "scale.context=512")
"""Where costs are told: twelve layers, so that every letter of a pattern has its share."""


def measure(kind: str | None = None, name: str | None = None) -> Iterator[tuple[str, str, Certificate]]:
    """Runs every case again, or those of one kind or part, and counts each part's cost.

    Raises:
        ConfigError: this is no checkout, or a package of the dev group is missing.
    """
    cases = _cases()
    today = datetime.date.today().isoformat()
    for each in [kind] if kind else registry.KINDS:
        for one in [name] if name else registry.index()[each]:
            found = [
                Parity(case.reference, _version(case.package), outputs, gradients, today, case.options)
                for case in cases
                if (case.kind, case.name) == (each, one)
                for outputs, gradients in [_differences(case)]
            ]
            if found or each in (*COSTED, KEEPING):
                yield each, one, Certificate(found, *_cost(each, one), _state(each, one))


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


def _state(kind: str, name: str) -> float | None:
    """Bytes that an optimizer keeps for each parameter; None of other parts, and where it does not say."""
    from gpt_lab.config import composition
    from gpt_lab.model.skip_init import bare_model
    from gpt_lab.optim.base import state_bytes
    from gpt_lab.optim.fit import fitted

    if kind != KEEPING:
        return None
    cfg = composition.compose([f"{kind}={name}", *SHAPE])
    model = bare_model(cfg, 64)
    kept = state_bytes(fitted(registry.build(kind, cfg.optim), model, cfg))
    return None if kept is None else round(kept / sum(p.numel() for p in model.parameters()), 4)


def _cost(kind: str, name: str) -> tuple[int | None, int | None]:
    """Active parameters and forward FLOPs of a token, of a layer's share of the part; None where it cannot be built."""
    import torch

    from gpt_lab.config import composition
    from gpt_lab.model.gpt import GPT

    if kind not in COSTED:
        return None, None
    cfg = composition.compose([f"{kind}={name}", *SHAPE])
    with torch.device("meta"):
        model = GPT(cfg, 64)
    depth, context = cfg.scale.depth, cfg.scale.context
    if kind == "residual":  # all of a block but its two branches
        blocks: list[Any] = model.layers()
        branches = [p for block in blocks for p in (*block.attention.parameters(), *block.mlp.parameters())]
        inside = {id(p) for p in branches}
        modules: list[nn.Module] = [model.blocks] if model.streams is None else [model.blocks, model.streams]
        parameters = sum(p.numel() for module in modules for p in module.parameters() if id(p) not in inside)
        stating: list[Any] = [part for part in (*blocks, model.streams) if hasattr(part, "flops_per_token")]
        return round(parameters / depth), round(sum(part.flops_per_token(context) for part in stating) / depth)
    if kind in ("attention", "mlp"):  # of a pattern, each layer's own
        own: list[Any] = [getattr(layer, kind) for layer in model.layers()]
    else:
        own = [module for module in model.modules() if getattr(type(module), "part", None) == (kind, name)]
    parameters = sum(p.numel() for module in own for p in module.parameters())
    idle = sum(getattr(inner, "idle_parameters", 0) for module in own for inner in module.modules())
    flops = sum(module.flops_per_token(context) for module in own if hasattr(module, "flops_per_token"))
    return round((parameters - idle) / depth), round(flops / depth)
