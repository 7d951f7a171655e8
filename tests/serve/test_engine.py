"""The engine and its jobs, without a server: one job's failure is its own, and a slow reader is waited for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.infer.generate import complete
from gpt_lab.infer.sampling import Sampling
from gpt_lab.model.gpt import GPT
from gpt_lab.serve import prompt_scores
from gpt_lab.serve.delivery import Conversation
from gpt_lab.serve.engine import STOPPING, Engine, Lane, Stopping
from gpt_lab.serve.job import UNREAD, Asked, End, Job, Piece
from gpt_lab.serve.served_model import LocalModel, Served
from tests.helpers import tiny_config

GREEDY = Sampling(temperature=0)


class Undecodable(Byte):
    """A tokenizer that knows no token."""

    def decode_bytes(self, ids: list[int]) -> bytes:
        raise KeyError(ids[-1])


class Words(Byte):
    """Tokens of several characters."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def decode_bytes(self, ids: list[int]) -> bytes:
        return "".join(self._words[i] for i in ids).encode()


@pytest.fixture
def model(three: dict[str, Served]) -> GPT:
    served = three["lab/rope"]
    assert isinstance(served, LocalModel)
    return served.model


def asked(prompt: str = "To be", tokens: int = 6, **options: Any) -> Asked:
    return Asked(list(prompt.encode()), tokens, GREEDY, **options)


def job(one: Asked, tokenizer: Byte | None = None) -> Job:
    return Job("m", one, tokenizer or Byte(), lambda: None)


def ended(engine: Engine, jobs: Sequence[Job]) -> list[End]:
    """The last events of jobs, once all rows are free."""
    deadline = time.monotonic() + 10
    while engine.load != {"running": 0, "waiting": 0} and time.monotonic() < deadline:
        time.sleep(0.005)
    assert engine.load == {"running": 0, "waiting": 0}
    return [event for one in jobs for event in one.events if isinstance(event, End)]


@pytest.mark.parametrize("options", [{"echo": True}, {"echo": True, "tops": 0}, {}, {"echo": True, "tokens": 0}])
def test_a_token_that_cannot_be_decoded_ends_its_own_job(model: GPT, options: dict[str, Any]) -> None:
    jobs = [job(asked()), job(asked(**options), Undecodable()), job(asked("Or not"))]
    engine = Engine({"m": Lane(model, Byte())})
    engine.submit(jobs)
    with engine:
        one, failed, other = ended(engine, jobs)
    assert (one, other) == (End("length"), End("length"))
    assert failed.reason == "error" and failed.error is not None
    assert [chosen.token for piece in jobs[0].events if isinstance(piece, Piece) for chosen in piece.tokens] == (
        complete(model, list(b"To be"), max_tokens=6, temperature=0)[0]
    )


def test_logits_that_are_not_finite_end_their_own_job(model: GPT) -> None:
    lane = Lane(model, Byte())
    jobs = [job(asked()), job(asked()), job(asked())]
    step = lane.batch.step
    bad = id(jobs[1])
    lane.batch.step = lambda tokens: {  # type: ignore[method-assign]
        key: logits_V * (torch.nan if key == bad else 1) for key, logits_V in step(tokens).items()
    }
    engine = Engine({"m": lane})
    engine.submit(jobs)
    with engine:
        one, failed, other = ended(engine, jobs)
    assert (one, other) == (End("length"), End("length")) and "not finite" in (failed.error or "")


def test_a_pass_that_fails_ends_what_was_read_and_the_next_job_begins_anew(model: GPT) -> None:
    lane = Lane(model, Byte())
    engine = Engine({"m": lane})

    def fails(tokens: Any) -> Any:
        raise RuntimeError("out of memory")

    lane.batch.step = fails  # type: ignore[method-assign]
    jobs, later = [job(asked()), job(asked())], job(asked())
    engine.submit(jobs)
    with engine:
        assert [end.error for end in ended(engine, jobs)] == ["out of memory"] * 2
        engine.submit([later])
        assert ended(engine, [later]) == [End("length")]


def test_a_question_that_waits_is_answered_when_the_engine_stops(model: GPT) -> None:
    engine = Engine({"m": Lane(model, Byte())})
    answer = engine.ask("m", lambda model: 1)
    engine.stop(0)
    with engine, pytest.raises(Stopping, match=STOPPING):
        answer.result(10)


def test_a_job_that_paused_while_it_was_read_goes_on(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine fills the queue after the reader has looked at it, and waits: the reader must wake it."""

    class Filling(deque[Any]):
        full = False

        def popleft(self) -> Any:
            if not self.full:
                self.full = True
                self.extend(Piece("x", []) for _ in range(UNREAD - 1))
            return super().popleft()

    engine = Engine({"m": Lane(model, Byte())})
    woken = []
    monkeypatch.setattr(engine._changed, "notify", lambda: woken.append(True))
    one = job(asked())
    one.events = Filling([Piece("x", [])])

    async def read() -> int:
        return len(await anext(Conversation(engine, [one], asyncio.Event()).events()))

    assert asyncio.run(read()) == UNREAD and woken


@pytest.mark.parametrize("words", [["abcd"], ["a", "b", "c", "d"], ["ab", "cd"]])
def test_of_several_stop_texts_the_one_that_is_complete_first_counts(words: list[str]) -> None:
    """However the text is divided into tokens, and as `generate stop=...` has it."""
    one = job(asked(tokens=9, stop=["bcd", "c"]), Words(words))
    one._stream._shown = []
    for token in range(len(words)):
        if not one.take(token, None):
            break
    assert "".join(piece.text for piece in one.events if isinstance(piece, Piece)) == "ab"
    assert one.events[-1] == End("stop")


def test_a_message_begins_with_its_first_word() -> None:
    """And its tokens begin where they are shown; what is between words stays, and a plain text keeps its spaces."""
    words = ["\n", "  H", "i", " you "]
    for message, text, offsets in ((True, "Hi you ", [0, 0, 1, 2]), (False, "\n  Hi you ", [0, 1, 4, 5])):
        one = job(asked(tokens=len(words), message=message, stop=["never"]), Words(words))
        one._stream._shown = []
        for token in range(len(words)):
            one.take(token, None)
        pieces = [event for event in one.events if isinstance(event, Piece)]
        assert "".join(piece.text for piece in pieces) == text
        assert [chosen.offset for piece in pieces for chosen in piece.tokens] == offsets


@pytest.mark.parametrize(("position", "length"), [("rope", 11), ("rope", 9), ("rope", 1), ("learned", 23)])
def test_a_text_is_scored_a_few_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch, position: str, length: int) -> None:
    """Beyond the context of 16, too, where it is read anew for each token."""
    model = GPT(tiny_config(position=position), 257).eval()
    ids = torch.randint(256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    whole = scored(model, ids)
    sizes: list[torch.Size] = []
    logits = GPT.logits
    monkeypatch.setattr(prompt_scores, "PREFILL", 4)
    monkeypatch.setattr(prompt_scores, "LOGITS", 3 * model.vocab_size)
    monkeypatch.setattr(GPT, "logits", lambda self, hidden: sizes.append(hidden.shape) or logits(self, hidden))
    steps = list(prompt_scores.score(model, ids, 2))
    assert all(rows * tokens <= 3 for rows, tokens, _ in sizes) and len(steps) == 1 + len(sizes)
    assert [one.token for one in steps[-1] or ()] == ids[1:]
    assert [one.chosen for one in steps[-1] or ()] == pytest.approx([one.chosen for one in whole], rel=1e-5, abs=1e-4)


def test_an_attention_that_keeps_no_state_is_scored_at_once(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = list(b"To be, or not")
    whole = scored(model, ids)
    monkeypatch.setattr(prompt_scores, "PREFILL", 4)
    monkeypatch.setattr("gpt_lab.infer.cache.Cache.read", lambda self, model, tokens: False)
    assert [one.chosen for one in scored(model, ids)] == pytest.approx(
        [one.chosen for one in whole], rel=1e-5, abs=1e-4
    )


def scored(model: GPT, ids: Sequence[int]) -> Sequence[Any]:
    steps: Iterator[Any] = prompt_scores.score(model, ids, 0)
    *_, last = steps
    assert last is not None
    return last
