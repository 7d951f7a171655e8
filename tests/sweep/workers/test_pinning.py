"""Cores of trials: divided, within NUMA nodes, threads of a physical core together."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.sweep.workers.pinning import divided, numa_nodes


def fake_system(root: Path, nodes: list[str], siblings: dict[int, str]) -> Path:
    for number, listed in enumerate(nodes):
        (root / f"node/node{number}").mkdir(parents=True)
        (root / f"node/node{number}/cpulist").write_text(f"{listed}\n", encoding="ascii")
    for cpu, listed in siblings.items():
        (root / f"cpu/cpu{cpu}/topology").mkdir(parents=True)
        (root / f"cpu/cpu{cpu}/topology/thread_siblings_list").write_text(f"{listed}\n", encoding="ascii")
    return root


def test_the_nodes_of_a_machine(tmp_path: Path) -> None:
    """Two nodes of two physical cores with two threads each, of which this process may use all but one."""
    siblings = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    system = fake_system(tmp_path, ["0-1,4-5", "2-3,6-7", ""], siblings)
    assert numa_nodes(system, range(8)) == [[0, 4, 1, 5], [2, 6, 3, 7]]
    assert numa_nodes(system, {0, 1, 4, 5, 6}) == [[0, 4, 1, 5], [6]]
    assert numa_nodes(tmp_path / "none", {0, 1}) == [[0, 1]], "a system that does not tell of nodes"


@pytest.mark.parametrize(
    "jobs, threads, expected",
    [
        (4, 1, [(0, 4), (2, 6), (1, 5), (3, 7)]),  # a physical core each, nodes in turn
        (2, 3, [(0, 4, 1, 5), (2, 6, 3, 7)]),
        (3, 1, [(0, 4), (2, 6), (1, 5)]),
        (8, 1, [(0,), (2,), (4,), (6,), (1,), (3,), (5,), (7,)]),
        (1, 1, []),
        (9, 1, []),
        (4, 3, []),
    ],
)
def test_cores_are_divided(jobs: int, threads: int, expected: list[tuple[int, ...]]) -> None:
    assert divided([[0, 4, 1, 5], [2, 6, 3, 7]], jobs, threads) == expected


def test_a_trial_crosses_nodes_only_if_it_must() -> None:
    assert divided([[0, 1, 2], [3, 4, 5]], 3, 1) == [(0,), (3,), (1,)]
    assert divided([[0, 1, 2], [3, 4, 5]], 3, 2) == [(0, 1), (2, 3), (4, 5)]
