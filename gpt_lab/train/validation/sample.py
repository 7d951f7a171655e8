"""Sample texts of a model in training, to be read beside its loss."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpt_lab.config.sections import Sample
from gpt_lab.data import chat_template
from gpt_lab.data.chat_template import ChatTemplate
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.digests import Damaged, check_sums, write_sums
from gpt_lab.errors import DataError
from gpt_lab.infer.generate import complete
from gpt_lab.model.gpt import GPT
from gpt_lab.store.atomic_files import writing
from gpt_lab.train.precision import Precision


def draw(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    wanted: Sample,
    precision: Precision,
    seed: int,
    template: ChatTemplate | None = None,
) -> str:
    """The prompt and its continuation, or what is answered to it; the same text whenever the weights are the same."""
    start = prompt_tokens(tokenizer, prompt)
    if template is not None:
        start = template.render([{"role": "user", "content": prompt}], add_generation_prompt=True)
    with precision.autocast():  # kernels were chosen for this format
        (ids,) = complete(
            model,
            start,
            max_tokens=wanted.tokens,
            temperature=wanted.temperature,
            seed=seed,
            stop=tokenizer.eot,
        )
    return tokenizer.decode(start + ids)


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The prompt's tokens; where the vocabulary lacks its characters, or it is empty, one token to begin with."""
    try:
        ids = tokenizer.encode(prompt)
    except DataError:
        ids = []
    return ids or [tokenizer.eot if tokenizer.eot is not None else 0]


def save_tokenizer(tokenizer: Tokenizer | None, folder: Path, template: ChatTemplate | None = None) -> None:
    """Writes what generation needs beside a checkpoint, unless it is there, whole, or the data is no text.

    Raises:
        LabError: the folder cannot be written.
    """
    if tokenizer is None or _whole(folder):
        return
    with writing(folder):
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        tokenizer.save(temporary)
        if template is not None:
            (temporary / chat_template.FILE).write_text(template.jinja, encoding="utf-8")
        write_sums(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)


def _whole(folder: Path) -> bool:
    try:
        check_sums(folder)
    except Damaged:
        return False
    return True
