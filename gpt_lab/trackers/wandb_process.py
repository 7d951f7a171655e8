"""The W&B process: JSON lines in, one per event, JSON lines out, one per notice.

It is a process of its own so that importing wandb (1 to 2 s), a server that hangs, or a crash of the client costs the
training process nothing, and so that after a kill -9 of training the last events still reach the server or the disk.
The end of its input without a "finish" line means that training was killed.
"""

from __future__ import annotations

import html
import json
import os
import re
import signal
import ssl
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

EXIT_CODES = {"finished": 0, "stopped": 255}
"""W&B shows 0 as finished, 255 as killed, all others as failed."""
LEFT = ("HandleAbandonedError", "MailboxClosedError", "WandbServiceConnectionError")
"""What W&B's client raises where its service has left while an answer is waited for."""
UPLOADS = re.compile(r"(filestream|runfiles|runupserter|filetransfer|fileTransfer)\b")
"""How W&B's client begins what it logs of an upload."""


class Session:
    """One W&B run, from init to finish."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._run: Any = None
        self._row: dict[str, Any] = {}
        self._step: int | None = None
        self._first = 0
        """The first step that the server does not have: a resumed run tells its past anew, in case it was not heard."""
        self._warned: set[str] = set()
        self._media: dict[str, Any] = {}
        self._tables: set[str] = set()
        self._patience = self._probe = 0.0
        self._gone = 1
        """Exit status when W&B's service has left: it hears SIGTERM, which is shut out here, because Go lets it in."""
        self._whole = True
        self._url: str | None = None
        """The server's address while the run is online."""

    def begin(self, header: dict[str, Any]) -> None:
        """Starts the run, online if that is asked for and possible; whatever goes wrong is reported once."""
        self._patience, self._probe, self._gone = header["patience"], header["probe_timeout"], header["gone"]
        try:
            self._run = self._begin(header)
        except Exception as error:
            self._tell(event="behind", text=f"W&B could not begin ({_line(error)})")

    def handle(self, event: dict[str, Any]) -> None:
        """Mirrors one event; a failure is reported once and the next event is tried."""
        if self._run is None or (event["step"] is not None and event["step"] < self._first):
            return
        try:
            getattr(self, f"_on_{event['op']}")(event["step"], event["data"])
        except Exception as error:
            if isinstance(error, ConnectionError) or type(error).__name__ in LEFT:
                os._exit(self._gone)
            self._whole = False
            self.warn(f"W&B refused a {event['op']} ({_line(error)}); it is kept in the run folder")

    def killed(self) -> None:
        """Ends a run whose training process is gone. Its last row may lack values, and a resume will log it again."""
        if self._run is not None:
            self._end(1)

    def warn(self, text: str) -> None:
        """Tells the training process, of each kind (the first words) only the first: the others say the same."""
        kind = text.partition("(")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            self._tell(event="warning", text=text)

    def _tell(self, **message: Any) -> None:
        try:
            self._out.write(json.dumps(message).encode() + b"\n")
            self._out.flush()
        except OSError:  # training is gone
            return

    def _begin(self, header: dict[str, Any]) -> Any:
        import wandb

        self._tell(event="imported")
        problem = None
        if header["mode"] == "online":
            self._url = wandb.setup().settings.base_url
            problem = unreachable(self._url, self._probe)
            if problem is None:
                try:
                    return self._init(header, "online")
                except Exception as error:
                    problem = _line(error)
                    wandb.teardown(exit_code=1)  # else the run's id counts as in use
        self._url = None
        run = self._init(header, "offline")
        if problem is not None:
            self._tell(event="behind", text=f"W&B cannot be reached ({problem})")
        return run

    def _init(self, header: dict[str, Any], mode: Literal["online", "offline"]) -> Any:
        import wandb

        parent = header["pid"]

        def stop() -> None:
            if os.getppid() == parent:  # else training has ended, and its pid may be another's
                os.kill(parent, signal.SIGTERM)

        settings = wandb.Settings(
            mode=mode,
            console="off",
            silent=True,
            init_timeout=header["init_timeout"],
            finish_timeout=0.7 * self._patience,  # the rest is for a first look at the server and for the way out
            finish_timeout_raises=True,
            program=header["program"],
            x_stats_pid=parent,
            x_transaction_log_flush_interval=1,  # 15 by default: a kill -9 would lose as many seconds
            x_file_stream_transmit_interval=header["transmit_interval"],
            x_file_stream_retry_wait_max_seconds=10,  # 60 by default: a server that is back is soon found
            x_graphql_retry_wait_max_seconds=10,
            x_file_stream_timeout_seconds=60,
            stop_fn=stop if header["stoppable"] else _nothing,
        )
        run = wandb.init(**header["init"], resume="allow", settings=settings)
        self._first = run.step
        for media in header["missed"] if mode == "online" else ():
            run.save(f"{media}/**/*.*", base_path=os.path.dirname(media), policy="now")
        run.define_metric("step")
        run.define_metric("*", step_metric="step")  # _step is shifted when an offline resume is synced
        self._tell(
            event="ready",
            mode=mode,
            id=run.id,
            url=run.url if mode == "online" else None,
            **({"project": run.project, "entity": run.entity} if mode == "online" else {}),
            folder=os.path.relpath(run.settings.sync_dir, header["init"]["dir"]),
        )
        return run

    def _on_log(self, step: int, values: dict[str, Any]) -> None:
        self._at(step).update(values)

    def _on_text(self, step: int, data: dict[str, Any]) -> None:
        import wandb

        page = f'<pre style="white-space: pre-wrap">{html.escape(data["text"])}</pre>'
        self._at(step)
        self._media[data["name"]] = wandb.Html(page, inject=False)

    def _on_table(self, _: None, data: dict[str, Any]) -> None:
        import wandb

        table = wandb.Table(columns=data["columns"], data=data["rows"], allow_mixed_types=True)
        self._media[data["name"]] = table
        self._tables.add(data["name"])

    def _on_finish(self, _: None, data: dict[str, Any]) -> None:
        self._probe = min(self._probe, 0.1 * self._patience)
        if self._step is not None and self._step == data["open_step"]:
            self._whole = False
        else:
            self._commit()
        self._run.summary.update({**data["summary"], "state": data["state"]})
        self._end(EXIT_CODES.get(data["state"], 1))

    def _end(self, exit_code: int) -> None:
        try:
            self._run.finish(exit_code=exit_code)
        except TimeoutError:
            self._tell(event="behind", text=f"W&B did not take everything within {self._patience:g} s of the run's end")
            os._exit(1)  # else wandb would wait as long again at exit
        if self._url is None:
            return
        if problem := refusal(Path(self._run.settings.log_internal)):
            self._tell(event="behind", text=f"W&B did not take everything ({problem})")
        elif self._whole:
            self._tell(event="uploaded")

    def _at(self, step: int) -> dict[str, Any]:
        """The row of a step. W&B takes each step once, in order, so a row leaves when the next step begins."""
        if step != self._step:
            self._commit()
            self._step = step
        return self._row

    def _commit(self) -> None:
        """Sends the row. Numbers go first: a text or table uploads files, speaks to the server and may fail."""
        row, media = self._row, self._media
        self._row, self._media = {}, {}
        if not row and (not media or self._step is None):  # a table alone is of no step
            return
        step = self._step or 0
        self._run.log({"step": step, **row}, step=step, commit=not media)
        for number, (name, value) in enumerate(media.items(), 1):
            try:
                if name in self._tables and self._url is not None and (problem := unreachable(self._url, self._probe)):
                    raise ConnectionError(problem)  # a table speaks to the server at once, and would try for 20 s
                self._run.log({name: value}, step=step, commit=number == len(media))
            except Exception as error:
                self._whole = False
                self.warn(f"W&B did not take {name} ({_line(error)}); it is kept in the run folder")


def unreachable(base_url: str, timeout: float) -> str | None:
    """Why no server answers at this address; None if one does. Proxies of the environment are used, as W&B does."""
    try:
        urllib.request.urlopen(base_url, timeout=timeout).close()
    except urllib.error.HTTPError:  # an answer all the same
        return None
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else f"{base_url}: {_line(error.reason)}"
    except (OSError, ValueError) as error:
        return f"{base_url}: {_line(error)}"
    return None


def refusal(log: Path) -> str | None:
    """Why W&B's client gave something up that it had to upload, by its own log: nothing else tells, and a run whose
    server said 401 or 403 once uploads no more and ends as if all had arrived."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            entry = json.loads(line)
            text = str(entry["msg"])
            if not (str(entry["level"]).startswith("ERROR") and UPLOADS.match(text)):
                continue
        except (ValueError, KeyError, TypeError):
            continue
        whole = f"{text} {entry.get('error', '')}"
        status = re.search(r"\b[45]\d\d\b", whole)
        return f"the server answered {status[0]}" if status else _line(whole)[:200]
    return None


def warm_up() -> None:
    """Makes W&B load what tables need."""
    import wandb

    wandb.Table(columns=["a"], data=[[1]])


def _nothing() -> None:
    """The agent of a sweep stops its run by itself."""


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Reads the header, then events, from standard input; answers on what was standard output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever wandb prints must not mix with the answers
    header = json.loads(sys.stdin.buffer.readline())
    sys.argv = header["argv"]
    os.nice(5)  # training goes first
    session = Session(out)
    session.begin(header)
    for number, line in enumerate(sys.stdin.buffer):
        event = json.loads(line)
        session.handle(event)
        if event["op"] == "finish":
            return
        if number == 0:  # training is under way: load what tables need (pandas, 1 s) now rather than at the end
            threading.Thread(target=warm_up, daemon=True).start()
    session.killed()
