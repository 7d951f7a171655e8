"""What the launcher says of how ranks ended, and what torchrun has started."""

from __future__ import annotations

import pytest

from gpt_lab.errors import ConfigError
from gpt_lab.train.parallel import launch
from gpt_lab.train.parallel.launch import LOST
from tests.helpers import tiny_config


@pytest.mark.parametrize(
    "statuses, code, said",
    [
        ({1: -9, 0: LOST}, 1, "rank 1 was killed by SIGKILL, and with it all 3"),
        ({0: LOST, 2: -11, 1: -15}, 1, "rank 2 was killed by SIGSEGV"),
        ({2: 1, 0: LOST, 1: LOST}, 1, "rank 2 ended with status 1"),
        ({0: -9, 1: LOST}, 1, "rank 0 was killed by SIGKILL"),
        ({0: 2, 1: -15}, 2, ""),
        ({0: 143}, 143, ""),
    ],
)
def test_who_ended_the_others(
    statuses: dict[int, int], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What rank 0 has said itself is not said again."""
    assert launch._ended(statuses, 3) == code
    printed = capsys.readouterr().err
    assert said in printed and len(printed.splitlines()) == bool(said)


def test_torchrun_starts_as_many_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.STARTED, "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started 2 ranks, and gpus_per_trial=1"):
        launch.launched(tiny_config(), [], lambda ranks: 0)
