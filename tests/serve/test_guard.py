"""What no client of good will sends: other hosts and pages, torn bodies, readers that stop, a server that is killed."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import httpx
import pytest

from gpt_lab.serve import running
from gpt_lab.serve.guard import Limits
from gpt_lab.serve.job import UNREAD
from gpt_lab.serve.served_model import RemoteModel
from tests.serve.conftest import Live, Serve, live

COMPLETIONS = "/v1/completions"
GOOD = {"model": "lab/rope", "prompt": "x", "max_tokens": 2, "temperature": 0}


def post(server: Live, content: bytes, **headers: str) -> httpx.Response:
    named = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return server.pool.post(server.url + COMPLETIONS, content=content, headers=named)


def error(answer: httpx.Response) -> dict[str, Any]:
    found = answer.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return dict(found)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "wrong_host"),
        ({"Host": "127.0.0.1.evil.example:80"}, "wrong_host"),
        ({"Origin": "http://evil.example"}, "wrong_origin"),
        ({"Origin": "null"}, "wrong_origin"),
        ({"Origin": "http://["}, "wrong_origin"),
    ],
)
def test_other_names_and_other_pages_are_turned_away(shared: Live, headers: dict[str, str], code: str) -> None:
    """DNS rebinding: the browser asks 127.0.0.1 under the name of the page it came from."""
    for answer in (
        shared.pool.get(f"{shared.url}/v1/models", headers=headers),
        post(shared, json.dumps(GOOD).encode(), **headers),
    ):
        assert (answer.status_code, error(answer)["code"]) == (403, code)
    allowed = {"Host": f"localhost:{shared.port}", "Origin": f"http://localhost:{shared.port}"}
    assert shared.pool.get(f"{shared.url}/v1/models", headers=allowed).status_code == 200


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "the body is no JSON"),
        (b"{", "the body is no JSON"),
        (b"[1]", "must be a JSON object"),
        (b"\xff\xfe", "the body is no JSON"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b'{"a":' * 100_000, "the body is no JSON"),
        (b'{"model": "lab/rope", "prompt": "\\ud800"}', "half of a surrogate pair"),
        (b'{"model": "lab/rope", "\\uDFFF": 1}', "half of a surrogate pair"),
        (b'{"model": "lab/rope", "user": "\xed\xa0\x80"}', "the body is no JSON"),
        (b'{"model": "lab/rope", "\\u0000": 1}', "unknown field"),
        (b'{"model": "lab/rope", "seed": 1e400}', "seed"),
        (b'{"model": "lab/rope", "max_tokens": 99999999999999999999999999}', "max_tokens"),
        (b'{"model": ["lab/rope"], "prompt": "x"}', "model must be the name"),
        (b'{"model": "lab/rope", "prompt": [1, "a"]}', "prompt must be"),
        (b'{"model": "lab/rope", "prompt": [true]}', "prompt must be"),
        (b'{"model": "lab/rope", "stop": {"a": 1}}', "stop must be"),
    ],
)
def test_a_malformed_body_is_a_400_in_one_line(shared: Live, content: bytes, line: str) -> None:
    answer = post(shared, content)
    assert answer.status_code == 400
    message = error(answer)["message"]
    assert line in message and message.isprintable() and len(message) < 1200
    assert post(shared, json.dumps(GOOD).encode()).status_code == 200


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"place": 2}, "place"),
        ({"head": 4}, "head"),
        ({"head": "x"}, "head"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1] * 17}, "prompt"),
        ({"prompt": [257]}, "prompt"),
        ({"layer": 1}, "layer"),
    ],
)
def test_attention_that_there_is_not(shared: Live, changes: dict[str, Any], param: str) -> None:
    answer = shared.pool.post(f"{shared.url}/lab/attention", json={"model": "lab/rope", "prompt": [1, 2], **changes})
    assert (answer.status_code, error(answer)["param"]) == (400, param)


def test_a_body_that_is_too_large_or_no_json_is_not_read(serve: Serve) -> None:
    server = serve(Limits(body=1000))
    assert error(post(server, b"x" * 1001))["code"] == "body_too_large"

    def chunks() -> Any:
        yield from (b"x" * 400 for _ in range(10))

    headers = {"Content-Type": "application/json"}
    answer = server.pool.post(server.url + COMPLETIONS, content=chunks(), headers=headers)
    assert (answer.status_code, error(answer)["code"]) == (413, "body_too_large")
    assert post(server, json.dumps(GOOD).encode(), content_type="text/plain").status_code == 415
    assert server.pool.get(f"{server.url}/nowhere").status_code == 404
    assert server.pool.get(server.url + COMPLETIONS).status_code == 405


def asking(port: int, body: dict[str, Any], buffer: int | None = None) -> socket.socket:
    """A connection that has sent a request and reads nothing."""
    made = socket.socket()
    if buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    made.connect(("127.0.0.1", port))
    data = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    made.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return made


def idle(server: Live, seconds: float = 10) -> bool:
    """Whether all rows are free within some seconds."""
    deadline = time.monotonic() + seconds
    while server.engine.load != {"running": 0, "waiting": 0}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_vanishes_frees_its_row_at_once(serve: Serve, stream: bool) -> None:
    server = serve(Limits(rows=2, queue=2, tokens=200_000))
    body = GOOD | {"max_tokens": 100_000, "stream": stream}
    connections = [asking(server.port, body) for _ in range(4)]
    deadline = time.monotonic() + 10
    while server.engine.load != {"running": 2, "waiting": 2} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.engine.load == {"running": 2, "waiting": 2}
    for one in connections:
        one.close()
    assert idle(server)


def test_a_reader_that_stops_holds_its_row_no_longer_than_the_limit(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is bounded meanwhile, and others go on."""
    listen = running.listen

    def with_little_room(host: str, port: int) -> socket.socket:
        made = listen(host, port)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return made

    monkeypatch.setattr(running, "listen", with_little_room)
    server = serve(Limits(rows=4, tokens=10_000, stall=1.0))
    with asking(server.port, GOOD | {"max_tokens": 9000, "stream": True, "logprobs": 20}, buffer=4096):
        lane = server.engine._lanes["lab/rope"]
        deadline = time.monotonic() + 20
        while not any(job.paused for job in list(lane.rows.values())) and time.monotonic() < deadline:
            time.sleep(0.005)
        (job,) = list(lane.rows.values())
        made = job.made
        assert 0 < made < 9000 and len(job.events) == UNREAD, "it waits"
        assert post(server, json.dumps(GOOD).encode()).status_code == 200
        assert job.made == made
        assert idle(server, 10) and not job.ended, "it was let go"
        deadline = time.monotonic() + 10
        while stuck(server) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not stuck(server), "its connection is closed, though it has not read what was sent"


def stuck(server: Live) -> bool:
    """Whether a connection holds bytes for a client that does not read them."""
    connections: Any = list(server.server.server_state.connections)
    return any(one.transport.get_write_buffer_size() for one in connections)


def test_a_whole_answer_that_nobody_reads_is_dropped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    listen = running.listen

    def with_little_room(host: str, port: int) -> socket.socket:
        made = listen(host, port)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return made

    monkeypatch.setattr(running, "listen", with_little_room)
    server = serve(Limits(stall=0.2))
    with asking(server.port, GOOD | {"max_tokens": 120, "logprobs": 20}, buffer=2048):
        deadline = time.monotonic() + 10
        while not stuck(server) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert stuck(server)
        while stuck(server) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not stuck(server)


@pytest.mark.parametrize("stream", [True, False])
def test_a_fault_of_the_server_is_an_error_of_the_api(
    shared: Live, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """It says the kind of error and nothing of its text; a stream that has begun ends with it."""

    def fails(*arguments: object) -> Any:
        raise KeyError("secret")

    monkeypatch.setattr("gpt_lab.serve.api_objects.Answer.piece", fails)
    monkeypatch.setattr("gpt_lab.serve.api_objects.Answer.whole", fails)
    answer = post(shared, json.dumps(GOOD | {"stream": stream}).encode())
    if stream:
        assert answer.text.rstrip().endswith("data: [DONE]")
        said = json.loads(answer.text.strip().splitlines()[0].removeprefix("data: "))["error"]
    else:
        assert answer.status_code == 500 and answer.headers["x-content-type-options"] == "nosniff"
        said = error(answer)
    assert (said["type"], said["code"]) == ("server_error", "internal_error")
    assert "KeyError" in said["message"] and "secret" not in answer.text


def test_a_remote_model_is_asked_under_its_own_name_and_key(
    shared: Live, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other server is one of ours, with a key; so whole answers, streams and refusals come through.

    One client asks for all, as making one takes longer than a request; it keeps nothing of an answer.
    """
    made: list[httpx.AsyncClient] = []
    begin = httpx.AsyncClient.__init__

    def noted(self: httpx.AsyncClient, *arguments: Any, **options: Any) -> None:
        made.append(self)
        begin(self, *arguments, **options)

    monkeypatch.setattr(httpx.AsyncClient, "__init__", noted)
    monkeypatch.setenv("OPENAI_API_KEY", "far-secret")
    with live(shared.models, Limits(), key="far-secret") as far:
        models: dict[str, Any] = {"far": RemoteModel("far", f"{far.url}/v1", "lab/alibi")}
        with live(models, Limits()) as near:
            assert near.client().models.list().data[0].id == "far"
            made.clear()  # it runs, and has its client
            options: dict[str, Any] = {"prompt": "x", "max_tokens": 6, "seed": 4}
            wanted = shared.client().completions.create(model="lab/alibi", **options)
            said = near.client().completions.create(model="far", **options)
            assert said.choices[0].text == wanted.choices[0].text and said.model == "lab/alibi"
            chunks = near.client().completions.create(model="far", stream=True, **options)
            assert "".join(chunk.choices[0].text for chunk in chunks) == wanted.choices[0].text
            monkeypatch.setenv("OPENAI_API_KEY", "wrong")
            body = {"model": "far", "prompt": "x"}
            assert near.pool.post(near.url + COMPLETIONS, json=body).status_code == 401
            assert not made
    with live(models, Limits()) as near:
        answer = near.pool.post(near.url + COMPLETIONS, json=body)
        assert (answer.status_code, error(answer)["code"]) == (502, "remote_failed")
    assert "secret" not in capfd.readouterr().err


def test_a_stream_from_elsewhere_ends_with_its_client(shared: Live) -> None:
    """And the other server hears of it; one that breaks off in mid-stream is said to have."""
    body = GOOD | {"model": "far", "stream": True, "max_tokens": 100_000}
    with live(shared.models, Limits(tokens=200_000)) as far:
        models: dict[str, Any] = {"far": RemoteModel("far", f"{far.url}/v1", "lab/rope")}
        with live(models, Limits(rows=1)) as near:
            for _ in range(3):
                with near.pool.stream("POST", near.url + COMPLETIONS, json=body) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    full = near.pool.post(near.url + COMPLETIONS, json=GOOD | {"model": "far"})
                    assert full.status_code == 429
                assert idle(far)
                while near.pool.post(near.url + COMPLETIONS, json=GOOD | {"model": "far"}).status_code == 429:
                    time.sleep(0.01)
            with near.pool.stream("POST", near.url + COMPLETIONS, json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                far.engine.stop(0)
                rest = "\n".join(lines)
            assert "server_stopping" in rest and rest.rstrip().endswith("data: [DONE]")
