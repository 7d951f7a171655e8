"""What is exported: a run's model with its tokenizer, where it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.chat_template import ChatTemplate
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import ConfigError
from gpt_lab.infer.trained_model import load_model, load_run, whole_checkpoint
from gpt_lab.model.gpt import GPT
from gpt_lab.store import Run


class Source(NamedTuple):
    """A trained model: fp32, eval mode, on the CPU; tokenizer: None where it was trained on no text.

    Fields:
        text: words of its validation text, "" where it has none.
        template: of conversations, where it was trained on some.
    """

    model: GPT
    cfg: RunConfig
    tokenizer: Tokenizer | None
    text: str = ""
    template: ChatTemplate | None = None

    @property
    def length(self) -> int:
        """Tokens that show all that the model computes: more than its windows, no more than its context."""
        windows = [window for part in self.model.modules() if (window := getattr(part, "window", None))]
        return min(self.cfg.scale.context, max(64, *(window + 8 for window in windows), 0))

    @property
    def end(self) -> int | None:
        """The end of text, before which and after which documents stand."""
        return None if self.tokenizer is None else self.tokenizer.eot

    def random_tokens(self, rows: int = 2) -> torch.Tensor:
        """Rows of tokens, each time the same."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.model.vocab_size, (rows, self.length), generator=generator)


def read(run: Run, checkpoint: str | None = None, say: Callable[[str], None] = lambda line: None) -> Source:
    """A run's model; checkpoint and say are those of `whole_checkpoint`.

    Raises:
        ConfigError: no such checkpoint, or a model that predicts no next token. DataError: damaged files.
    """
    text = run.record.get("prompt")
    if (run.path / "tokenizer").is_dir():
        trained = load_run(run, checkpoint, say=say)
        text = text if isinstance(text, str) else ""
        found = Source(trained.model, trained.cfg, trained.tokenizer, text, ChatTemplate.load(run.path))
    else:
        found = Source(*load_model(run, whole_checkpoint(run, checkpoint, say)), None)
    if not found.model.shape.causal:
        name = found.cfg.objective["name"]
        raise ConfigError(f"objective={name} makes this model read both ways: what opens exports predicts next tokens")
    return found
