"""The routes: OpenAI's models, completions and chat completions, and the page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from gpt_lab.errors import ConfigError, DataError, LabError, unknown
from gpt_lab.infer.request import start
from gpt_lab.infer.sampling import Sampling
from gpt_lab.serve import attention_request, request_body
from gpt_lab.serve.api_objects import Answer
from gpt_lab.serve.delivery import Conversation, Streamed, broken, collected
from gpt_lab.serve.engine import Engine, Full, Lane, Stopping
from gpt_lab.serve.guard import SAFE, Guard, Limits
from gpt_lab.serve.job import Asked, Job
from gpt_lab.serve.refusal import Refusal
from gpt_lab.serve.remote import Forwarder
from gpt_lab.serve.request_body import ChatRequest, CompletionRequest
from gpt_lab.serve.served_model import LocalModel, RemoteModel, Served, describe

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
CHAT_TOKENS = 256
"""New tokens of a chat's answer where the request says nothing."""


def build(
    models: Mapping[str, Served],
    engine: Engine,
    *,
    key: str | None = None,
    local: bool = True,
    limits: Limits | None = None,
) -> FastAPI:
    """The application, behind its guard.

    Args:
        engine: has a lane for each local model (`lanes`). key: that requests must bear. local: on loopback only.
    """
    limits = limits or Limits()
    forwarder = Forwarder(limits)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with forwarder:
            yield

    app = FastAPI(title="gpt_lab", openapi_url=None, docs_url=None, redoc_url=None, lifespan=life)
    app.add_middleware(Guard, key=key, local=local, limits=limits)
    began = int(time.time())

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        safe = {name.decode(): value.decode() for name, value in SAFE}  # outside the guard, which adds them else
        return JSONResponse(broken(error).body(), 500, safe)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return JSONResponse(refusal.body(), refusal.status, refusal.headers())

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"]
        says = {404: f"there is no {path}", 405: f"{request.method} does not go with {path}"}
        refusal = Refusal(error.status_code, says.get(error.status_code, str(error.detail)))
        return JSONResponse(refusal.body(), refusal.status, dict(error.headers or {}))

    def entry(name: str) -> dict[str, Any]:
        lab = describe(models[name])
        return {"id": name, "object": "model", "created": began, "owned_by": "gpt_lab", "lab": lab}

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [entry(name) for name in models]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        return JSONResponse(entry(_find(models, name).name))

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok", **engine.load})

    @app.post("/v1/completions")
    async def completions(request: Request) -> Any:
        body = request_body.decoded(await request.body())
        asked = request_body.completion(body)
        served = _find(models, asked.model)
        if isinstance(served, RemoteModel):
            return await forwarder.send(served, "completions", body, request)
        prompts = [_tokens(served, prompt) for prompt in asked.prompts]
        return await answer(request, served, asked, prompts)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Any:
        body = request_body.decoded(await request.body())
        asked = request_body.chat(body)
        served = _find(models, asked.model)
        if isinstance(served, RemoteModel):
            return await forwarder.send(served, "chat/completions", body, request)
        return await answer(request, served, asked, [_turns(served, asked)])

    @app.post("/lab/attention")
    async def attention(request: Request) -> Response:
        asked = attention_request.read(request_body.decoded(await request.body()))
        served = _find(models, asked.model)
        if isinstance(served, RemoteModel):
            raise Refusal(400, f"{asked.model} is on another server, which shows no attention", "model")
        if max(asked.prompt) >= served.model.vocab_size:
            raise Refusal(400, f"prompt has tokens outside the vocabulary of {served.model.vocab_size}", "prompt")
        try:
            found = await asyncio.wrap_future(
                engine.ask(asked.model, lambda model: attention_request.chosen(model, asked))
            )
        except Full as error:
            raise Refusal(429, str(error), code="queue_full", retry_after=1) from None
        except Stopping as error:
            raise Refusal(503, str(error), code="server_stopping", retry_after=10) from None
        except LabError as error:
            raise Refusal(400, str(error), "prompt") from None
        return JSONResponse(found | {"tokens": [served.tokenizer.decode([token]) for token in asked.prompt]})

    async def answer(
        request: Request, served: LocalModel, asked: CompletionRequest | ChatRequest, prompts: Sequence[Sequence[int]]
    ) -> Any:
        wanted = 1 if asked.max_tokens is None else asked.max_tokens
        for prompt_ids in prompts:
            most = limits.tokens - len(prompt_ids)
            if wanted > most:
                raise Refusal(
                    400,
                    f"the prompt has {len(prompt_ids):,} tokens and max_tokens is {wanted:,}: this "
                    f"server allows {limits.tokens:,} together",
                    "max_tokens" if most > 0 else "messages" if isinstance(asked, ChatRequest) else "prompt",
                    "context_length_exceeded",
                )
        number = len(prompts) * asked.n
        if number > limits.rows + limits.queue:
            raise Refusal(400, f"{number} choices are more than this server makes at once", "n")
        loop = asyncio.get_running_loop()
        waking = asyncio.Event()
        each = [_asked(served, asked, one, sample, limits) for one in prompts for sample in range(asked.n)]
        jobs = [Job(asked.model, one, served.tokenizer, _waker(loop, waking)) for one in each]
        try:
            engine.submit(jobs)
        except Full as error:
            raise Refusal(429, str(error), code="queue_full", retry_after=1) from None
        except Stopping as error:
            raise Refusal(503, str(error), code="server_stopping", retry_after=10) from None
        conversation = Conversation(engine, jobs, waking)
        says = Answer(asked, served.tokenizer, served.digest)
        if asked.stream:
            return Streamed(conversation, says, limits.stall, asked.usage)
        return await collected(conversation, says, request)

    @app.get("/")
    @app.get("/app.js")
    @app.get("/style.css")
    async def page(request: Request) -> Response:
        name, kind = FILES[request.scope["path"]]
        return Response((resources.files("gpt_lab.serve") / "static" / name).read_bytes(), media_type=kind)

    return app


def lanes(models: Mapping[str, Served]) -> dict[str, Lane]:
    """What an engine needs of the local ones."""
    return {name: Lane(one.model, one.tokenizer) for name, one in models.items() if isinstance(one, LocalModel)}


def _find(models: Mapping[str, Served], name: str) -> Served:
    if name not in models:
        raise Refusal(404, unknown("model", name, models), "model", "model_not_found")
    return models[name]


def _tokens(served: LocalModel, prompt: str | Sequence[int]) -> Sequence[int]:
    if not isinstance(prompt, str):
        if max(prompt) >= served.model.vocab_size:
            raise Refusal(400, f"prompt has tokens outside the vocabulary of {served.model.vocab_size}", "prompt")
        return prompt
    try:
        return start(served.tokenizer, prompt)[0]
    except (ConfigError, DataError) as error:
        raise Refusal(400, str(error), "prompt") from None


def _turns(served: LocalModel, asked: ChatRequest) -> Sequence[int]:
    if served.template is None:
        line = f"{served.name} has no chat template: it continues text, by /v1/completions"
        raise Refusal(400, line, "model", "no_chat_template")
    try:
        return served.template.render(asked.messages, add_generation_prompt=True)
    except DataError as error:
        raise Refusal(400, str(error), "messages") from None


def _asked(
    served: LocalModel, asked: CompletionRequest | ChatRequest, prompt_ids: Sequence[int], sample: int, limits: Limits
) -> Asked:
    most = min(CHAT_TOKENS, limits.tokens - len(prompt_ids))
    return Asked(
        prompt_ids=prompt_ids,
        max_tokens=most if asked.max_tokens is None else asked.max_tokens,
        sampling=Sampling(asked.temperature, asked.top_k, asked.top_p, asked.min_p, asked.repetition_penalty),
        seed=asked.seed,
        sample=sample,
        stop=asked.stop,
        stop_ids=served.stop_ids,
        tops=asked.tops,
        echo=isinstance(asked, CompletionRequest) and asked.echo,
        message=isinstance(asked, ChatRequest),
    )


def _waker(loop: asyncio.AbstractEventLoop, waking: asyncio.Event) -> Callable[[], None]:
    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed, and with it all connections
            loop.call_soon_threadsafe(waking.set)

    return wake
