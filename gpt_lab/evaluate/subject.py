"""Models to be measured: of a run, or of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.tokenizers.library import FILE
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import ConfigError
from gpt_lab.infer.generate import context_limit
from gpt_lab.infer.trained_model import load_folder, load_model, load_run, weights_digest, whole_checkpoint
from gpt_lab.model.gpt import GPT
from gpt_lab.store import Run


class Subject(NamedTuple):
    """A model that is measured.

    Fields:
        model: fp32, eval mode. tokenizer: None: it was trained on what is no text.
        cfg: how it was trained, of a folder how its model is composed. context: the most tokens that it is given.
        run: None: a folder, or a run that has not begun. digest: of the weights. checkpoint: "" of a folder.
    """

    model: GPT
    tokenizer: Tokenizer | None
    cfg: RunConfig
    context: int
    run: Run | None
    digest: str
    checkpoint: str = ""
    trained_here: bool = True

    @property
    def needed_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ConfigError: there is none.
        """
        if self.tokenizer is None:
            why = f"the folder has no {FILE}" if not self.trained_here else f"data={self.cfg.data['name']} is no text"
            raise ConfigError(f"this task asks in words, and {why}: use tasks=mqar or tasks=induction")
        return self.tokenizer


def of_run(
    run: Run,
    checkpoint: str | None = None,
    device: str = "auto",
    context: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Subject:
    """A run's model.

    Args:
        checkpoint, say: as in whole_checkpoint. context: None: that of the training.

    Raises:
        ConfigError: no such checkpoint or device; a context that it cannot read; a model that reads both ways.
        DataError: damaged files.
    """
    folder = whole_checkpoint(run, checkpoint, say)
    if (run.path / "tokenizer").is_dir():
        trained = load_run(run, folder.name, device)
        made = Subject(trained.model, trained.tokenizer, trained.cfg, 0, run, weights_digest(folder), folder.name)
    else:
        model, cfg = load_model(run, folder, device)
        made = Subject(model, None, cfg, 0, run, weights_digest(folder), folder.name)
    return _checked(made, context)


def of_folder(folder: Path, device: str = "auto", context: int | None = None) -> Subject:
    """The model of a Hugging Face folder that gpt_lab/interchange reads.

    Raises:
        ConfigError, DataError: as load_folder; a context that it cannot read.
    """
    opened = load_folder(folder, device)
    made = Subject(opened.model, opened.tokenizer, opened.cfg, 0, None, opened.digest, trained_here=False)
    return _checked(made, context)


def _checked(made: Subject, context: int | None) -> Subject:
    name, trained = made.cfg.objective["name"], made.cfg.scale.context
    if not made.model.shape.causal:
        raise ConfigError(f"objective={name} makes this model read both ways: tasks ask for the next tokens")
    limit = context_limit(made.model)
    if context is not None and limit is not None and context > limit:
        raise ConfigError(
            f"context={context}: position={made.cfg.position['name']} reads at most {limit} tokens: lower it"
        )
    return made._replace(context=context or trained)
