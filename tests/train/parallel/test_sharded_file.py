"""A safetensors file that ranks write their rows of is the file that one process writes, and is read by rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt_lab.train.parallel.sharded import first_row
from gpt_lab.train.parallel.sharded_file import Rows, fill, prepare, read_into, read_rows

WHOLE = {
    "b": torch.arange(15.0).view(5, 3),
    "a.step": torch.tensor(7.0),
    "random": torch.arange(9, dtype=torch.uint8),
    "half": torch.arange(6).bfloat16().view(3, 2),
}


def of_rank(rank: int, ranks: int) -> dict[str, torch.Tensor | Rows]:
    mine: dict[str, torch.Tensor | Rows] = dict(WHOLE)
    for name in ("b", "half"):
        tensor = WHOLE[name]
        first, last = (first_row(len(tensor), one, ranks) for one in (rank, rank + 1))
        mine[name] = Rows(tensor[first:last].clone(), first, tuple(tensor.shape))
    return mine


@pytest.mark.parametrize("ranks", [1, 2, 4, 7])
def test_the_same_bytes(tmp_path: Path, ranks: int) -> None:
    """Seven ranks: some have no row."""
    save_file(WHOLE, tmp_path / "one")
    prepare(tmp_path / "several", of_rank(0, ranks))
    for rank in reversed(range(ranks)):
        fill(tmp_path / "several", of_rank(rank, ranks), replicated=rank == 0)
    assert (tmp_path / "several").read_bytes() == (tmp_path / "one").read_bytes()
    for rank in range(3):
        mine = of_rank(rank, 3)
        for one in mine.values():
            (one.here if isinstance(one, Rows) else one.clone()).zero_()
        mine = {name: one if isinstance(one, Rows) else torch.zeros_like(one) for name, one in mine.items()}
        read_into(tmp_path / "several", mine)
        for name, one in mine.items():
            expected = WHOLE[name]
            if isinstance(one, Rows):
                expected, one = expected[one.first : one.first + len(one.here)], one.here
            assert torch.equal(one, expected)
    assert torch.equal(read_rows(tmp_path / "several", "b", 1, 2), WHOLE["b"][1:3])
    assert load_file(tmp_path / "several").keys() == WHOLE.keys()


def test_another_model_s_file(tmp_path: Path) -> None:
    save_file(WHOLE, tmp_path / "one")
    with pytest.raises(KeyError, match="other names: more"):
        read_into(tmp_path / "one", {**WHOLE, "more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"b is \(5, 3\) there and \(5, 4\) here"):
        read_into(tmp_path / "one", {**WHOLE, "b": torch.zeros(5, 4)})
