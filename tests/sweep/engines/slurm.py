"""A Slurm of one's own: controller and two nodes on this machine, without systemd, on ports of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.sweep.sweep_helpers import tree, until

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "munged")
NODES = ("n1", "n2")


def missing() -> list[str]:
    """Programs that are not installed; Debian has them in slurmctld, slurmd, slurm-client and munge."""
    found = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return found if os.geteuid() == 0 else [*found, "the rights of root"]


@dataclass
class Cluster:
    """The running daemons. `nodes`: the process of each node's slurmd."""

    folder: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def daemon(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{Path(words[0]).name}.out", "ab") as out:
            begun = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        self.daemons.append(begun)
        return begun

    def ask(self, *words: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        return done.stdout if done.returncode == 0 else ""

    def signal(self, node: str, number: int) -> None:
        """To all that runs there but Slurm's own."""
        for pid in self.on(node)[1:]:
            with suppress(OSError):
                if b"slurmstepd" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, number)

    def lose(self, node: str) -> None:
        """kill -9 of a node's slurmd and of all that runs there, as if the machine had lost its power."""
        for pid in self.on(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[node].wait(10)

    def on(self, node: str) -> list[int]:
        """Processes of a node: its slurmd, its job steps, what they started."""
        found = [self.nodes[node].pid]
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError, ProcessLookupError):
                if path.read_bytes().startswith(b"slurmstepd: ") and _node_of(path.parent) == node:
                    found += tree(int(path.parent.name))
        return found


def _node_of(process: Path) -> str | None:
    """The node of a job step: its children's environment says it."""
    for pid in tree(int(process.name))[1:]:
        with suppress(OSError):
            for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if word.startswith(b"SLURMD_NODENAME="):
                    return word.partition(b"=")[2].decode()
    return None


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Starts it and waits until both nodes are idle; all of it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as folder:  # a socket's path has 107 characters
        yield from _running(Path(folder))


def _running(folder: Path) -> Iterator[Cluster]:
    path, before = os.environ["PATH"], os.environ.get("SLURM_CONF")
    os.environ.update(PATH=f"{path}:/usr/sbin", SLURM_CONF=str(folder / "slurm.conf"))
    made = Cluster(folder)
    try:
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        (folder / "slurm.conf").write_text(_conf(folder), encoding="utf-8")
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir()
        files = [f"--{kind}-file={folder / f'munge.{kind}'}" for kind in ("pid", "log", "seed")]
        made.daemon("munged", "--foreground", "--force", f"--socket={folder}/munge.sock", f"--key-file={key}", *files)
        until((folder / "munge.sock").exists, 10)
        made.daemon("slurmctld", "-D")
        for node in NODES:
            made.nodes[node] = made.daemon("slurmd", "-D", "-N", node)
        until(lambda: time.sleep(0.2) or made.ask("sinfo", "-h", "-N", "-o", "%T").split().count("idle") >= 2, 60)
        yield made
    finally:
        for node in NODES:
            for pid in made.on(node) if node in made.nodes else []:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for one in reversed(made.daemons):
            one.kill()
            one.wait(10)
        os.environ["PATH"] = path
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _conf(folder: Path) -> str:
    host = socket.gethostname()
    controller, *nodes = free_ports(1 + len(NODES))
    lines = [
        *("ClusterName=lab", f"SlurmctldHost={host}(127.0.0.1)", "SlurmUser=root", "SlurmdUser=root"),
        *(f"AuthInfo=socket={folder}/munge.sock", f"SlurmctldPort={controller}", "ReturnToService=2"),
        *(f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool-%n"),
        *(f"SlurmctldPidFile={folder}/slurmctld.pid", f"SlurmdPidFile={folder}/slurmd-%n.pid"),
        *("ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SlurmdParameters=config_overrides"),
        *("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE", "MpiDefault=none", "SlurmdTimeout=10"),
        *("KillWait=20", "SchedulerParameters=sched_interval=2,batch_sched_delay=0"),
        *(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=1000"
            for name, port in zip(NODES, nodes, strict=True)
        ),
        "PartitionName=low Nodes=ALL Default=YES PriorityTier=1 OverSubscribe=NO",
        "PartitionName=high Nodes=ALL PriorityTier=10 OverSubscribe=NO",
    ]
    return "\n".join(lines) + "\n"
