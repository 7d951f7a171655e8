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
from gpt_lab.infer.generate import NOT_FINITE
from gpt_lab.infer.sampling import Sampling
from gpt_lab.model.gpt import GPT
from gpt_lab.serve.job import UNREAD, End, Job, Piece
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
    """A model with the jobs that have a row.

    Fields:
        rows: these jobs. scoring: those of them whose prompt is being scored. batch: has a row of those that go on.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.rows: dict[int, Job] = {}
        self.scoring: dict[int, Iterator[Scores | None]] = {}
        self.batch = Batch(model)


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
    def _running(self) -> int:
        return sum(len(lane.rows) for lane in self._lanes.values())

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

    def read(self, job: Job) -> list[Piece | End]:
        """Takes what a job has said since it was last read."""
        found: list[Piece | End] = []
        while job.events:
            found.append(job.events.popleft())
        if len(found) >= UNREAD:  # it may have paused, also while it was read
            with self._changed:
                self._changed.notify()
        return found

    def stop(self, grace: float) -> None:
        """Takes nothing more; what is not done after `grace` seconds ends with an error."""
        with self._changed:
            if self._last_call is None:
                self._last_call = time.monotonic() + grace
            self._changed.notify()

    @torch.inference_mode()
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
                any(key in lane.scoring or job.cancelled or not job.paused for key, job in lane.rows.items())
                for lane in self._lanes.values()
            )
        )

    def _join(self) -> list[Job]:
        """Those of the queue that begin now; each has a row from here on, until `_leave`."""
        most = PROMPTS if self._running else self._rows
        joining: list[Job] = []
        while self._waiting and self._running < self._rows and len(joining) < most:
            joining.append(self._waiting.popleft())
            self._lanes[joining[-1].model].rows[id(joining[-1])] = joining[-1]
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
            if answer.set_running_or_notify_cancel():
                answer.set_exception(Stopping(STOPPING))
        self._questions.clear()
        left = [*self._waiting]
        for lane in self._lanes.values():
            left += lane.rows.values()
            lane.rows, lane.scoring, lane.batch = {}, {}, Batch(lane.model)
        self._waiting.clear()
        for job in left:
            job.fail(STOPPING)
        _wake(left)

    def _step(self, joining: Sequence[Job]) -> None:
        for job in joining:
            self._try(job, self._begin)
        self._answer()
        for lane in self._lanes.values():
            for job in [job for job in lane.rows.values() if job.cancelled]:
                self._leave(job)
            for key in [*lane.scoring]:
                self._try(lane.rows[key], self._score)
            going = [job for key, job in lane.rows.items() if key in lane.batch and not job.paused]
            if going:
                self._advance(lane, going)

    def _try(self, job: Job, act: Callable[[Job], None]) -> None:
        """Does something for one job; an error ends it, and no other."""
        try:
            act(job)
        except Exception as error:  # whatever it is
            self._fail([job], error)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            job.fail(one_line(str(error) or type(error).__name__))
            self._leave(job)
        _wake(jobs)

    def _begin(self, job: Job) -> None:
        lane, asked = self._lanes[job.model], job.asked
        if job.cancelled:
            self._leave(job)
        elif asked.echo and asked.tops is not None:
            lane.scoring[id(job)] = score(lane.model, asked.prompt_ids, asked.tops)
        else:
            if asked.echo:
                job.echo(None)
            self._generate(job)

    def _score(self, job: Job) -> None:
        lane = self._lanes[job.model]
        scores = next(lane.scoring[id(job)])
        if scores is not None:
            del lane.scoring[id(job)]
            job.echo(scores)
            self._generate(job)

    def _generate(self, job: Job) -> None:
        """Reads the prompt and draws the first token."""
        lane = self._lanes[job.model]
        if job.asked.max_tokens == 0:
            job.finish_empty()
            self._leave(job)
            _wake([job])
        else:
            self._choose({job: lane.batch.add(job.asked.prompt_ids, id(job))})

    def _advance(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """One more token of each job, in one pass; an error ends all that the model reads together."""
        try:
            found = lane.batch.step({id(job): job.last for job in jobs})
            self._choose({job: found[id(job)] for job in jobs})
        except Exception as error:
            torn, lane.batch = lane.batch, Batch(lane.model)
            self._fail([job for key, job in lane.rows.items() if key in torn], error)

    def _choose(self, logits: Mapping[Job, Tensor]) -> None:
        """Draws a token for each job and tells it; those that are done leave."""
        alike: dict[Sampling, list[Job]] = {}
        for job in logits:
            alike.setdefault(job.asked.sampling, []).append(job)
        for sampling, jobs in alike.items():
            logits_BV = torch.stack([job.penalized(logits[job]) for job in jobs])
            finite_B = torch.stack(logits_BV.aminmax(dim=-1)).isfinite().all(dim=0)
            if not finite_B.all():
                self._fail([jobs[row] for row in (~finite_B).nonzero().flatten().tolist()], LabError(NOT_FINITE))
                jobs, logits_BV = [job for job in jobs if not job.ended], logits_BV[finite_B]
            if jobs:
                uniform_B = torch.cat([job.uniform() for job in jobs])
                for job, token in zip(jobs, sampling.choose(logits_BV, uniform_B).tolist(), strict=True):
                    self._try(job, functools.partial(self._take, token, logits[job]))
        _wake(logits)

    def _take(self, token: int, logits_V: Tensor, job: Job) -> None:
        if not job.take(token, None if job.asked.tops is None else logits_V):
            self._leave(job)

    def _leave(self, job: Job) -> None:
        """Gives up a job's row: the one way out."""
        lane = self._lanes[job.model]
        with self._changed:
            lane.rows.pop(id(job), None)
        lane.scoring.pop(id(job), None)
        if id(job) in lane.batch:
            lane.batch.remove(id(job))


def _wake(jobs: Iterable[Job]) -> None:
    for wake in {job.wake for job in jobs}:
        wake()
