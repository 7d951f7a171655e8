"""The bodies of requests, checked: a field is honoured or refused, by name. Imports no torch.

The API: https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from gpt_lab.errors import ConfigError, quoted, unknown
from gpt_lab.infer.request import Penalty
from gpt_lab.options import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, Range, check
from gpt_lab.serve.refusal import Refusal

Tops = Annotated[int, Range(low=0, high=20)]
Choices = Annotated[int, Range(low=1, high=128)]
TopP = Annotated[float, Range(low=0, high=1, open_low=True)]
MOST_STOPS, MOST_PROMPTS = 16, 128
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "store": (False,),
}
"""Fields of the API that nothing here can honour, and the values, beside null, under which they ask for nothing."""
NO_EFFECT = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")
"""Fields that change no result anywhere."""
SHARED: dict[str, Any] = {
    "temperature": NonNegativeFloat,
    "top_p": TopP,
    "top_k": PositiveInt,
    "min_p": Fraction,
    "repetition_penalty": Penalty,
    "n": Choices,
    "seed": NonNegativeInt,
    "stream": bool,
    "return_token_ids": bool,
}
COMPLETION = {**SHARED, "max_tokens": NonNegativeInt, "logprobs": Tops, "echo": bool}
CHAT = {
    **SHARED,
    "max_tokens": PositiveInt,
    "max_completion_tokens": PositiveInt,
    "logprobs": bool,
    "top_logprobs": Tops,
}
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Request:
    """What both kinds have in common.

    Fields:
        tops: likeliest tokens to report beside each; None: no probabilities. token_ids: whether to say tokens' numbers.
        stop: texts at which a continuation ends. usage: whether a stream ends with the number of tokens.
    """

    model: str
    max_tokens: int | None
    seed: int
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    n: int = 1
    stop: Sequence[str] = ()
    stream: bool = False
    usage: bool = False
    tops: int | None = None
    token_ids: bool = False


@dataclass(frozen=True)
class CompletionRequest(Request):
    """Texts, or lists of tokens, to continue."""

    prompts: Sequence[str | Sequence[int]] = ("",)
    echo: bool = False


@dataclass(frozen=True)
class ChatRequest(Request):
    """A conversation to answer; each message has a role and a content."""

    messages: Sequence[Mapping[str, str]] = field(default_factory=list)


def decoded(data: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Refusal: 400, it is none.
    """
    try:
        body = json.loads(data.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON ({quoted(str(error))[1:-1]})", code="invalid_json") from None
    if b"\\ud" in data.lower():  # the escapes of surrogates, which stand for a character in pairs only
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refusal(400, "the body has half of a surrogate pair, which is no text", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body must be a JSON object", code="invalid_json")
    return body


def completion(body: Mapping[str, Any]) -> CompletionRequest:
    """The request of /v1/completions.

    Raises:
        Refusal: 400, by the field's name.
    """
    given = _checked(body, COMPLETION, ("prompt",))
    echo, limit = given.get("echo", False), given.get("max_tokens", 16)
    if limit == 0 and not echo:
        raise Refusal(400, "max_tokens must be a whole number >= 1 (0 goes with echo=true)", "max_tokens")
    return CompletionRequest(
        **_common(body, given), max_tokens=limit, tops=given.get("logprobs"), prompts=_prompts(body), echo=echo
    )


def chat(body: Mapping[str, Any]) -> ChatRequest:
    """The request of /v1/chat/completions.

    Raises:
        Refusal: 400, by the field's name.
    """
    given = _checked(body, CHAT, ("messages",))
    limits = {given[key] for key in ("max_tokens", "max_completion_tokens") if key in given}
    if len(limits) > 1:
        raise Refusal(400, "max_tokens and max_completion_tokens say different things: leave one out", "max_tokens")
    wanted = given.get("logprobs", False)
    if "top_logprobs" in given and not wanted:
        raise Refusal(400, "top_logprobs goes with logprobs=true", "top_logprobs")
    return ChatRequest(
        **_common(body, given),
        max_tokens=next(iter(limits), None),
        tops=given.get("top_logprobs", 0) if wanted else None,
        messages=_messages(body.get("messages")),
    )


def _checked(body: Mapping[str, Any], types: Mapping[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """The fields that are set, in their types; null is as if it were not there."""
    known = {*types, *NEUTRAL, *NO_EFFECT, *own, "model", "stop", "stream_options"}
    given = {}
    for key, value in body.items():
        if key not in known:
            raise Refusal(400, unknown("field", key, known - NEUTRAL.keys()), key, "unknown_field")
        if value is None or key in NO_EFFECT:
            continue
        if key in NEUTRAL:
            if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in NEUTRAL[key]):
                raise Refusal(400, f"{key} cannot be honoured here: leave it out", key, "unsupported_field")
        elif key in types:
            try:
                given[key] = check(key, value, types[key])
            except ConfigError as error:
                raise Refusal(400, str(error), key) from None
    return given


def _common(body: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "model must be the name of a model: GET /v1/models lists them", "model")
    stream, options = given.get("stream", False), body.get("stream_options")
    usage = False
    if options is not None:
        if not isinstance(options, dict) or not stream:
            raise Refusal(400, "stream_options is an object that goes with stream=true", "stream_options")
        for key, value in options.items():
            if key not in ("include_usage", "include_obfuscation") or not isinstance(value, bool):
                raise Refusal(
                    400, f"stream_options has include_usage, true or false, not {quoted(key)}", "stream_options"
                )
        if options.get("include_obfuscation"):
            raise Refusal(400, "include_obfuscation cannot be honoured here: leave it out", "stream_options")
        usage = options.get("include_usage", False)
    return {
        "model": model,
        "seed": given.get("seed", secrets.randbits(48)),
        "temperature": given.get("temperature", 1.0),
        "top_p": given.get("top_p"),
        "top_k": given.get("top_k"),
        "min_p": given.get("min_p"),
        "repetition_penalty": given.get("repetition_penalty", 1.0),
        "n": given.get("n", 1),
        "stop": _stops(body.get("stop")),
        "stream": stream,
        "usage": usage,
        "token_ids": given.get("return_token_ids", False),
    }


def _stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise Refusal(400, f"stop must be a text or a list of at most {MOST_STOPS} texts", "stop")
    if not all(isinstance(one, str) and 0 < len(one) <= 1000 for one in stops):
        raise Refusal(400, "each stop must be a text of 1 to 1,000 characters", "stop")
    return stops


def _prompts(body: Mapping[str, Any]) -> list[str | list[int]]:
    value = body.get("prompt")
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(is_token(one) for one in value):
            return [value]
        if len(value) <= MOST_PROMPTS and all(isinstance(one, str) for one in value):
            return value
        if len(value) <= MOST_PROMPTS and all(
            isinstance(one, list) and one and all(map(is_token, one)) for one in value
        ):
            return value
    raise Refusal(400, f"prompt must be a text, a list of tokens, or a list of up to {MOST_PROMPTS} of these", "prompt")


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise Refusal(400, "messages must be a list of at least one message", "messages")
    found = []
    for place, one in enumerate(value):
        where = f"messages[{place}]"
        if not isinstance(one, dict) or one.get("role") not in ROLES:
            raise Refusal(400, f"{where} must have a role: {', '.join(ROLES)}", f"{where}.role")
        rest = {key for key, more in one.items() if more is not None} - {"role", "content"}
        if rest:
            raise Refusal(400, f"{where}.{min(rest)} cannot be honoured here: leave it out", f"{where}.{min(rest)}")
        content = one.get("content")
        if isinstance(content, list):
            if not all(
                isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
                for part in content
            ):
                raise Refusal(400, f"{where}.content has parts that are no text", f"{where}.content")
            texts = [part["text"] for part in content]
            content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
        if not isinstance(content, str):
            raise Refusal(400, f"{where}.content must be text", f"{where}.content")
        role = "system" if one["role"] == "developer" else one["role"]
        found.append({"role": role, "content": content})
    return found


def is_token(value: Any) -> bool:
    """Whether a value can be a token's number."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
