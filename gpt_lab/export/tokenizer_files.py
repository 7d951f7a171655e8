"""A run's tokenizer as the files that transformers' AutoTokenizer reads, compared with it on text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from gpt_lab.data.chat_template import ChatTemplate
from gpt_lab.data.tokenizers.tokenizer import EOT, Tokenizer
from gpt_lab.errors import DataError

PROBE = "The  quick\tbrown fox — 1,234 times!\n\n  L'été, ‘naïve’ 你好 😀 <|endoftext|> don't </s>"
"""Spaces, digits, accents, other scripts, and the names of special tokens, which are ordinary text to the lab."""
CONVERSATION = [
    {"role": "system", "content": "Answer as the king would."},
    {"role": "user", "content": "  Who are you?\n"},
    {"role": "assistant", "content": "I am the king of the isle."},
    {"role": "user", "content": "And I?"},
]
"""One turn of each role, and spaces that a template takes away."""


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context: int, template: str | None = None) -> bool:
    """Writes tokenizer.json and tokenizer_config.json; whether the tokenizer can be written so.

    Text never becomes a special token, as in the lab: hence split_special_tokens. With a chat template, in whose text
    the end of a turn stands by its name, it does.
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
        split_special_tokens=template is None,
        model_max_length=context,
    )
    if template is not None:
        made.chat_template = template
    made.save_pretrained(folder)
    return True


def unlike(tokenizer: Tokenizer, folder: Path, text: str, template: ChatTemplate | None = None) -> str | None:
    """A text whose tokens, by AutoTokenizer, are others than the run's, or come back as another text; None: none is.

    With a template, text with the name of the end of text is left out, and a conversation is compared.
    """
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if template is not None:
        ids = template.render(CONVERSATION, add_generation_prompt=True)
        made = theirs.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=True, return_dict=False)
        if list(made) != ids:
            return tokenizer.decode(ids)
    for one in _texts(tokenizer, text):
        if template is not None:
            one = one.replace(EOT, "")
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
