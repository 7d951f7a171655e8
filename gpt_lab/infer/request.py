"""Generation requests: a text to continue, and the sampling settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from gpt_lab.errors import ConfigError, DataError
from gpt_lab.options import NonEmpty, NonNegativeFloat, NonNegativeInt, PositiveInt, Range, check

if TYPE_CHECKING:
    from gpt_lab.data.tokenizers.tokenizer import Tokenizer
    from gpt_lab.store import Run

Samples = Annotated[int, Range(low=1, high=1000)]


@dataclass(frozen=True)
class GenerationRequest:
    """A text to continue and how; the annotations are the check.

    Fields:
        prompt: None: the run's own, words of its validation text; "": a new text.
        checkpoint: best, last or step-N; None: best if there is one, else last.

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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache: bool = True

    def __post_init__(self) -> None:
        types = get_type_hints(type(self), include_extras=True)
        for one in fields(self):
            check(one.name, getattr(self, one.name), types[one.name])

    def text(self, run: Run) -> str:
        """The prompt, else the run's own; "" where it has none."""
        own = run.record.get("prompt")
        return (own if isinstance(own, str) else "") if self.prompt is None else self.prompt

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments of infer.generate.generate that say how each sample is drawn."""
        keys = ("max_tokens", "temperature", "top_k", "top_p", "seed")
        return {key: getattr(self, key) for key in keys} | {"use_cache": self.cache}


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
