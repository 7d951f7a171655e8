"""What every tracker keeps: no exception, no waiting, one message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gpt_lab import registry, trackers
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.store import Run
from gpt_lab.trackers.base import Background, Event


class Recorder(Background):
    """Writes to a list; can be slow or broken."""

    title = "Recorder"

    def __init__(self, run: Run, broken: str = "", gate: threading.Event | None = None) -> None:
        super().__init__(run)
        self.broken, self.gate, self.seen, self.closed = broken, gate, [], 0

    seen: list[Event]

    def open(self) -> None:
        if self.broken == "open":
            raise OSError("no\nconnection")

    def write(self, event: Event) -> None:
        if self.gate is not None:
            self.gate.wait()
        if self.broken == event.op:
            raise ValueError("bad value")
        self.seen.append(event)

    def close(self) -> None:
        self.closed += 1
        if self.broken == "close":
            raise OSError("gone")


def use(tracker: Background) -> None:
    tracker.start()
    tracker.log({"train/loss": 1.0}, 1)
    tracker.text("sample", "hello", 1)
    tracker.table("final", ["a"], [(1,)])
    tracker.finish("finished", {"val/bpb": 2.0})
    tracker.finish("finished", {})  # a second time does nothing
    tracker.log({"train/loss": 1.0}, 2)


def test_events_arrive_in_order(run: Run) -> None:
    tracker = Recorder(run)
    use(tracker)
    assert [event.op for event in tracker.seen] == ["log", "text", "table", "finish"]
    assert tracker.seen[0] == Event("log", 1, {"train/loss": 1.0})
    assert tracker.seen[2].data == {"name": "final", "columns": ["a"], "rows": [[1]]}
    assert tracker.seen[3].data == {"state": "finished", "summary": {"val/bpb": 2.0}, "open_step": None}
    assert tracker.closed == 1
    assert tracker.messages() == []


def test_values_are_those_of_the_call(run: Run) -> None:
    """The trainer may reuse its dictionary while the event still waits."""
    gate = threading.Event()
    tracker, values = Recorder(run, gate=gate), {"a": 1.0}
    tracker.start()
    tracker.log(values, 1)
    values["a"] = 2.0
    gate.set()
    tracker.finish("finished", {})
    assert tracker.seen[0].data == {"a": 1.0}


@pytest.mark.parametrize("broken", ["open", "log", "text", "table", "finish", "close"])
def test_a_failure_is_one_message(run: Run, broken: str) -> None:
    tracker = Recorder(run, broken)
    use(tracker)
    (message,) = tracker.messages()
    assert message.startswith("Recorder stopped mirroring (")
    assert "metrics.jsonl" in message
    assert "\n" not in message
    assert tracker.messages() == []
    assert tracker.closed == 1


def test_a_full_queue_never_blocks(run: Run) -> None:
    gate = threading.Event()
    tracker = Recorder(run, gate=gate)
    tracker._events.maxsize = 100
    tracker.start()
    begin = time.perf_counter()
    for step in range(1000):
        tracker.log({"a": 0.0}, step)
    assert time.perf_counter() - begin < 1
    gate.set()
    tracker.finish("finished", {})
    (message,) = tracker.messages()
    *rows, last = tracker.seen
    assert f"lacks the last {1000 - len(rows)} events" in message
    assert [event.step for event in rows] == list(range(len(rows))), "no gap: what is missing can be added later"
    assert last.op == "finish"


def test_finish_is_bounded(run: Run) -> None:
    tracker = Recorder(run, gate=threading.Event())
    tracker.patience = 0.3
    tracker.start()
    tracker.log({"a": 0.0}, 1)
    begin = time.perf_counter()
    tracker.finish("finished", {})
    assert 0.2 < time.perf_counter() - begin < 2
    assert "did not finish within 0.3 s" in tracker.messages()[0]
    assert tracker.gate is not None
    tracker.gate.set()


def test_unstarted_does_nothing(run: Run) -> None:
    tracker = Recorder(run)
    tracker.log({"a": 1.0}, 1)
    tracker.finish("finished", {})
    assert tracker.seen == []


def test_none_keeps_quiet(run: Run, cfg: RunConfig) -> None:
    before = sorted(run.path.rglob("*"))
    tracker = trackers.build_tracker({"name": "none"}, run, cfg)
    tracker.start()
    tracker.log({"a": 1.0}, 1)
    tracker.text("sample", "hello", 1)
    tracker.table("final", ["a"], [[1]])
    tracker.finish("finished", {})
    assert tracker.messages() == []
    assert sorted(run.path.rglob("*")) == before


def test_unknown_tracker(run: Run, cfg: RunConfig) -> None:
    with pytest.raises(ConfigError, match="did you mean 'wandb'"):
        trackers.build_tracker({"name": "wandbb"}, run, cfg)


def test_every_tracker_can_be_checked() -> None:
    """`check` knows exactly the options, so that a config error comes before anything is written."""
    for name, part in registry.index()["tracker"].items():
        trackers.check({"name": name, **{key: option.default for key, option in part.options.items()}})


def test_tensorboard(make_run: Callable[[str], Run], cfg: RunConfig) -> None:
    run = make_run("board")
    for step in range(5):  # those of steps 3 and 4 were lost with the process that logged them
        run.log(step, {"train/loss": float(step)}, seconds=100.0 * step)
    run.sample(2, "drawn before")
    for first, last in ((0, 3), (5, 10)):  # the second is a resume from step 4
        tracker: Any = trackers.build_tracker({"name": "tensorboard"}, run, cfg)
        if first:
            tracker.resume()
        tracker.start()
        for step in range(first, last):
            tracker.log({"train/loss": float(first + step)}, step)
        tracker.text("sample", "ROMEO:\n<b>|", 9)
        tracker.table("final", ["metric", "value"], [["val/bpb", 2.0], ["a|b", None]])
        tracker.finish("finished", {"val/bpb": 2.0, "note": "x", "val/loss": float("nan")})
        assert tracker.messages() == []

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as OfThePage

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        *((s, float(s)) for s in range(5)),
        *((s, 5.0 + s) for s in range(5, 10)),
    ]
    times = [e.wall_time for e in events.Scalars("train/loss")]
    assert times[4] - times[0] == pytest.approx(400, abs=0.01), "the past at the times that it had"
    assert events.Tags()["scalars"] == ["train/loss"], "curves, and no point that stands alone"
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert b"| a\\|b | None |" in events.Tensors("final/text_summary")[-1].tensor_proto.string_val[0]
    page = OfThePage(str(run.path / "tensorboard"))
    page.Reload()
    samples = [e.tensor_proto.string_val[0] for e in page.Tensors("sample/text_summary")]
    assert samples == [b"    drawn before", b"    ROMEO:\n    <b>|"]


def test_tensorboard_missing(run: Run, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="uv sync --extra tensorboard"):
        trackers.build_tracker({"name": "tensorboard"}, run, cfg)
