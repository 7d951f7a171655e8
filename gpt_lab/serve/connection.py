"""Connections that end when their client reads nothing for too long."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def connection(stall: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, whose connections are cut where nothing of what waits was read within `stall` seconds.

    Without that a closed connection would wait for its reader for ever.
    """

    class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            transport.set_write_buffer_limits(high=0)  # the calls below come where anything waits, and where nothing
            super().connection_made(transport)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._rest()

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            super().connection_lost(exc)

        def _watch(self) -> None:
            waits = self.transport.get_write_buffer_size()
            self._timer = asyncio.get_running_loop().call_later(stall, self._look, waits)

        def _look(self, waited: int) -> None:
            if self.transport.get_write_buffer_size() < waited:
                self._watch()
            else:
                self.transport.abort()

        def _rest(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection
