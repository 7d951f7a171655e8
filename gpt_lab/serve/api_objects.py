"""What continuations say, in the API's objects."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.serve.job import Chosen, Piece
from gpt_lab.serve.request_body import ChatRequest, Request

DONE = b"data: [DONE]\n\n"


class Answer:
    """One request's answer: whole, or in chunks of a stream.

    Args:
        fingerprint: of the model's weights.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer, fingerprint: str) -> None:
        self._chat = isinstance(request, ChatRequest)
        self._request = request
        self._tokenizer = tokenizer
        name = ("chat.completion" + ".chunk" * request.stream) if self._chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": name,
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": f"fp_{fingerprint[:12]}",
        }

    def whole(
        self,
        choices: Sequence[tuple[Sequence[Piece], str]],
        prompts: Sequence[Sequence[int]],
        usage: Mapping[str, int],
    ) -> dict[str, Any]:
        """The answer of a request that is no stream. choices: of each, what was said and why it ended."""
        made = []
        for index, (pieces, reason) in enumerate(choices):
            text = "".join(piece.text for piece in pieces)
            tokens = [token for piece in pieces for token in piece.tokens]
            body = (
                {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
            )
            made.append(self._choice(index, body, tokens, reason, prompts[index]))
        return {**self._head, "choices": made, "usage": dict(usage)}

    def first(self, index: int, prompt_ids: Sequence[int]) -> dict[str, Any] | None:
        """The chunk that begins a choice; None: there is none."""
        if not (self._chat or self._request.token_ids):
            return None
        body = {"delta": {"role": "assistant", "content": ""}} if self._chat else {"text": ""}
        chunk = self._chunk(index, body, [], None)
        if self._request.token_ids:
            chunk["choices"][0]["prompt_token_ids"] = list(prompt_ids)
        return chunk

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """The chunk with more text."""
        body = {"delta": {"content": piece.text}} if self._chat else {"text": piece.text}
        return self._chunk(index, body, piece.tokens, None)

    def end(self, index: int, reason: str) -> dict[str, Any]:
        """The chunk that ends a choice."""
        return self._chunk(index, {"delta": {}} if self._chat else {"text": ""}, [], reason)

    def usage(self, usage: Mapping[str, int]) -> dict[str, Any]:
        """The chunk with the number of tokens."""
        return {**self._head, "choices": [], "usage": dict(usage)}

    def _chunk(self, index: int, body: dict[str, Any], tokens: Sequence[Chosen], reason: str | None) -> dict[str, Any]:
        chunk = {**self._head, "choices": [self._choice(index, body, tokens, reason, None)]}
        return {**chunk, "usage": None} if self._request.usage else chunk

    def _choice(
        self,
        index: int,
        body: dict[str, Any],
        tokens: Sequence[Chosen],
        reason: str | None,
        prompt_ids: Sequence[int] | None,
    ) -> dict[str, Any]:
        logprobs = None
        if self._request.tops is not None and (tokens or prompt_ids is not None):
            logprobs = self._of_chat(tokens) if self._chat else self._of_completion(tokens)
        choice = {"index": index, **body, "logprobs": logprobs, "finish_reason": reason}
        if self._request.token_ids:
            choice["token_ids"] = [one.token for one in tokens]
            if prompt_ids is not None:
                choice["prompt_token_ids"] = list(prompt_ids)
        return choice

    def _of_completion(self, tokens: Sequence[Chosen]) -> dict[str, Any]:
        return {
            "tokens": [self._shown(one.token) for one in tokens],
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": [self._likeliest(one) for one in tokens] if self._request.tops else None,
            "text_offset": [one.offset for one in tokens],
        }

    def _likeliest(self, one: Chosen) -> dict[str, float] | None:
        if one.logprob is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in one.tops:
            found.setdefault(self._shown(token), logprob)
        return found

    def _of_chat(self, tokens: Sequence[Chosen]) -> dict[str, Any]:
        def entry(token: int, logprob: float | None) -> dict[str, Any]:
            data = self._tokenizer.decode_bytes([token])
            return {"token": self._shown(token), "logprob": logprob, "bytes": list(data)}

        found = [
            entry(one.token, one.logprob) | {"top_logprobs": [entry(token, value) for token, value in one.tops]}
            for one in tokens
        ]
        return {"content": found, "refusal": None}

    def _shown(self, token: int) -> str:
        """A token's text; bytes that are part of a character as the API writes them."""
        data = self._tokenizer.decode_bytes([token])
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"
