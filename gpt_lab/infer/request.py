"""Generation requests: a text to continue, and the sampling settings. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from gpt_lab.errors import ConfigError, DataError, cut, quoted
from gpt_lab.options import Device, NonEmpty, NonNegativeFloat, NonNegativeInt, PositiveInt, Range, check

if TYPE_CHECKING:
    from gpt_lab.data.tokenizers.tokenizer import Tokenizer
    from gpt_lab.store import Run

Samples = Annotated[int, Range(low=1, high=1000)]
Penalty = Annotated[float, Range(low=0.01, high=100)]
"""Of repetition; with much more or less the logits are no longer finite."""


@dataclass(frozen=True)
class GenerationRequest:
    """A text to continue and how; the annotations are the check.

    Fields:
        prompt: None: the run's own, words of its validation text; "": a new text.
        checkpoint: best, last or step-N; None: best if there is one, else last.
        stop: strings in front of which a text ends.
        prompts: a file of several prompts, in place of `prompt`.
        draft: a smaller run, with the same tokenizer, that drafts tokens.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """

    prompt: str | None = None
    max_tokens: PositiveInt = 200
    temperature: NonNegativeFloat = 0.8
    top_k: PositiveInt | None = None
    top_p: Annotated[float, Range(low=0, high=1, open_low=True)] | None = None
    seed: NonNegativeInt = 0
    samples: Samples = 1
    checkpoint: NonEmpty | None = None
    device: Device = "auto"
    cache: bool = True
    min_p: Annotated[float, Range(low=0, high=1)] | None = None
    repetition_penalty: Penalty = 1.0
    stop: list[NonEmpty] = field(default_factory=list)
    prompts: NonEmpty | None = None
    draft: NonEmpty | None = None

    def __post_init__(self) -> None:
        types = get_type_hints(type(self), include_extras=True)
        for one in fields(self):
            check(one.name, getattr(self, one.name), types[one.name])
        if self.prompts is not None and self.prompt is not None:
            raise ConfigError("prompt and prompts are both given: leave one out")
        if self.draft is not None and (self.prompts is not None or not self.cache):
            other = "prompts" if self.prompts is not None else "cache=false"
            raise ConfigError(f"draft goes with one prompt and with the cache: leave out {other}, or draft")

    def text(self, run: Run) -> str:
        """The prompt, else the run's own; "" where it has none."""
        own = run.record.get("prompt")
        return (own if isinstance(own, str) else "") if self.prompt is None else self.prompt

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments of infer.generate.generate that say how each sample is drawn."""
        keys = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
        return {key: getattr(self, key) for key in keys} | ({} if self.draft else {"use_cache": self.cache})


def read_prompts(place: Path) -> list[str]:
    """The prompts of a file: of .jsonl a text, or an object with its "prompt", a line; of another, the lines.

    Empty lines count for nothing.

    Raises:
        DataError: it cannot be read, holds none, or a line is neither.
    """
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"cannot read prompts={place}: {reason}") from error
    found = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"prompts={place} is empty: write one prompt a line")
    if place.suffix != ".jsonl":
        return [line for _, line in found]
    return [_prompt(place, number, line) for number, line in found]


def _prompt(place: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    text = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise DataError(
            f'{place}, line {number}: {quoted(cut(line))} is neither a JSON text nor an object with "prompt"'
        )
    return text


def start(tokenizer: Tokenizer, prompt: str) -> tuple[list[int], str]:
    """The tokens to continue and the text to show for them; an empty prompt starts at an end of text or a new line.

    Raises:
        ConfigError: an empty prompt, and a tokenizer that knows neither.
    """
    ids = tokenizer.encode(prompt)
    if ids:
        return ids, prompt
    if tokenizer.eot is not None:
        return [tokenizer.eot], ""
    try:
        return tokenizer.encode("\n"), ""
    except DataError:  # characters of a corpus without line breaks
        raise ConfigError('this tokenizer knows no start of text: give a prompt="..."') from None
