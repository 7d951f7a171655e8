"""A run as a folder in Hugging Face's form, of the family that has such a model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_lab.errors import LabError
from gpt_lab.export import agreement, tokenizer_files
from gpt_lab.export.agreement import Agreement
from gpt_lab.export.exported_model import Source
from gpt_lab.export.staged import staged
from gpt_lab.interchange import convert


def quiet() -> None:
    """Keeps transformers from writing bars and advice between the command's lines."""
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # of torchao, which transformers imports


def write_folder(source: Source, out: Path, say: Callable[[str], None] = lambda line: None) -> Agreement:
    """Writes config.json, model.safetensors, generation_config.json and the tokenizer's files into a new folder.

    It is opened again and compared with the run's model before it gets its name.

    Raises:
        ConfigError: no family has such a model, whose option the line names, or there is something at `out`.
        LabError: what was written opens as another model, or the folder cannot be written.
    """
    quiet()
    config, weights = convert.to_hf(source.model, source.cfg)
    with staged(out) as folder:
        theirs = convert.opened(config, weights)
        write_model(theirs, source, folder)
        write_texts(source, folder, say)
        return agreement.compare(source, folder)


def write_model(theirs: Any, source: Source, folder: Path) -> None:
    """Writes a model of transformers, and how it generates: from the end of text, and up to it."""
    theirs.config.bos_token_id = theirs.config.eos_token_id = source.end
    theirs.generation_config = generation(source)
    theirs.save_pretrained(folder)


def generation(source: Source) -> Any:
    """What generate begins with and ends at."""
    from transformers import GenerationConfig

    return GenerationConfig(bos_token_id=source.end, eos_token_id=source.end, pad_token_id=source.end)


def write_texts(source: Source, folder: Path, say: Callable[[str], None]) -> None:
    """Writes the tokenizer, where there is one that can be written; says so otherwise.

    Raises:
        LabError: AutoTokenizer makes other tokens of a text.
    """
    if source.tokenizer is None:
        say("no tokenizer: the run was trained on tokens that are no text")
        return
    name = source.cfg.tokenizer["name"]
    template = source.template
    jinja = None if template is None else template.jinja
    if not tokenizer_files.write_tokenizer(source.tokenizer, folder, source.cfg.scale.context, jinja):
        say(f"tokenizer={name} has no form that transformers reads: the folder is without it")
        return
    if (text := tokenizer_files.unlike(source.tokenizer, folder, source.text, template)) is not None:
        raise LabError(f"AutoTokenizer does not read tokenizer={name} as it is: {text[:40]!r} has other tokens")
