"""Requests passed on to another OpenAI-compatible server, and its answers back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from fastapi import Request
from fastapi.responses import Response

from gpt_lab.errors import ConfigError
from gpt_lab.serve import credentials
from gpt_lab.serve.api_objects import DONE, event
from gpt_lab.serve.delivery import Watched, gone
from gpt_lab.serve.guard import Limits, Send
from gpt_lab.serve.refusal import Refusal
from gpt_lab.serve.served_model import RemoteModel

LONGEST = 16_000_000
"""Bytes of an answer that is no stream."""


class Forwarder:
    """Sends at most as many requests at once as continuations would run here; redirects are not followed.

    One client for all of them, as making one takes longer (39 ms) than asking; use it in an `async with` block.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free = limits.rows
        self._client: httpx.AsyncClient

    async def __aenter__(self) -> Forwarder:
        # others close a connection that rests as long as 5 s, which must not meet a request
        kept = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=2.0)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(120, connect=10),
            limits=kept,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none: requests have nothing in common
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def send(self, served: RemoteModel, path: str, body: Mapping[str, Any], request: Request) -> Response:
        """The other server's answer to a body, under the model's name there.

        Raises:
            Refusal: 429, too many are under way; 502, the server cannot be reached or answers no API.
        """
        if not self._free:
            line = f"{self._limits.rows} requests to other servers are under way: try again later"
            raise Refusal(429, line, code="queue_full", retry_after=1)
        try:
            message = self._client.build_request(
                "POST",
                f"{served.base}/{path}",
                json={**body, "model": served.model},
                headers=credentials.headers(served.base),
            )
        except (ConfigError, httpx.InvalidURL) as error:
            raise Refusal(502, str(error), code="remote_failed") from None
        self._free -= 1
        asking = asyncio.ensure_future(self._ask(message))
        leaving = asyncio.ensure_future(gone(request.receive))
        passed_on = False
        try:
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            answer = asking.result() if asking.done() else Response(status_code=499)  # nobody reads it
            passed_on = isinstance(answer, PassedOn)
            return answer
        except (httpx.HTTPError, UnicodeError) as error:  # the latter of a name that is none
            said = str(error) or type(error).__name__
            raise Refusal(502, f"{served.base} cannot be asked: {said}", code="remote_failed") from None
        finally:
            for task in (asking, leaving):
                task.cancel()
            await asyncio.gather(asking, leaving, return_exceptions=True)
            if not passed_on:
                self._free += 1

    async def _ask(self, message: httpx.Request) -> Response:
        answer = await self._client.send(message, stream=True)
        kind = answer.headers.get("content-type", "application/json")
        if answer.status_code == 200 and kind.startswith("text/event-stream"):
            return PassedOn(answer, lambda: self._close(answer), self._limits.stall)
        data = b""
        try:
            async for part in answer.aiter_bytes():
                data += part
                if len(data) > LONGEST:
                    raise Refusal(502, f"the other server sent more than {LONGEST:,} bytes", code="remote_failed")
        finally:
            await answer.aclose()
        if not _is_object(data):
            raise Refusal(502, f"the other server answered {answer.status_code} without JSON", code="remote_failed")
        return Response(data, answer.status_code, media_type="application/json")

    async def _close(self, answer: httpx.Response) -> None:
        self._free += 1
        await answer.aclose()


class PassedOn(Watched):
    """Another server's events, as they come; one that breaks off says so."""

    def __init__(self, answer: httpx.Response, close: Callable[[], Awaitable[None]], stall: float) -> None:
        super().__init__(stall)
        self._answer, self._close = answer, close

    async def write(self, send: Send) -> None:
        """Each part as it comes."""
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
