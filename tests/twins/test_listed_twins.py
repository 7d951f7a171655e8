"""Each twin belongs to a part that exists, is held against it, and says where its layout differs. Needs no JAX."""

from __future__ import annotations

import ast

import pytest

from gpt_lab.config import components, source_text
from tests.twins import test_parity

TWINS = [(kind, name) for kind, names in source_text.twins().items() for name in names]


def test_every_folder_is_a_kind() -> None:
    """A file elsewhere would be the twin of nothing."""
    files = source_text.TWINS.glob("*/[a-z]*.py")
    assert sorted(TWINS) == sorted((path.parent.name, path.stem) for path in files)
    assert len(TWINS) >= 14


@pytest.mark.parametrize("kind, name", TWINS)
def test_its_part(kind: str, name: str) -> None:
    assert name in components.catalogue(kind)[kind], "a twin is named after its part"
    assert name in test_parity.ATTENTION or hasattr(test_parity, f"test_{name}"), "hold it against the part"
    tree = ast.parse(source_text.twin(kind, name).text)
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    doc = ast.get_docstring(tree) or ""
    assert components.paper(doc) and source_text.layout(source_text.twin(kind, name))
