"""Continuations of all requests, made together: each step one forward pass a model, on one thread.

A continuation is the same whatever runs beside it: its random numbers are its own (seed, sample, place), and requests
with the same seed use the same numbers whichever model they ask (common random numbers).

Paper: Yu et al. 2022, Orca (OSDI '22): rows join and leave at any step.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import LabError, one_line
from gpt_lab.infer.batch import Batch
from gpt_lab.infer.sampling import Sampling
from gpt_lab.model.gpt import GPT
from gpt_lab.serve.job import Job
from gpt_lab.serve.prompt_scores import Scores, score

T = TypeVar("T")
QUESTIONS = 8
"""Questions about models, such as for attention maps, that may wait."""
PROMPTS = 4
"""Prompts that are read between two steps of what runs already."""
STOPPING = "the server is stopping: ask again when it runs"


class Full(LabError):
    """No row is free and the queue is full."""


class Stopping(LabError):
    """The engine takes nothing any more."""


class Lane:
    """A model with the rows that it reads together."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.rows: dict[int, Job] = {}
        self.batch = Batch(model)
        self.scoring: dict[int, tuple[Job, Iterator[Scores | None]]] = {}


class Engine:
    """Takes jobs, runs them on a thread of its own, gives out what they say through their events.

    Args:
        lanes: by the models' names. rows: continuations that run at once, over all models. queue: that wait.
    """

    def __init__(self, lanes: Mapping[str, Lane], *, rows: int = 32, queue: int = 128) -> None:
        self._lanes = dict(lanes)
        self._rows, self._queue = rows, queue
        self._waiting: deque[Job] = deque()
        self._questions: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0
        self._changed = threading.Condition()
        self._last_call: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(0)
        self._thread.join()

    @property
    def load(self) -> dict[str, int]:
        """Continuations that run and that wait."""
        with self._changed:
            return {"running": self._running, "waiting": len(self._waiting)}

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues the jobs of one request, all or none.

        Raises:
            Full: they would not fit. Stopping: nothing is taken any more.
        """
        with self._changed:
            if self._last_call is not None:
                raise Stopping(STOPPING)
            if self._running + len(self._waiting) + len(jobs) > self._rows + self._queue:
                raise Full(
                    f"{self._running} continuations run and {len(self._waiting)} wait, of {self._rows} and "
                    f"{self._queue} that may: try again later"
                )
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Ends jobs whose reader is gone; what they held is free after the step that is under way."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
                if job in self._waiting:
                    self._waiting.remove(job)
            self._changed.notify()

    def ask(self, model: str, work: Callable[[GPT], T]) -> Future[T]:
        """Does something else with a model, between two steps; at most `QUESTIONS` wait.

        Raises:
            Full: as many wait. Stopping: nothing is taken any more.
        """
        with self._changed:
            if self._last_call is not None:
                raise Stopping(STOPPING)
            if len(self._questions) >= QUESTIONS:
                raise Full(f"{QUESTIONS} questions about models wait: try again later")
            answer: Future[T] = Future()
            self._questions.append((answer, functools.partial(work, self._lanes[model].model)))
            self._changed.notify()
        return answer

    def resume(self) -> None:
        """A slow reader has read."""
        with self._changed:
            self._changed.notify()

    def stop(self, grace: float) -> None:
        """Takes nothing more; what is not done after `grace` seconds ends with an error."""
        with self._changed:
            if self._last_call is None:
                self._last_call = time.monotonic() + grace
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._work():
                    if self._last_call is not None and (
                        not self._running + len(self._waiting) or time.monotonic() >= self._last_call
                    ):
                        self._end_all()
                        return
                    self._changed.wait(None if self._last_call is None else 0.05)
                if self._last_call is not None and time.monotonic() >= self._last_call:
                    self._end_all()
                    return
                joining = self._join()
            self._step(joining)

    def _work(self) -> bool:
        """Whether there is anything to do now."""
        return (
            bool(self._questions)
            or (self._waiting and self._running < self._rows)
            or any(
                lane.scoring or any(job.cancelled or not job.paused for job in lane.rows.values())
                for lane in self._lanes.values()
            )
        )

    def _join(self) -> list[Job]:
        """Those of the queue that begin now."""
        most = PROMPTS if self._running else self._rows
        joining: list[Job] = []
        while self._waiting and self._running < self._rows and len(joining) < most:
            joining.append(self._waiting.popleft())
            self._running += 1
        return joining

    def _answer(self) -> None:
        """The oldest question."""
        if not self._questions:
            return
        answer, work = self._questions.popleft()
        if answer.set_running_or_notify_cancel():
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)

    def _end_all(self) -> None:
        for answer, _ in self._questions:
            answer.cancel()
        self._questions.clear()
        left = [*self._waiting]
        for lane in self._lanes.values():
            left += [*lane.rows.values(), *(job for job, _ in lane.scoring.values())]
            lane.rows, lane.scoring, lane.batch = {}, {}, Batch(lane.model)
        self._waiting.clear()
        self._running = 0
        for job in left:
            job.fail(STOPPING)
        _wake(left)

    def _step(self, joining: Sequence[Job]) -> None:
        for job in joining:
            lane = self._lanes[job.model]
            if job.asked.echo and job.asked.tops is not None:
                lane.scoring[id(job)] = (job, score(lane.model, job.asked.prompt_ids, job.asked.tops))
                continue
            if job.asked.echo:
                job.echo(None)
            self._guarded(lane, [job], lambda lane=lane, job=job: self._begin(lane, job))
        self._answer()
        for lane in self._lanes.values():
            for job, steps in list(lane.scoring.values()):
                self._guarded(lane, [job], lambda lane=lane, job=job, steps=steps: self._score(lane, job, steps))
            gone = [job for job in lane.rows.values() if job.cancelled]
            for job in gone:
                self._leave(lane, job)
            going = [job for job in lane.rows.values() if not job.paused]
            if going:
                self._guarded(lane, [*lane.rows.values()], lambda lane=lane, going=going: self._advance(lane, going))

    def _guarded(self, lane: Lane, touched: Sequence[Job], act: object) -> None:
        """Does something with a model; an error ends the jobs that it touched, and no other."""
        try:
            act()  # type: ignore[operator]
        except Exception as error:  # whatever it is, the others go on
            for job in touched:
                job.fail(one_line(str(error) or type(error).__name__))
                self._leave(lane, job)
            if not lane.rows:
                lane.batch = Batch(lane.model)  # the pass may have ended half-way
            _wake(touched)

    def _begin(self, lane: Lane, job: Job) -> None:
        if job.cancelled:
            self._release(1)
            return
        if job.asked.max_tokens == 0:
            job.finish_empty()
            self._release(1)
            _wake([job])
            return
        lane.rows[id(job)] = job
        logits_V = lane.batch.add(job.asked.prompt_ids, id(job))
        self._choose(lane, {job: logits_V})

    def _score(self, lane: Lane, job: Job, steps: Iterator[Scores | None]) -> None:
        scores = None if job.cancelled else next(steps)
        if scores is None and not job.cancelled:
            return
        del lane.scoring[id(job)]
        if scores is not None:
            job.echo(scores)
        self._begin(lane, job)

    def _advance(self, lane: Lane, jobs: Sequence[Job]) -> None:
        by_key = {id(job): job for job in jobs}
        found = lane.batch.step({key: job.last for key, job in by_key.items()})
        self._choose(lane, {by_key[key]: logits_V for key, logits_V in found.items()})  # type: ignore[index]

    def _choose(self, lane: Lane, logits: Mapping[Job, Tensor]) -> None:
        """Draws a token for each job and tells it; those that are done leave."""
        alike: dict[Sampling, list[Job]] = {}
        for job in logits:
            alike.setdefault(job.asked.sampling, []).append(job)
        for sampling, jobs in alike.items():
            logits_BV = torch.stack([job.penalized(logits[job]) for job in jobs])
            uniform_B = torch.cat([job.uniform() for job in jobs])
            for job, token in zip(jobs, sampling.choose(logits_BV, uniform_B).tolist(), strict=True):
                if not job.take(token, None if job.asked.tops is None else logits[job]):
                    self._leave(lane, job)
        _wake(logits)

    def _leave(self, lane: Lane, job: Job) -> None:
        if lane.rows.pop(id(job), None) is not None:
            if id(job) in lane.batch:
                lane.batch.remove(id(job))
            self._release(1)
        elif lane.scoring.pop(id(job), None) is not None:
            self._release(1)

    def _release(self, rows: int) -> None:
        with self._changed:
            self._running -= rows


def _wake(jobs: Iterable[Job]) -> None:
    for wake in {job.wake for job in jobs}:
        wake()
