"""A server in a thread, of two models as training leaves them, and openai's client of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from gpt_lab.data import chat_template
from gpt_lab.serve import running, served_model
from gpt_lab.serve.app import lanes
from gpt_lab.serve.engine import Engine
from gpt_lab.serve.guard import Limits
from tests.made_run import run_maker

Serve = Callable[..., "Live"]


@dataclass
class Live:
    """A running server."""

    port: int
    engine: Engine
    models: dict[str, served_model.Served]
    stop: threading.Event
    server: running.Server
    pool: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> openai.OpenAI:
        """openai's client; all share one pool of connections, whose making takes a while."""
        settings = {"api_key": "none", "max_retries": 0, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", http_client=self.pool, **settings)


@contextmanager
def live(models: dict[str, served_model.Served], limits: Limits, key: str | None = None) -> Iterator[Live]:
    """A server of these models, until the block is left."""
    place, stop = running.listen("127.0.0.1", 0), threading.Event()
    with place, Engine(lanes(models), rows=limits.rows, queue=limits.queue) as engine:
        server = running.make(models, engine, limits, "127.0.0.1", key, stop.is_set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[place])))
        thread.start()
        try:
            with httpx.Client(verify=False, timeout=30) as pool:
                yield Live(place.getsockname()[1], engine, models, stop, server, pool)
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive(), "the server stops when it is asked"


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, served_model.Served]:
    """Two base models and one with a chat template, of one tokenizer of bytes: `lab/rope`, `lab/alibi`, `lab/tuned`."""
    folder = tmp_path_factory.mktemp("served")
    make = run_maker(folder)
    runs = [make(name, study="lab", position=name) for name in ("rope", "alibi")]
    tuned = make("tuned", study="lab", checkpoints={"step-1": 5})
    (tuned.path / "tokenizer" / chat_template.FILE).write_text(chat_template.JINJA, encoding="utf-8")
    return served_model.load([str(run.path) for run in (*runs, tuned)], str(folder), None, "cpu")


@pytest.fixture(scope="session")
def shared(three: dict[str, served_model.Served]) -> Iterator[Live]:
    """One server for the tests that leave it as it was."""
    with live(three, Limits()) as server:
        yield server


@pytest.fixture
def serve(three: dict[str, served_model.Served]) -> Iterator[Serve]:
    """serve(limits, key): a server of one's own."""
    with ExitStack() as stack:
        yield lambda limits=Limits(), key=None: stack.enter_context(live(three, limits, key))  # noqa: B008
