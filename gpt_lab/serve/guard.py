"""Who may ask, and how much: host, origin, key, body. Pure ASGI, before any route."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gpt_lab.serve.credentials import LOCAL_HOSTS
from gpt_lab.serve.refusal import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
SLOWEST_BODY = 30.0
"""Seconds within which a body must have arrived."""
DISCARD_SECONDS, DISCARD_BYTES = 2.0, 16_000_000
"""How much of a body that is too large is read, and thrown away."""
OPEN = ("/", "/app.js", "/style.css")
"""Paths without secrets, which a browser loads before it knows the key."""
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", POLICY),
)


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Fields:
        body: bytes. tokens: prompt and continuation together. rows: continuations at once. queue: that wait.
        stall: seconds that a reader may take for what was sent to it.
    """

    body: int = 1_000_000
    tokens: int = 4096
    rows: int = 32
    queue: int = 128
    stall: float = 30.0


class Guard:
    """Refuses what must not come through, and reads bodies.

    A page of another site can send requests to 127.0.0.1, and by DNS rebinding read the answers: so a loopback server
    answers to no other name and to no other page. A body must say that it is JSON, which another site's form cannot.

    Args:
        key: that requests must bear; None: none. local: whether the server listens on loopback only.
    """

    def __init__(self, app: Any, key: str | None, local: bool, limits: Limits) -> None:
        self._app, self._key, self._local, self._limits = app, key, local, limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *SAFE]
            await send(message)

        try:
            self._check(scope, headers)
            body = await self._body(headers, receive) if scope["method"] == "POST" else b""
        except Refusal as refusal:
            if refusal.status == 413:
                await _discard(receive)
            await refuse(refusal, send_safely)
            return
        replayed = False

        async def receive_whole() -> Message:
            nonlocal replayed
            if scope["method"] == "POST" and not replayed:
                replayed = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self._app(scope, receive_whole, send_safely)

    def _check(self, scope: Message, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if self._local and _name(host) not in LOCAL_HOSTS:
            raise Refusal(403, "this server answers to 127.0.0.1 and localhost only", code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host.lower():
            raise Refusal(403, "pages of other sites may not ask this server", code="wrong_origin")
        if self._key is None or scope["path"] in OPEN:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._key.encode()):
            raise Refusal(401, "this server wants its key, as Authorization: Bearer KEY", code="invalid_api_key")

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        most = self._limits.body
        too_large = Refusal(413, f"the body is larger than {most:,} bytes", code="body_too_large")
        stated = headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated[:20]) > most:
            raise too_large
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "the body must be JSON, with Content-Type: application/json", code="no_json")
        parts, size = [], 0
        try:
            async with asyncio.timeout(SLOWEST_BODY):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the body ended early", code="no_body")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise too_large
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {SLOWEST_BODY:g} s", code="slow_body") from None


async def _discard(receive: Receive) -> None:
    """Reads what is still on its way, up to a bound: a connection closed before that would lose the answer, too."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while size < DISCARD_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


def _place(origin: str) -> str | None:
    """Host and port in an Origin header; None: it is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def refuse(refusal: Refusal, send: Send) -> None:
    """Sends a refusal."""
    data = json.dumps(refusal.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(data)), **refusal.headers()}
    if refusal.status in (408, 413):
        headers["connection"] = "close"  # what is still on its way is not read
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": data})
