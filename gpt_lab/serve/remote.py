"""Requests passed on to another OpenAI-compatible server, and its answers back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from gpt_lab.errors import ConfigError
from gpt_lab.serve.guard import Limits
from gpt_lab.serve.refusal import Refusal
from gpt_lab.serve.served_model import RemoteModel

LONGEST = 16_000_000
"""Bytes of an answer that is no stream."""


class Forwarder:
    """Sends at most as many requests at once as continuations would run here; redirects are not followed."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._under_way = 0

    async def send(self, served: RemoteModel, path: str, body: Mapping[str, Any], request: Request) -> Response:
        """The other server's answer to a body, under the model's name there.

        Raises:
            Refusal: 429, too many are under way; 502, the server cannot be reached or answers no API.
        """
        if self._under_way >= self._limits.rows:
            raise Refusal(
                429, f"{self._under_way} requests to other servers are under way", code="queue_full", retry_after=1
            )
        self._under_way += 1
        client = httpx.AsyncClient(timeout=httpx.Timeout(120, connect=10), trust_env=False)
        passed_on = False
        try:
            try:
                headers = served.headers()
            except ConfigError as error:
                raise Refusal(502, str(error), code="remote_failed") from None
            sent = client.build_request(
                "POST", f"{served.base}/{path}", json={**body, "model": served.model}, headers=headers
            )
            answer = await client.send(sent, stream=True)
            kind = answer.headers.get("content-type", "application/json")
            if answer.status_code == 200 and kind.startswith("text/event-stream"):
                passed_on = True
                return StreamingResponse(self._stream(client, answer), media_type="text/event-stream")
            data = b""
            async for part in answer.aiter_bytes():
                data += part
                if len(data) > LONGEST:
                    raise Refusal(502, f"{served.base} sent more than {LONGEST:,} bytes", code="remote_failed")
            if not _is_object(data):
                raise Refusal(502, f"{served.base} answered {answer.status_code} without JSON", code="remote_failed")
            return Response(data, answer.status_code, media_type="application/json")
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise Refusal(502, f"{served.base} cannot be asked: {said}", code="remote_failed") from None
        finally:
            if not passed_on:
                await client.aclose()
                self._under_way -= 1

    async def _stream(self, client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_bytes():
                yield part
        except httpx.HTTPError as error:
            refusal = Refusal(502, f"the other server's stream broke: {type(error).__name__}", code="remote_failed")
            yield b"\n\ndata: " + json.dumps(refusal.body()).encode() + b"\n\ndata: [DONE]\n\n"
        finally:
            with_shield = asyncio.shield(client.aclose())
            self._under_way -= 1
            await with_shield


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False
