"""The cores of each trial: the machine's are divided, none of a trial's lie in two NUMA nodes if there is a way.

Memory of another node is slower, and a trial whose threads move between cores loses what their caches held.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

SYSTEM = Path("/sys/devices/system")


def numa_nodes(root: Path = SYSTEM, allowed: Collection[int] | None = None) -> list[list[int]]:
    """The cores that this process may use, by NUMA node, threads of one physical core beside each other.

    Args:
        allowed: None: what the system says; nothing where it has no such notion.
    """
    if allowed is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    folders = sorted((root / "node").glob("node[0-9]*"), key=lambda path: int(path.name[4:]))
    found = [_listed(folder / "cpulist") & set(allowed) for folder in folders]
    found.append(set(allowed).difference(*found))  # of no node: the system does not tell of nodes

    def physical(cpu: int) -> tuple[int, int]:
        return min(_listed(root / f"cpu/cpu{cpu}/topology/thread_siblings_list"), default=cpu), cpu

    return [sorted(node, key=physical) for node in found if node]


def divided(nodes: Sequence[Sequence[int]], jobs: int, threads: int) -> list[tuple[int, ...]]:
    """As many cores for each of `jobs` trials, at least one for each thread; []: there are not enough, or one job.

    Neighbours are in different nodes, so that few trials share the bandwidth of all.
    """
    cores = [core for node in nodes for core in node]
    most = len(cores) // jobs
    if jobs < 2 or most < threads:
        return []
    for size in range(most, threads - 1, -1):
        parts = [[tuple(node[i : i + size]) for i in range(0, len(node) - size + 1, size)] for node in nodes]
        if sum(map(len, parts)) >= jobs:
            turns = range(max(map(len, parts)))
            return [own[turn] for turn in turns for own in parts if turn < len(own)][:jobs]
    return [tuple(cores[i * most : (i + 1) * most]) for i in range(jobs)]


def pin(cores: Sequence[int]) -> None:
    """Keeps this process, and what it will start, on these cores; [] leaves it where it is."""
    if cores:
        os.sched_setaffinity(0, cores)


def _listed(path: Path) -> set[int]:
    """The numbers of a list such as 0-3,8; none where it cannot be read."""
    try:
        parts = path.read_text(encoding="ascii").strip().split(",")
    except OSError:
        return set()
    ranges = [part.partition("-") for part in parts if part]
    return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}
