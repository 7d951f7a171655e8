"""An sshd of one's own on the loopback: two host names, own port, own keys."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sweep.engines.slurm import free_ports
from tests.sweep.sweep_helpers import until

HOSTS = ("first.example", "second.example")
PATH = f"{os.environ['PATH']}:/usr/sbin"


def missing() -> list[str]:
    """Programs that are not installed; Debian has them in openssh-server and openssh-client."""
    return [name for name in ("sshd", "ssh", "ssh-keygen") if shutil.which(name, path=PATH) is None]


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Meanwhile `ssh HOST` reaches this machine by either of HOSTS."""
    (port,) = free_ports(1)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n",
        encoding="utf-8",
    )
    (folder / "ssh_config").write_text(
        f"Host {' '.join(HOSTS)}\nHostName 127.0.0.1\nPort {port}\nIdentityFile {folder}/user\nIdentitiesOnly yes\n"
        f"User {pwd.getpwuid(os.geteuid()).pw_name}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
        "LogLevel ERROR\n",
        encoding="utf-8",
    )
    real, before = shutil.which("ssh"), os.environ["PATH"]
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {real} -F {folder}/ssh_config "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    sshd = str(shutil.which("sshd", path=PATH))
    with open(folder / "sshd.out", "ab") as out:
        daemon = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=out, stderr=out)
    try:
        until(lambda: b"Server listening" in (folder / "sshd.out").read_bytes(), 10)
        os.environ["PATH"] = f"{wrapper.parent}:{before}"
        yield
    finally:
        os.environ["PATH"] = before
        daemon.kill()
        daemon.wait(10)
