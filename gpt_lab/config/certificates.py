"""What was measured of each part: its cost in a layer, and its agreement with implementations nobody here wrote.

gpt_lab.certify.measure writes the file (`components --parity`); nothing in it is typed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from gpt_lab import project

PATH = project.PACKAGE / "parts" / "certificates.json"


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
            f"{self.reference} {self.version}".rstrip()
            + f"{about}: outputs {self.outputs:.0e}, gradients {self.gradients:.0e}, {self.date}"
        )


@dataclass(frozen=True)
class Certificate:
    """What is known of one part.

    Fields:
        parameters, flops: of one layer's share of the part: parameters that a token uses, forward FLOPs of matrix
            products for a token; at width 256, 8 heads, context 512. None: not measured.
        state: of an optimizer, bytes that it keeps for each parameter of 12 such layers, on average.
    """

    parity: list[Parity] = field(default_factory=list)
    parameters: int | None = None
    flops: int | None = None
    state: float | None = None

    @property
    def brief(self) -> str:
        """Cost and the first comparison on one line; "" if nothing was measured."""
        first = self.parity[:1]
        held = [f"equal to {one.reference} {one.version}".rstrip() + f" within {one.outputs:.0e}" for one in first]
        return "; ".join(filter(None, (self.cost, *held)))

    @property
    def cost(self) -> str:
        """In words; "" if it was not measured."""
        if self.state is not None:
            return f"12 layers of width 256: {self.state:.3g} bytes of state a parameter"
        if self.parameters is None or self.flops is None:
            return ""
        return f"a layer of width 256, context 512: {self.parameters:,} parameters, {self.flops:,} FLOPs a token"


def read() -> dict[tuple[str, str], Certificate]:
    """(kind, name) -> what was measured; {} where nothing was."""
    if not PATH.is_file():
        return {}
    tree = json.loads(PATH.read_text(encoding="utf-8"))
    return {
        (kind, name): Certificate(**{**entry, "parity": [Parity(**one) for one in entry["parity"]]})
        for kind, names in tree.items()
        for name, entry in names.items()
    }
