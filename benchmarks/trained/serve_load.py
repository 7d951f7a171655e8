"""The server under load: many streams at once, clients that vanish, malformed bodies, readers that hardly read.

    uv run python benchmarks/trained/serve_load.py

A server of two models that were trained for one step is a process of its own, this one is its clients. First some
continuations are asked for one at a time; the same ones must come out among a hundred streams. Then, in rounds,
streams are cut, nonsense is sent and slow readers keep connections open while good streams run: the server must answer
all of these, hold no row at the end, and not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from gpt_lab.store.record import machine

RESULTS = Path(__file__).parent.parent / "results"
PATIENCE = 120.0
POSITIONS = ("rope", "alibi")
NONSENSE: Sequence[bytes] = (
    b"",
    b"{",
    b"[]",
    b"\xff" * 100,
    b'{"model": "nobody", "prompt": "x", "logit_bias": {"1": 2}}',
    b'{"model": "nobody", "prompt": "x"}',
    b'{"model": "nobody", "prompt": [1e9]}',
    b'{"model": "nobody", "prompt": "x", "max_tokens": -1}',
    b'{"a":' * 10_000,
    b"x" * 1_100_000,
)


def request(models: Sequence[str], number: int, tokens: int) -> dict[str, Any]:
    """The body of one of the streams: each has a prompt, a seed and one of the models."""
    prompt = "ROMEO:\n" + "But soft, what light? " * (number % 7)
    return {"model": models[number % 2], "prompt": prompt, "seed": number, "max_tokens": tokens, "stream": True}


async def stream(client: httpx.AsyncClient, body: Mapping[str, Any], cut: int | None = None) -> dict[str, Any]:
    """The text of a stream, and when it came; `cut`: leaves after so many events."""
    began, first, text, events = time.perf_counter(), None, "", 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                return {"text": text, "first": first, "seconds": time.perf_counter() - began, "done": True}
            text += json.loads(line[6:])["choices"][0]["text"]
            first = first or time.perf_counter() - began
            events += 1
            if events == cut:
                break
    return {"text": text, "first": first, "done": False, "status": answer.status_code}


async def nonsense(client: httpx.AsyncClient, data: bytes) -> int:
    """The status with which a malformed body is refused."""
    answer = await client.post("/v1/completions", content=data, headers={"Content-Type": "application/json"})
    return answer.status_code


async def hardly_read(port: int, body: Mapping[str, Any], seconds: float) -> None:
    """Asks for a long stream, reads a few bytes of it a second, then goes."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, ("127.0.0.1", port))
    data = json.dumps({**body, "logprobs": 20}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    await loop.sock_sendall(made, f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    for _ in range(int(seconds)):
        await asyncio.sleep(1)
        try:
            await asyncio.wait_for(loop.sock_recv(made, 10), 0.5)
        except TimeoutError:
            continue
    made.close()


def resident(pid: int) -> float:
    """Megabytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024, 1)


async def idle(client: httpx.AsyncClient) -> bool:
    """Whether no row is held, within five seconds."""
    for _ in range(100):
        health = (await client.get("/health")).json()
        if (health["running"], health["waiting"]) == (0, 0):
            return True
        await asyncio.sleep(0.05)
    return False


async def measure(port: int, pid: int, streams: int, tokens: int, rounds: int) -> dict[str, Any]:
    """All of it."""
    pool = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    draw = random.Random(0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=pool, timeout=PATIENCE) as client:
        models = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        alone = [(await stream(client, request(models, number, tokens)))["text"] for number in range(0, streams, 10)]
        began = time.perf_counter()
        together = await asyncio.gather(*(stream(client, request(models, number, tokens)) for number in range(streams)))
        seconds = time.perf_counter() - began
        firsts = [one["first"] for one in together]
        found: dict[str, Any] = {
            "streams": streams,
            "tokens_each_at_most": tokens,
            "all_done": all(one["done"] for one in together),
            "same_text_as_alone": [one["text"] for one in together[::10]] == alone,
            "seconds": round(seconds, 2),
            "first_token_s": {"median": round(statistics.median(firsts), 3), "most": round(max(firsts), 3)},
            "rounds": [],
        }
        for _ in range(rounds):
            good = [stream(client, request(models, number, tokens)) for number in range(20)]
            cuts = [stream(client, request(models, number, 3000), draw.randint(1, 10)) for number in range(60)]
            sent = [nonsense(client, draw.choice(NONSENSE)) for _ in range(100)]
            slow = [hardly_read(port, request(models, number, 2000), 3) for number in range(20)]
            whole, cut, statuses, _ = await asyncio.gather(
                asyncio.gather(*good), asyncio.gather(*cuts), asyncio.gather(*sent), asyncio.gather(*slow)
            )
            refused = {str(status): statuses.count(status) for status in sorted(set(statuses))}
            found["rounds"].append(
                {
                    "good_streams_done": sum(one["done"] for one in whole),
                    "good_texts_as_alone": whole[0]["text"] == alone[0] and whole[10]["text"] == alone[1],
                    "streams_cut": sum(not one["done"] for one in cut),
                    "malformed": refused,
                    "slow_readers": len(slow),
                    "rows_free_after": await idle(client),
                    "resident_mb": resident(pid),
                }
            )
    return found


def start(runs: Path) -> tuple[subprocess.Popen[str], int]:
    """The server's process and port."""
    words = [*POSITIONS, f"runs_dir={runs}", "port=0", "rows=128", "queue=256", "device=cpu"]
    process = subprocess.Popen([*command("trained.serve"), *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("http://"):
            return process, int(line.split("/")[2].rpartition(":")[2])
    raise SystemExit(f"the server ended with {process.wait()}")


def command(name: str) -> list[str]:
    """The words that start one of the lab's commands."""
    return [sys.executable, "-c", f"from gpt_lab.cli.{name} import main; main()"]


def train(runs: Path, scale: str) -> None:
    """A run of each position encoding, of one step."""
    for position in POSITIONS:
        words = [f"study={position}", f"position={position}", f"runs_dir={runs}", f"scale={scale}", "budget.steps=1"]
        words += ["sample.tokens=0", "eval.tokens=2048", "data.val_fraction=0.002", "batch.tokens=1024"]
        words += ["tracker=none", "compile=off"]
        done = subprocess.run([*command("train"), *words], capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="check that everything runs; numbers mean little")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve_load.json")
    chosen = parser.parse_args(arguments)
    streams, tokens, rounds = (20, 8, 2) if chosen.quick else (100, 64, 6)
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), "nano")
        named = {**machine(), "torch": version("torch"), "load_before": round(os.getloadavg()[0], 2)}
        process, port = start(Path(folder))
        try:
            found = asyncio.run(measure(port, process.pid, streams, tokens, rounds))
            process.send_signal(signal.SIGTERM)
            found["exit_status_at_sigterm"] = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
    named["load_after"] = round(os.getloadavg()[0], 2)
    chosen.out.write_text(json.dumps({"machine": named, **found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "rounds"}, indent=1))
    print(f"written: {chosen.out}")


if __name__ == "__main__":
    main()
