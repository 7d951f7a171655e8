"""Two models for conversations, one of them trained on nothing but with a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.data.chat_template import FILE, JINJA
from gpt_lab.serve import served_model
from gpt_lab.serve.served_model import LocalModel
from tests.made_run import run_maker


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of one tokenizer: two base models, `lab/rope` and `lab/alibi`, and one with a template, `lab/tuned`."""
    make = run_maker(tmp_path_factory.mktemp("chat"))
    runs = [make(name, study="lab", position=position) for name, position in (("rope", "rope"), ("alibi", "alibi"))]
    tuned = make("tuned", study="lab", checkpoints={"step-1": 5})
    (tuned.path / "tokenizer" / FILE).write_text(JINJA, encoding="utf-8")
    return [run.path for run in (*runs, tuned)]


@pytest.fixture(scope="session")
def models(places: list[Path]) -> dict[str, LocalModel]:
    found = served_model.load([str(place) for place in places], ".", None, "cpu")
    return {name: one for name, one in found.items() if isinstance(one, LocalModel)}
