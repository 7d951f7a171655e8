"""What each device of a run will hold, said beforehand."""

from __future__ import annotations

from gpt_lab.cost import memory, memory_plan
from gpt_lab.cost.memory import FLOAT
from tests.helpers import tiny_config

LARGE = {"scale.depth": 24, "scale.width": 1024, "scale.heads": 16, "scale.context": 1024, "batch.tokens": 8 * 1024}


def planned(parallel: str, number: int, **more: object) -> dict[str, int]:
    cfg = tiny_config(**LARGE, parallel=parallel, gpus_per_trial=number, **more)
    return memory_plan.planned(cfg, memory.sizes_of(cfg, 50304, 355_000_000))


def test_shares_and_replicas() -> None:
    """355 million weights: 1.42 GB, on every device under ddp, a quarter of it on each of four under fsdp."""
    one, ddp, fsdp = planned("none", 1), planned("ddp", 4), planned("fsdp", 4)
    assert abs(one["weights"] - FLOAT * 355_000_000) < 1e8
    assert ddp["weights"] == one["weights"] and fsdp["weights"] == -(-one["weights"] // 4)
    assert fsdp["optimizer state"] == 2 * fsdp["weights"] == 2 * fsdp["gradients"]
    assert one["activations"] == 4 * ddp["activations"] == 4 * fsdp["activations"], "a share of the rows"
    assert 0 < fsdp["layers put together"] < one["weights"]


def test_what_waits_for_its_exchange() -> None:
    whole = "gradients summed before they are exchanged"
    assert whole not in planned("fsdp", 2)
    assert planned("fsdp", 2, **{"batch.micro": 1})[whole] == planned("ddp", 2)["gradients"]
    sharded = {"parallel": {"name": "fsdp", "accumulate": "sharded"}}
    cfg = tiny_config(**LARGE, gpus_per_trial=2, **sharded, **{"batch.micro": 1})
    assert whole not in memory_plan.planned(cfg, memory.sizes_of(cfg, None, None))


def test_one_device_needs_no_plan() -> None:
    assert memory_plan.lines(tiny_config()) == []
    (line,) = memory_plan.lines(tiny_config(parallel="ddp", gpus_per_trial=2), 256, 30_000)
    assert line.startswith("memory of each of 2 devices: about ")
