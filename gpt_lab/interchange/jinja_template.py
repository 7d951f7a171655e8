"""The chat template of a folder in Hugging Face's form: Jinja, which is run in a sandbox."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from gpt_lab.data.chat_template import FILE, Message, checked
from gpt_lab.data.tokenizers.tokenizer import Tokenizer
from gpt_lab.errors import DataError, one_line, quoted

OF_TOKENIZER, OF_GENERATION, OF_MODEL = "tokenizer_config.json", "generation_config.json", "config.json"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


class JinjaTemplate:
    """Conversations as tokens, as transformers' `apply_chat_template` makes them of the same folder.

    Attributes:
        stops: the tokens that end a turn: those of generation_config.json, config.json and the tokenizer.

    Raises:
        DataError: the template is no Jinja.
    """

    def __init__(self, text: str, tokenizer: Tokenizer, named: Mapping[str, str], stops: frozenset[int]) -> None:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """{% generation %}: what the assistant says, which transformers can mark; it is written as it is."""

            tags = {"generation"}  # noqa: RUF012  # jinja2's own form

            def parse(self, parser: Any) -> Any:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        extensions = [loopcontrols, Generation]
        made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        made.filters["tojson"] = _as_json
        made.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        try:
            self._template = made.from_string(text)
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template cannot be read: {one_line(str(error), 200)}") from None
        self._named, self.stops = dict(named), stops
        inner = tokenizer.as_library()
        inner.encode_special_tokens = False  # the template's own marks are tokens
        self._inner = inner
        self._marks = [token.content for token in inner.get_added_tokens_decoder().values() if token.special]

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> Self | None:
        """The template in a folder; None: it has none.

        Raises:
            DataError: a file cannot be read, or the template is no Jinja.
        """
        described = _json(folder / OF_TOKENIZER)
        text = described.get("chat_template")
        if isinstance(text, list):  # several by name
            text = next((one["template"] for one in text if one.get("name") == "default"), None)
        if (folder / FILE).is_file():
            text = _text(folder / FILE)
        if not isinstance(text, str):
            return None
        named = {key: _content(described[key]) for key in SPECIAL if described.get(key)}
        ends = {tokenizer.eot, tokenizer.as_library().token_to_id(named.get("eos_token", ""))}
        for file in (OF_GENERATION, OF_MODEL):
            stated = _json(folder / file).get("eos_token_id")
            ends |= set(stated) if isinstance(stated, list) else {stated}
        return cls(text, tokenizer, named, frozenset(end for end in ends if isinstance(end, int)))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[int]:
        """The tokens of a conversation.

        Args:
            add_generation_prompt: whether the assistant's next turn is begun.

        Raises:
            DataError: a message is none, has words that are one of the template's marks, or is refused by the template.
        """
        import jinja2

        for message in checked(messages):
            mark = next((mark for mark in self._marks if mark in message["content"]), None)
            if mark is not None:
                raise DataError(f"a message has {quoted(mark)} in it, which is a token of this model's and no text")
        own = copy.deepcopy([dict(message) for message in messages])
        try:
            text = self._template.render(messages=own, add_generation_prompt=add_generation_prompt, **self._named)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise DataError(f"the model's chat template refuses: {one_line(str(error), 200)}") from None
        return list(self._inner.encode(text, add_special_tokens=False).ids)


def _refuse(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _as_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from None
    return found if isinstance(found, Mapping) else {}
