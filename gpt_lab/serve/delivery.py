"""From the engine to the client: whole answers, server-sent events; who vanishes or never reads is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from gpt_lab.serve.api_objects import DONE, Answer, event
from gpt_lab.serve.engine import STOPPING, Engine
from gpt_lab.serve.guard import Message, Receive, Send
from gpt_lab.serve.job import End, Job, Piece
from gpt_lab.serve.refusal import Refusal


class Conversation:
    """The jobs of one request; each gives up its row when this is left.

    Args:
        waking: set from the engine when there is something new.
    """

    def __init__(self, engine: Engine, jobs: Sequence[Job], waking: asyncio.Event) -> None:
        self.jobs = jobs
        self._engine = engine
        self._waking = waking

    async def events(self) -> AsyncIterator[list[tuple[int, Piece | End]]]:
        """What is new, with the number of the job that says it, until all have ended."""
        going = set(range(len(self.jobs)))
        while going:
            self._waking.clear()
            found: list[tuple[int, Piece | End]] = []
            for index in sorted(going):
                found += [(index, one) for one in self._engine.read(self.jobs[index])]
                if found and found[-1][0] == index and isinstance(found[-1][1], End):
                    going.discard(index)
            if found:
                yield found
            else:
                await self._waking.wait()

    def usage(self) -> dict[str, int]:
        """Tokens read and made."""
        prompts = {id(job.asked.prompt_ids): len(job.asked.prompt_ids) for job in self.jobs}
        read, made = sum(prompts.values()), sum(job.made for job in self.jobs)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    def leave(self) -> None:
        """Nobody reads any more."""
        self._engine.cancel(self.jobs)


async def collected(conversation: Conversation, says: Answer, request: Request) -> Response:
    """The whole answer; if the client is gone before, the jobs end.

    Raises:
        Refusal: 500 or 503, a job could not be finished.
    """
    choices: list[tuple[list[Piece], str]] = [([], "") for _ in conversation.jobs]

    async def read() -> None:
        async for found in conversation.events():
            for index, one in found:
                if isinstance(one, Piece):
                    choices[index][0].append(one)
                elif one.error is not None:
                    raise _failure(one.error)
                else:
                    choices[index] = (choices[index][0], one.reason)

    reading, leaving = asyncio.ensure_future(read()), asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return Response(status_code=499)  # nobody reads it
        reading.result()
    finally:
        reading.cancel()
        leaving.cancel()
        conversation.leave()
    prompts = [job.asked.prompt_ids for job in conversation.jobs]
    return JSONResponse(says.whole(choices, prompts, conversation.usage()))


class Watched(Response):
    """A stream that ends when its client has left, or reads nothing for too long.

    Args:
        stall: seconds that a client may take to read what was sent.
    """

    def __init__(self, stall: float) -> None:
        super().__init__()
        self._stall = stall

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        writing = asyncio.ensure_future(self._write(send))
        leaving = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)
            await self.leave()

    async def _write(self, send: Send) -> None:
        await self.begin(send)
        try:
            await self.write(send)
        except OSError:  # nobody reads it; TimeoutError is one
            raise
        except Exception as error:
            await self.put(send, b"\n\n" + event(broken(error).body()) + DONE, more=False)

    async def write(self, send: Send) -> None:
        """Sends everything after the head."""
        raise NotImplementedError

    async def leave(self) -> None:
        """Gives back what the stream held; called once, whatever happened."""
        raise NotImplementedError

    async def begin(self, send: Send) -> None:
        """Sends the head of server-sent events."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def put(self, send: Send, data: bytes, more: bool = True) -> None:
        """Raises TimeoutError if the client has not read what was sent before for too long."""
        async with asyncio.timeout(self._stall):
            if data or not more:
                await send({"type": "http.response.body", "body": data, "more_body": more})


class Streamed(Watched):
    """Server-sent events, ended by [DONE]."""

    def __init__(self, conversation: Conversation, says: Answer, stall: float, usage: bool) -> None:
        super().__init__(stall)
        self._conversation, self._says, self._usage = conversation, says, usage

    async def leave(self) -> None:
        """Frees the rows."""
        self._conversation.leave()

    async def write(self, send: Send) -> None:
        """Each piece as it comes."""
        firsts = [self._says.first(index, job.asked.prompt_ids) for index, job in enumerate(self._conversation.jobs)]
        await self.put(send, b"".join(event(first) for first in firsts if first is not None))
        async for found in self._conversation.events():
            lines = []
            for index, one in found:
                if isinstance(one, Piece):
                    lines.append(event(self._says.piece(index, one)))
                elif one.error is not None:
                    await self.put(send, b"".join([*lines, event(_failure(one.error).body()), DONE]), more=False)
                    return
                else:
                    lines.append(event(self._says.end(index, one.reason)))
            await self.put(send, b"".join(lines))
        last = [event(self._says.usage(self._conversation.usage()))] if self._usage else []
        await self.put(send, b"".join([*last, DONE]), more=False)


def broken(error: Exception) -> Refusal:
    """What is said of a fault of the server's own: the kind of error alone, as its text may hold anything."""
    return Refusal(500, f"this request fails here ({type(error).__name__}); others go on", code="internal_error")


def _failure(error: str) -> Refusal:
    stopping = error == STOPPING
    return Refusal(503 if stopping else 500, error, code="server_stopping" if stopping else "generation_failed")


async def gone(receive: Receive) -> None:
    """Returns when the client has left."""
    message: Message = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
