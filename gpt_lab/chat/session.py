"""One conversation with one or two models: what was said, by whom, with which settings. Knows no terminal."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpt_lab.errors import ConfigError, LabError
from gpt_lab.infer.request import start
from gpt_lab.infer.sampling import Sampling
from gpt_lab.serve.engine import Engine, Lane
from gpt_lab.serve.job import Asked, Job, Piece
from gpt_lab.serve.served_model import LocalModel


@dataclass(frozen=True)
class Settings:
    """How to answer; temperature as of Sampling, max_tokens new tokens at most."""

    temperature: float = 0.8
    top_p: float | None = None
    seed: int = 0
    max_tokens: int = 200


@dataclass
class Said:
    """What one model has said to one prompt.

    Fields:
        tokens, offsets: its tokens, and where in the text each begins. seconds: from the question to the last token.
    """

    model: str
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None

    @property
    def pieces(self) -> list[str]:
        """The text of each token; "" of one that does not end a character."""
        ends = [*self.offsets[1:], len(self.text)]
        return [self.text[begin:end] for begin, end in zip(self.offsets, ends, strict=bool(self.offsets))]

    @property
    def speed(self) -> str:
        """How fast it was."""
        return f"{len(self.tokens)} tokens, {len(self.tokens) / max(self.seconds, 1e-3):.0f} tokens/s"


@dataclass(frozen=True)
class Turn:
    """A prompt and what each model, one or two, made of it; whether the same token is the same text to both."""

    prompt: str
    settings: Settings
    answers: tuple[Said, ...]
    same_tokens: bool

    @property
    def parted(self) -> int | None:
        """The number, from 0, of the first token at which two models part; None: they never do."""
        if len(self.answers) < 2:
            return None
        one, other = (said.tokens if self.same_tokens else said.pieces for said in self.answers)
        for place, (left, right) in enumerate(zip(one, other, strict=False)):
            if left != right:
                return place
        return min(len(one), len(other)) if len(one) != len(other) else None


class Session:
    """A conversation; with a chat template in every model each question continues it, else each prompt is new.

    Both models draw with the same random numbers. Use it in a `with` block: it has a thread.

    Raises:
        ConfigError: chat is asked for and a model has no template.
    """

    def __init__(self, models: Mapping[str, LocalModel], settings: Settings, chat: bool | None = None) -> None:
        without = [name for name, model in models.items() if model.template is None]
        if chat and without:
            raise ConfigError(f"{without[0]} has no chat template: mode=completion continues its text")
        self.models = dict(models)
        self.settings = settings
        self.chat = not without if chat is None else chat
        self.turns: list[Turn] = []
        self._engine = Engine({name: Lane(model.model, model.tokenizer) for name, model in models.items()})
        self._waking = threading.Event()

    def __enter__(self) -> Session:
        self._engine.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.__exit__(*error)

    def change(self, **changes: object) -> None:
        """Other settings from now on.

        Raises:
            ConfigError: a value out of range.
        """
        made = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]
        Sampling(made.temperature, top_p=made.top_p)
        self.settings = made

    def reset(self) -> None:
        """Forgets what was said."""
        self.turns = []

    def say(self, prompt: str) -> Iterator[Turn]:
        """The turn as it grows, whenever there is more of it; one that comes to its end is kept in `turns`.

        Raises:
            DataError: a model's tokenizer lacks a character of the prompt. ConfigError: it is empty, and has no start.
            LabError: a model fails.
        """
        asked = {name: self._asked(name, prompt) for name in self.models}
        jobs = {name: Job(name, one, self.models[name].tokenizer, self._waking.set) for name, one in asked.items()}
        same_tokens = len({model.vocabulary for model in self.models.values()}) == 1
        turn = Turn(prompt, self.settings, tuple(Said(name) for name in self.models), same_tokens)
        began = time.perf_counter()
        self._engine.submit(list(jobs.values()))
        going = dict(zip(self.models, turn.answers, strict=True))
        try:
            while going:
                self._waking.wait(0.2)
                self._waking.clear()
                for name, said in list(going.items()):
                    if self._read(jobs[name], said):
                        del going[name]
                    said.seconds = time.perf_counter() - began
                yield turn
        finally:
            self._engine.cancel(jobs.values())
        failed = next((said for said in turn.answers if said.error is not None), None)
        if failed is not None:
            raise LabError(f"{failed.model}: {failed.error}")
        self.turns.append(turn)

    def _read(self, job: Job, said: Said) -> bool:
        """Takes what a job has to say; whether that was all."""
        ended = False
        for event in self._engine.read(job):
            if isinstance(event, Piece):
                said.text += event.text
                said.tokens += [one.token for one in event.tokens]
                said.offsets += [one.offset for one in event.tokens]
            else:
                said.error, ended = event.error, True
        return ended

    def _asked(self, name: str, prompt: str) -> Asked:
        model, settings = self.models[name], self.settings
        return Asked(
            prompt_ids=self._read_by(name, prompt),
            max_tokens=settings.max_tokens,
            sampling=Sampling(settings.temperature, top_p=settings.top_p),
            seed=settings.seed,
            stop_ids=model.stop_ids,
            message=self.chat,
        )

    def _read_by(self, name: str, prompt: str) -> Sequence[int]:
        model = self.models[name]
        if not self.chat:
            return start(model.tokenizer, prompt)[0]
        assert model.template is not None
        messages = []
        for turn in self.turns:
            answer = next(said.text for said in turn.answers if said.model == name)
            messages += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": answer}]
        return model.template.render([*messages, {"role": "user", "content": prompt}], add_generation_prompt=True)
