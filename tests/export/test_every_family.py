"""Every family through its folder and back: transformers' own class opens it, under the names that its files have."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from gpt_lab.export import hugging_face
from gpt_lab.export.exported_model import Source
from gpt_lab.interchange import released_folder
from tests.interchange.test_families import BOTH_WAYS, TINY, VARIANTS, built, compose, same_bits

ONCE = {case.reference: case.overrides for case in reversed(BOTH_WAYS.values())}
ONCE |= {architecture: [*words, *TINY] for architecture, words in VARIANTS.items()}


@pytest.mark.parametrize("architecture", sorted(ONCE))
def test_it_opens_and_computes_the_same(architecture: str, tmp_path: Path) -> None:
    words = ONCE[architecture]
    source = Source(built(words), compose(words), None)
    made = hugging_face.write_folder(source, tmp_path / "out")
    assert made.architecture == architecture
    assert made.difference < 2e-5
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "experts.gate_up_proj" in name and "GptOss" not in architecture]  # noqa: SIM118
    again = released_folder.read(tmp_path / "out", "model_from")
    same_bits(dict(again.weights), source.model.state_dict())
