"""The chat template of an export: transformers makes the run's tokens of a conversation, or that is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab.data.chat_template import FILE, JINJA, ChatTemplate
from gpt_lab.data.tokenizers.library import BPE
from gpt_lab.data.tokenizers.simple import Byte
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.export import tokenizer_files


def bpe() -> Tokenizer:
    made = BPE(vocab_size=300)
    made.fit(["User: who is the king of the isle? Assistant: I am the king. " * 9])
    return made


@pytest.mark.parametrize("make", [Byte, bpe])
def test_transformers_makes_the_same_tokens(make: type[Byte], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = make()
    template = ChatTemplate(tokenizer)
    assert tokenizer_files.write_tokenizer(tokenizer, tmp_path, 64, template.jinja)
    assert (tmp_path / FILE).read_text() == JINJA, "the file that a run keeps too"
    assert tokenizer_files.unlike(tokenizer, tmp_path, "the king", template) is None
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    said = [{"role": "user", "content": " am I? "}, {"role": "assistant", "content": "yes"}]
    assert list(theirs.apply_chat_template(said, return_dict=False)) == template.render(said)
    (tmp_path / FILE).write_text(JINJA.replace(" | trim", ""))
    assert tokenizer_files.unlike(tokenizer, tmp_path, "the king", template) is not None
