"""`components`: what can be chosen, from the source text alone; `--check` and `--parity` prove it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gpt_lab import registry
from gpt_lab.cli.common.console_script import entry
from gpt_lab.cli.common.strict_parser import Parser, output
from gpt_lab.config import components, source_text
from gpt_lab.errors import ConfigError, unknown

if TYPE_CHECKING:
    from rich.console import Console

CHECKED = ("attention", "position", "norm", "mlp", "residual", "init", "objective")
"""Groups whose parts make up a model, and what trains it."""


def run(arguments: list[str]) -> int:
    """Print all kinds, one kind, or all that one part says of itself; check a part; measure certificates anew."""
    parser = Parser(prog="components", description="List what can be chosen: every kind, its names, their options.")
    parser.add_argument("kind", nargs="?", help="attention, optim, data, ...: only this kind")
    parser.add_argument("name", nargs="?", help="one part: its whole description and every option")
    parser.add_argument("settings", nargs="*", help="with --check: overrides, such as attention.kv_heads=1")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument(
        "--check",
        metavar="NAME",
        help="try what every part must keep on one, yours too: causality, decoding, documents, training",
    )
    parser.add_argument(
        "--parity",
        action="store_true",
        help="in a checkout: hold parts against other implementations again, and write their certificates",
    )
    parser.add_argument(
        "--jax",
        action="store_true",
        help="the source of one part, and below it that of its twin: the same formula as a pure function of JAX",
    )
    chosen = parser.parse_args(arguments)
    if chosen.check is not None:
        if chosen.jax:
            raise ConfigError("--jax shows text of its own: leave out --check")
        words = [word for word in (chosen.kind, chosen.name, *chosen.settings) if word is not None]
        return _check(chosen.check, words)
    if chosen.settings or "=" in f"{chosen.kind}{chosen.name}":
        raise ConfigError("components takes settings with --check only: components [KIND [NAME]]")
    if chosen.jax and (chosen.parity or chosen.json):
        raise ConfigError(f"--jax shows text of its own: leave out {'--parity' if chosen.parity else '--json'}")
    if chosen.parity:
        return _measure(chosen.kind, chosen.name)
    found = components.catalogue(chosen.kind, chosen.name)
    if chosen.jax:
        source_text.twin(chosen.kind, chosen.name)  # refuses what has none before anything is printed
        output(lambda console: source_text.show(found[chosen.kind][chosen.name], console))
        return 0
    if chosen.json:
        print(json.dumps(components.to_dict(found), indent=2))
    elif chosen.name is None:
        output(lambda console: components.show(found, console))
    else:
        output(lambda console: components.show_one(found[chosen.kind][chosen.name], console))
    return 0


def _check(name: str, words: list[str]) -> int:
    """Every check on a part; 1 if one fails."""
    from gpt_lab.certify.contract import contract

    kind, _, only = name.rpartition("=")
    kinds = [one for one in CHECKED if only in registry.index()[one] and kind in ("", one)]
    if not kinds:
        raise ConfigError(unknown("part", only, sorted({n for one in CHECKED for n in registry.index()[one]})))
    if wrong := [word for word in words if "=" not in word]:
        raise ConfigError(f"--check takes settings such as {kinds[0]}.OPTION=VALUE, not {wrong[0]!r}")
    failed = False

    def show(console: Console) -> None:
        nonlocal failed
        for kind in kinds:
            console.print(f"{kind}={only}", style="bold cyan")
            for finding in contract([f"{kind}={only}", *words]):
                failed |= not finding.passed
                sign = "ok    " if finding.passed else "FAILED"
                size = f"{finding.error:.1e} (limit {finding.limit:g})"
                console.print(f"  {sign} {finding.name:<10} {size:<22} {finding.note}".rstrip(), soft_wrap=True)

    output(show)
    return int(failed)


def _measure(kind: str | None, name: str | None) -> int:
    from gpt_lab.certify import measure

    if kind is not None:
        components.catalogue(kind, name)  # refuses what is not there

    def show(console: Console) -> None:
        measured = {}
        for each, one, certificate in measure.measure(kind, name):
            measured[each, one] = certificate
            for line in [str(parity) for parity in certificate.parity] or [certificate.cost]:
                console.print(f"{each}={one}: {line}", soft_wrap=True)
        measure.write(measured)

    output(show)
    return 0


main = entry(run)

if __name__ == "__main__":
    main()
