"""Requests passed on to another OpenAI-compatible server, and its answers back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
from fastapi import Request
from fastapi.responses import Response

from gpt_lab.errors import ConfigError
from gpt_lab.serve.api_objects import DONE, event
from gpt_lab.serve.delivery import Watched, gone
from gpt_lab.serve.guard import Limits, Send
from gpt_lab.serve.refusal import Refusal
from gpt_lab.serve.served_model import RemoteModel

LONGEST = 16_000_000
"""Bytes of an answer that is no stream."""


class Forwarder:
    """Sends at most as many requests at once as continuations would run here; redirects are not followed."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free = limits.rows

    async def send(self, served: RemoteModel, path: str, body: Mapping[str, Any], request: Request) -> Response:
        """The other server's answer to a body, under the model's name there.

        Raises:
            Refusal: 429, too many are under way; 502, the server cannot be reached or answers no API.
        """
        if not self._free:
            line = f"{self._limits.rows} requests to other servers are under way: try again later"
            raise Refusal(429, line, code="queue_full", retry_after=1)
        try:
            headers = served.headers()
        except ConfigError as error:
            raise Refusal(502, str(error), code="remote_failed") from None
        client = httpx.AsyncClient(timeout=httpx.Timeout(120, connect=10), trust_env=False)
        message = client.build_request(
            "POST", f"{served.base}/{path}", json={**body, "model": served.model}, headers=headers
        )
        self._free -= 1
        asking, leaving = (
            asyncio.ensure_future(self._ask(client, message)),
            asyncio.ensure_future(gone(request.receive)),
        )
        answer: Response | None = None
        try:
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            answer = asking.result() if asking.done() else Response(status_code=499)  # nobody reads it
            return answer
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise Refusal(502, f"{served.base} cannot be asked: {said}", code="remote_failed") from None
        finally:
            for task in (asking, leaving):
                task.cancel()
            await asyncio.gather(asking, leaving, return_exceptions=True)
            if not isinstance(answer, PassedOn):
                await self._close(client)

    async def _ask(self, client: httpx.AsyncClient, message: httpx.Request) -> Response:
        answer = await client.send(message, stream=True)
        kind = answer.headers.get("content-type", "application/json")
        if answer.status_code == 200 and kind.startswith("text/event-stream"):
            return PassedOn(answer, lambda: self._close(client), self._limits.stall)
        data = b""
        async for part in answer.aiter_bytes():
            data += part
            if len(data) > LONGEST:
                raise Refusal(502, f"the other server sent more than {LONGEST:,} bytes", code="remote_failed")
        if not _is_object(data):
            raise Refusal(502, f"the other server answered {answer.status_code} without JSON", code="remote_failed")
        return Response(data, answer.status_code, media_type="application/json")

    async def _close(self, client: httpx.AsyncClient) -> None:
        self._free += 1
        await client.aclose()


class PassedOn(Watched):
    """Another server's events, as they come; one that breaks off says so."""

    def __init__(self, answer: httpx.Response, close: Callable[[], Awaitable[None]], stall: float) -> None:
        super().__init__(stall)
        self._answer, self._close = answer, close

    async def write(self, send: Send) -> None:
        """Each part as it comes."""
        await self.begin(send)
        last = b""
        try:
            async for part in self._answer.aiter_bytes():
                await self.put(send, part)
        except httpx.HTTPError as error:
            refusal = Refusal(502, f"the other server's stream broke: {type(error).__name__}", code="remote_failed")
            last = b"\n\n" + event(refusal.body()) + DONE
        await self.put(send, last, more=False)

    async def leave(self) -> None:
        """Ends the connection."""
        await self._close()


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False
