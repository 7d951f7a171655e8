"""A run's tokenizer as the files that transformers' AutoTokenizer reads, compared with it on text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import DataError

PROBE = "The  quick\tbrown fox — 1,234 times!\n\n  L'été, ‘naïve’ 你好 😀 <|endoftext|> don't </s>"
"""Spaces, digits, accents, other scripts, and the names of special tokens, which are ordinary text to the lab."""


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> bool:
    """Writes tokenizer.json and tokenizer_config.json; whether the tokenizer can be written so.

    Text never becomes a special token, as in the lab: hence split_special_tokens.
    """
    from transformers import PreTrainedTokenizerFast

    inner = tokenizer.as_library()
    if inner is None:
        return False
    end = None if tokenizer.eot is None else inner.id_to_token(tokenizer.eot)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=end,
        eos_token=end,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        model_max_length=context,
    )
    made.save_pretrained(folder)
    return True


def unlike(tokenizer: Tokenizer, folder: Path, text: str) -> str | None:
    """A text whose tokens, by AutoTokenizer, are others than the run's, or come back as another text; None: none is."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for one in _texts(tokenizer, text):
        ids = tokenizer.encode(one)
        if theirs(one, add_special_tokens=False)["input_ids"] != ids or theirs(one)["input_ids"] != ids:
            return one
        if theirs.decode(ids) != tokenizer.decode(ids):
            return one
    return None


def _texts(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """Those of some texts that it can encode: random tokens' own, the run's, the probe."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(tokenizer.vocab_size, (200,), generator=generator).tolist()
    for one in (tokenizer.decode([i for i in ids if i != tokenizer.eot]), text, PROBE):
        try:
            tokenizer.encode(one)
        except DataError:  # characters that are not in its corpus
            continue
        if one:
            yield one
