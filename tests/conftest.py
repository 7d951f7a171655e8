"""What every test process gets before torch is imported: one thread, throw-away caches, no network.

The main pytest process sets the environment; pytest-xdist's workers and the tests' subprocesses inherit it.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ALONE = "GPT_LAB_TEST_ALONE"
MEMORY, ENOUGH = Path("/dev/shm"), 2 << 30
"""A file system in memory, and the bytes of it that are enough for all tests: they leave 0.5 GB."""
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
SECRETS = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR", "HF_TOKEN")


def _in_memory() -> Path | None:
    """Where files cost no disk: the lab waits for stable storage at every checkpoint. None: there is not enough."""
    try:
        return MEMORY if shutil.disk_usage(MEMORY).free >= ENOUGH and os.access(MEMORY, os.W_OK) else None
    except OSError:
        return None


def _isolate() -> Path:
    """Point every cache and login at a new folder, which all workers share, and switch the network off."""
    home = Path(tempfile.mkdtemp(prefix="gpt_lab_tests_", dir=_in_memory()))
    if home.parent == MEMORY:
        tempfile.gettempdir()  # that of this process stays: what it leaves there is removed at its very end
        (home / "tmp").mkdir()
        os.environ.update(dict.fromkeys(("TMPDIR", "PYTEST_DEBUG_TEMPROOT"), str(home / "tmp")))
    git = Path.home() / ".gitconfig"
    if git.is_file():  # it may hold safe.directory, without which git refuses the checkout
        os.environ.setdefault("GIT_CONFIG_GLOBAL", str(git))
    for name in (*SECRETS, *(name for name in os.environ if name.startswith("GPT_LAB_") and name != ALONE)):
        os.environ.pop(name, None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # set in many containers: each process would compile torch anew
    (home / "parts").mkdir()
    os.environ.update(
        HOME=str(home),
        UV_RUN_RECURSION_DEPTH="1",  # hints name commands as they were called: as with `uv run`
        GPT_LAB_CACHE=str(home / "cache"),
        GPT_LAB_PARTS=str(home / "parts"),  # the tests are of the lab, not of what somebody adds to a checkout
        XDG_CACHE_HOME=str(home / ".cache"),
        XDG_CONFIG_HOME=str(home / ".config"),
        HF_HOME=str(home / "hf"),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        WANDB_MODE="offline",
        WANDB_ERROR_REPORTING="false",
        WANDB_SILENT="true",
        NETRC=str(home / "netrc"),
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS="1",  # one worker per core: more threads would only fight
        MKL_NUM_THREADS="1",
        TORCHINDUCTOR_COMPILE_THREADS="1",  # more are a process that imports torch
        COLUMNS="120",
    )
    return home


HOME = None if IS_WORKER else _isolate()
OWN: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
for _number, _handler in OWN.items():
    if signal.getsignal(_number) == signal.SIG_IGN:
        # a shell's background job ignores Ctrl-C, nohup a hang-up, and so would every program under test
        signal.signal(_number, _handler)


def pytest_unconfigure() -> None:
    if HOME is not None:
        shutil.rmtree(HOME, ignore_errors=True)


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: many tests wait for processes, clocks and disks."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What test files import stays: it is not looked through for garbage, at its import or ever after."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the `cuda` tests where there is no CUDA device; torch is imported only if such a test was collected."""
    items[:] = dealt(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def dealt(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Slow tests first, for each worker as many: at the end none waits for one that another has just begun.

    With `--dist worksteal` each of N workers begins with an N-th of the list, and takes from the end of another's part
    once it is done with its own. Those that use the compiler go to one worker.
    """
    compiled = [item for item in items if item.get_closest_marker("compiles")]
    slow = [item for item in items if item.get_closest_marker("slow") and item not in compiled]
    others = [item for item in items if not item.get_closest_marker("slow") and item not in compiled]
    found: list[pytest.Item] = []
    for number in range(workers):
        share = (len(items) - len(found)) // (workers - number)
        mine = [*(compiled if number == 0 else ()), *slow[number::workers]]
        found += [*mine, *others[: max(0, share - len(mine))]]
        del others[: max(0, share - len(mine))]
    return [*found, *others]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a `forks` test in a pytest of its own: what earlier tests started (threads of autograd) breaks forks."""
    if pyfuncitem.get_closest_marker("forks") is None or ALONE in os.environ:
        return None
    from tests.processes import commands

    inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    words = ["-n", "0", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    done = commands.pytest(words, pyfuncitem.config.rootpath, {**inherited, ALONE: "1"})
    if done.returncode != 0:
        pytest.fail((done.stdout + done.stderr)[-8000:], pytrace=False)
    return True


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run times no steps; a test that wants it to calls `monkeypatch.undo()`."""
    from gpt_lab.plan import paces
    from tests.helpers import stand_in

    monkeypatch.setattr(paces, "_measure", stand_in)


@pytest.fixture
def one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork servers of this process are forked from one that has imported torch, which takes seconds."""
    from gpt_lab.sweep.workers.client import ForkServer
    from tests.sweep import forked

    monkeypatch.setattr(ForkServer, "_launch", forked.launch_apart)


@pytest.fixture(autouse=True)
def no_service_is_left() -> Iterator[None]:
    """W&B names its helper process in the environment; a program that a later test starts would look for it."""
    yield
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command takes its process's signals over for good; where a test calls it, they come back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    before = [(number, signal.getsignal(number)) for number in (*numbers, signal.SIGXCPU)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connections beyond this machine fail at once, so that a test which needs the network cannot pass by luck."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def local(host: Any) -> bool:
        return host is None or str(host) in {"localhost", "::1", "", "b''"} or str(host).startswith("127.")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not local(address[0]):
            raise OSError(f"tests have no network: {address!r}")
        connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not local(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests have no network: {host!r}")
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield
