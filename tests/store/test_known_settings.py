"""Settings that runs share: whatever a record says, it is read as any JSON file is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpt_lab.store import atomic_files
from gpt_lab.store.known_settings import Checked, KnownSettings

GOOD = {"state": "finished", "config": {"seed": 1, "optim.lr": 0.5, "norm.name": "rmsnorm", "eval.contexts": [1, 2]}}


def text(value: Any, indent: int | None = 1) -> bytes:
    return json.dumps(value, indent=indent).encode()


@pytest.mark.parametrize(
    "data",
    [
        text({**GOOD, "config": {**GOOD["config"], "seed": -1}}),  # type: ignore[dict-item]
        text({**GOOD, "config": {**GOOD["config"], "seed": 2**63}}),  # type: ignore[dict-item]
        text({**GOOD, "config": {**GOOD["config"], "position": {"name": "rope"}}}),  # type: ignore[dict-item]
        text({**GOOD, "config": {}}),
        text({**GOOD, "config": None}),
        text({"wandb": GOOD}),
        text({"wandb": {"config": {"a": 1}}, **GOOD}),
        text([GOOD]),
        text(GOOD, indent=None),
        text(GOOD, indent=2),
        text(GOOD).replace(b'"seed": 1,\n  ', b'"seed": 1, '),
        text(GOOD).replace(b"1,\n", b"1\n,"),
        text(GOOD).replace(b'{\n "state"', b'{\n "config": {\n  "seed": 3\n },\n "state"'),
        text(GOOD).replace(b'"finished",', b'{\n "config": {\n  "seed": 3\n }\n},'),
        b"{}",
    ],
)
def test_what_is_not_laid_out_as_usual_is_read_as_any_file(data: bytes) -> None:
    known = KnownSettings()
    assert isinstance(known.parse(text(GOOD))["config"], Checked)
    for _ in range(2):
        made = known.parse(data)
        assert made == atomic_files.parse(data)
        assert not isinstance(made, dict) or not isinstance(made.get("config"), Checked)


@pytest.mark.parametrize(
    "data", [text(GOOD)[:-1], text(GOOD).replace(b"finished", b"\n"), text(GOOD)[:60], b"", b"\xff"]
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    known = KnownSettings()
    known.parse(text(GOOD))
    with pytest.raises(ValueError):
        known.parse(data)


def test_equal_settings_are_kept_once() -> None:
    known = KnownSettings()
    one, two = (known.parse(text({**GOOD, "state": state}))["config"] for state in ("running", "failed"))
    assert one == two == GOOD["config"] and one is not two
    assert all(mine is theirs for mine, theirs in zip(one.values(), two.values(), strict=True))
