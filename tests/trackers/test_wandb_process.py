"""W&B's service leaves at any moment: the process that spoke to it says so by its exit status."""

from __future__ import annotations

import io
from typing import Any

import pytest
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from gpt_lab.trackers import wandb_process

GONE = 77


class Left(Exception):
    """In place of the end of a process."""


class Refusing:
    """A W&B run whose end fails."""

    def __init__(self, error: Exception) -> None:
        self.error, self.summary = error, dict[str, Any]()

    def finish(self, exit_code: int) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "left"),
    [(HandleAbandonedError(), True), (MailboxClosedError(), True), (BrokenPipeError(), True), (ValueError(), False)],
)
def test_a_service_that_left_in_mid_answer_is_gone(
    error: Exception, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr("os._exit", leave)
    said = io.BytesIO()
    session = wandb_process.Session(said)
    session._run, session._gone = Refusing(error), GONE
    event: dict[str, Any] = {
        "op": "finish",
        "step": None,
        "data": {"summary": {}, "state": "stopped", "open_step": None},
    }
    if left:
        with pytest.raises(Left, match=str(GONE)):
            session.handle(event)
    else:
        session.handle(event)
        assert b"W&B refused a finish" in said.getvalue()
