"""The server's life: its socket, its engine, its orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import uvicorn

from gpt_lab.console.signals import Signals
from gpt_lab.errors import ConfigError
from gpt_lab.serve.app import build, lanes
from gpt_lab.serve.connection import connection
from gpt_lab.serve.credentials import LOCAL_HOSTS
from gpt_lab.serve.engine import Engine
from gpt_lab.serve.guard import Limits
from gpt_lab.serve.served_model import Served

BACKLOG = 1024
GRACE = 5.0
"""Seconds that running continuations have once the server is asked to stop."""


class Server(uvicorn.Server):
    """A server that stops when `asked` says so: streams that are not done by then end with an error and [DONE]."""

    def __init__(self, config: uvicorn.Config, engine: Engine, asked: Callable[[], bool]) -> None:
        super().__init__(config)
        self._engine = engine
        self._asked = asked

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the command's."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._asked():
            self._engine.stop(GRACE)
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket on which to listen; port 0 is any free one.

    Raises:
        ConfigError: the port is taken, or the address is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # by which asyncio knows to send at once
    except (OSError, UnicodeError) as error:  # the latter of what can be no name, such as a..b
        reason = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise ConfigError(f"cannot listen on host={host} ({reason}): host=127.0.0.1 is this machine") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)  # who comes before the server runs waits
    except OSError as error:
        made.close()
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): port=0 takes any free one") from None
    return made


def make(
    models: Mapping[str, Served], engine: Engine, limits: Limits, host: str, key: str | None, asked: Callable[[], bool]
) -> Server:
    """A server of models, not yet running."""
    config = uvicorn.Config(
        build(models, engine, key=key, local=host in LOCAL_HOSTS, limits=limits),
        http=connection(limits.stall),
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="on",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=int(GRACE) + 5,
        backlog=BACKLOG,
    )
    return Server(config, engine, asked)


def serve(
    models: Mapping[str, Served], limits: Limits, host: str, port: int, key: str | None, say: Callable[[str], None]
) -> None:
    """Serves until a signal asks to stop.

    Raises:
        ConfigError: the address cannot be had.
    """
    with listen(host, port) as place, Engine(lanes(models), rows=limits.rows, queue=limits.queue) as engine:
        with Signals() as signals:
            server = make(models, engine, limits, host, key, lambda: signals.caught is not None)
            name = f"[{host}]" if ":" in host else host
            say(f"http://{name}:{place.getsockname()[1]}/  (API: /v1; Ctrl-C stops)")
            asyncio.run(server.serve(sockets=[place]))
