"""What a page asks of a model's inside: one head's attention map, or the norms of one layer's states.

Shapes: H heads, T tokens, S keys, N parts of a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt_lab.errors import ConfigError
from gpt_lab.inside.attention_maps import look
from gpt_lab.model.gpt import GPT
from gpt_lab.options import NonNegativeInt, check
from gpt_lab.serve.refusal import Refusal
from gpt_lab.serve.request_body import is_token

MOST = 256
"""Tokens of a map: it has the square of them."""


@dataclass(frozen=True)
class AttentionRequest:
    """Of which text, and what: the place of the map (or of the norms behind all maps), and its head."""

    model: str
    prompt: Sequence[int]
    place: int = 0
    head: int = 0


def read(body: Mapping[str, Any]) -> AttentionRequest:
    """The request in a body.

    Raises:
        Refusal: 400, by the field's name.
    """
    for key in body:
        if key not in ("model", "prompt", "place", "head"):
            raise Refusal(400, f"there is no field {key!r} here: model, prompt, place, head", key, "unknown_field")
    prompt, model = body.get("prompt"), body.get("model")
    if not isinstance(model, str):
        raise Refusal(400, "model must be the name of a model: GET /v1/models lists them", "model")
    if not isinstance(prompt, list) or not 0 < len(prompt) <= MOST or not all(map(is_token, prompt)):
        raise Refusal(400, f"prompt must be a list of 1 to {MOST} tokens", "prompt")
    numbers = {}
    for key in ("place", "head"):
        try:
            numbers[key] = check(key, body.get(key, 0), NonNegativeInt)
        except ConfigError as error:
            raise Refusal(400, str(error), key) from None
    return AttentionRequest(model, prompt, **numbers)


def chosen(model: GPT, asked: AttentionRequest) -> dict[str, Any]:
    """All that can be asked for, and the values (T, S) or (T, N) of what was.

    Raises:
        ConfigError: the text is longer than the context. LabError: the model's numbers are not finite.
        Refusal: 400, there is no such map or head.
    """
    found = look(model, asked.prompt)
    offers: list[dict[str, Any]] = [
        {"layer": one.layer, "name": one.name, "heads": len(one.weights_HTS), "kind": "map"} for one in found.maps
    ]
    offers += [{"layer": one.layer, "name": "", "heads": 1, "kind": "state"} for one in found.states]
    if not offers:
        return {"offers": [], "values": [], "columns": []}
    if asked.place >= len(offers):
        raise Refusal(400, f"there are {len(offers)} places, from 0 on, not {asked.place}", "place")
    if asked.head >= offers[asked.place]["heads"]:
        raise Refusal(400, f"there are {offers[asked.place]['heads']} heads, from 0 on, not {asked.head}", "head")
    if asked.place < len(found.maps):
        values, columns = found.maps[asked.place].weights_HTS[asked.head], []
    else:
        state = found.states[asked.place - len(found.maps)]
        values, columns = state.norms_TN, list(state.names)
    return {"offers": offers, "values": [[round(v, 4) for v in row] for row in values.tolist()], "columns": columns}
