"""A loopback double of the W&B server: enough of its protocol for the real client, and failures on demand.

`WandbDouble` records what clients send. One method `on_<operation>` answers each GraphQL operation, so that a
subclass adds operations by adding methods: sweep_double.py has those of sweeps and of `wandb.Api`.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "0123456789abcdef" * 2 + "01234567"
"""40 characters: the client checks no more of a key."""

Trouble = Literal["none", "hang", "error", "unauthorized", "forbidden"]
STATUS = {"error": 500, "unauthorized": 401, "forbidden": 403}


@dataclass
class RecordedRun:
    """One run as the server knows it."""

    name: str
    project: str
    entity: str
    display_name: str | None = None
    group: str | None = None
    sweep: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=dict)
    """Lines by offset of each streamed file."""
    sessions: int = 0
    """How many clients began or resumed it."""
    exit_code: int | None = None
    complete: bool = False
    stop: bool = False
    """Whether somebody pressed the stop button."""

    @property
    def history(self) -> list[dict[str, Any]]:
        lines = self.streams.get("wandb-history.jsonl", {})
        return [json.loads(lines[offset]) for offset in sorted(lines)]

    def values(self, key: str) -> list[tuple[int, Any]]:
        """(step, value) of one metric, in the order of the history."""
        return [(row["step"], row[key]) for row in self.history if key in row]

    def setting(self, key: str) -> Any:
        """One top-level entry of the run's config."""
        return self.config[key]["value"]


class WandbDouble:
    """The server. Use it in a `with` statement, or call `start` and `stop`.

    `trouble` may be changed at any time: "hang" accepts requests and never answers, the others answer with STATUS.
    `delay` is how many seconds each answer takes.
    """

    entity = "tester"

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.trouble: Trouble = "none"
        self.delay = 0.0
        self.runs: dict[str, RecordedRun] = {}
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self.artifacts: dict[str, dict[str, Any]] = {}
        self._server: _Server | None = None
        self._woken = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a client needs to talk to this server and to nobody else."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def start(self) -> WandbDouble:
        """Listens (again), on the port of the first time."""
        self._woken.clear()
        self._server = _Server(("127.0.0.1", self.port), self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stops listening and cuts every open connection: from now on clients are refused."""
        if self._server is not None:
            self._woken.set()
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    kill = stop

    def __enter__(self) -> WandbDouble:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop_run(self, name: str) -> None:
        """Presses the stop button of a run."""
        self.runs[name].stop = True

    # requests

    def answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        """The JSON answer to one request; blocks while `trouble` is "hang"."""
        if self.delay:
            self._woken.wait(self.delay)
        if self.trouble == "hang":
            self._woken.wait()
            raise ConnectionAbortedError
        if self.trouble != "none":
            return {"errors": [{"message": f"the double is set to {self.trouble!r}"}]}
        if path.startswith("/graphql"):
            return self._graphql(json.loads(body))
        if found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            return self._file_stream(found[1], json.loads(body))
        if method == "PUT" and (found := re.fullmatch(r"/upload/([^/]+)/(.+)", path)):
            self.runs[found[1]].files[found[2]] = body
        return {}

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = request.get("operationName") or (found[1] if found else "")
        self.operations.append(name)
        handler = getattr(self, f"on_{name}", None)
        if handler is None:
            self.unknown.append(name)
            return {"data": None, "errors": [{"message": f"the double does not know {name!r}"}]}
        try:
            return {"data": handler(variables)}
        except (KeyError, TypeError, ValueError) as error:
            self.unknown.append(f"{name}: {error!r}")
            return {"data": None, "errors": [{"message": f"the double cannot answer {name!r}: {error!r}"}]}

    def _file_stream(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[name]
        for file, chunk in (body.get("files") or {}).items():
            lines = run.streams.setdefault(file, {})
            lines.update(enumerate(chunk["content"], chunk["offset"]))
            if file == "wandb-summary.json" and chunk["content"]:
                run.summary = json.loads(chunk["content"][-1])
        if body.get("complete"):
            run.complete, run.exit_code = True, body.get("exitcode")
        return {"exitcode": None, "limits": {}, "stopped": run.stop}

    # GraphQL operations

    def on_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": self.entity}}]}
        viewer = {"id": "V", "entity": self.entity, "username": self.entity, "email": "tester@example.com"}
        return {"viewer": {**viewer, "flags": "{}", "teams": teams}}

    def on_ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        project, run = variables.get("project"), self.runs.get(variables["name"])
        model = {"id": "P", "name": project, "entity": {"id": "E", "name": self.entity}}
        if run is None:
            return {"model": {**model, "bucket": None}}
        tail = [json.dumps(row) for row in run.history[-1:]]
        events = run.streams.get("wandb-events.jsonl", {})
        bucket = {
            "id": f"R-{run.name}",
            "name": run.name,
            "displayName": run.display_name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": len(run.streams.get("output.log", {})),
            "historyLineCount": len(run.history),
            "eventsLineCount": len(events),
            "historyTail": json.dumps(tail),
            "eventsTail": json.dumps([events[max(events)]] if events else []),
            "config": json.dumps(run.config),
            "tags": run.tags,
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {**model, "bucket": bucket}}

    def on_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name, project = variables["name"], variables.get("project") or "uncategorized"
        inserted = name not in self.runs
        run = self.runs.setdefault(name, RecordedRun(name, project, variables.get("entity") or self.entity))
        if variables.get("program") is not None or variables.get("host") is not None:
            run.sessions += 1
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        run.display_name = variables.get("displayName") or run.display_name
        run.group = variables.get("groupName") or run.group
        run.sweep = variables.get("sweep") or run.sweep
        run.job_type = variables.get("jobType") or run.job_type
        run.tags = variables.get("tags") or run.tags
        bucket = {
            "id": f"R-{name}",
            "name": name,
            "displayName": run.display_name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": run.sweep,
            "historyLineCount": len(run.history),
            "project": {"id": "P", "name": run.project, "entity": {"id": "E", "name": run.entity}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_ArtifactType(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def on_CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Says that the server has the artifact already, so that the client uploads nothing."""
        given = variables.get("input", variables)
        number = f"A{len(self.artifacts)}"
        self.artifacts[number] = given
        artifact = {"id": number, "state": "COMMITTED", "artifactSequence": {"id": "S", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def on_OrganizationCoreWeaveOrganizationID(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def on_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables.get("run") or variables.get("runName") or variables.get("runID")
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": f"R-{run}", "uploadHeaders": [], "files": files}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], double: WandbDouble) -> None:
        self.double = double
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        double = self.server.double
        answer = double.answer(self.command, self.path, body)
        data = json.dumps(answer).encode()
        self.send_response(STATUS.get(double.trouble, 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _serve

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""
