"""Chat templates: conversations as tokens, and as the Jinja text by which transformers makes the same ones.

A turn is `Role: content` and then the tokenizer's end of text, which no text can become: nobody's words can pretend to
be another turn, as they could where turns are told apart by text alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from gpt_lab.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from gpt_lab.errors import ConfigError, DataError, unknown

FILE = "chat_template.jinja"
"""In the tokenizer's folder of a run that was trained on conversations, and of its export."""
ROLES = {"system": "System:", "user": "User:", "assistant": "Assistant:"}
"""What stands before the words of each role. No space ends it: a tokenizer's words begin with theirs."""
ANSWERS = "assistant"
JINJA = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

Message = Mapping[str, Any]
"""`role` and `content`, both text."""


class Rendered(NamedTuple):
    """Tokens of a conversation; `learnt` marks those that the assistant says, the end of its turns included."""

    ids: list[int]
    learnt: list[bool]


class ChatTemplate:
    """Conversations as tokens of a tokenizer.

    Attributes:
        stop: the token that ends a turn. jinja: the template as transformers reads it.

    Raises:
        ConfigError: the tokenizer has no end of text.
    """

    jinja = JINJA

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.eot is None:
            raise ConfigError(
                "conversations need a tokenizer with an end of text, which ends each turn: use tokenizer=bpe, or "
                "tokenizer.eot=true where it is an option"
            )
        self.tokenizer, self.stop = tokenizer, tokenizer.eot

    @classmethod
    def load(cls, run_path: Path) -> Self | None:
        """The template of the run in a folder; None: it was not trained on conversations.

        Raises:
            DataError: its tokenizer is missing or broken, or the template is not the lab's.
        """
        folder = Path(run_path) / "tokenizer"
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {folder / FILE}: {error}") from error
        if text != JINJA:
            raise DataError(f"{folder / FILE} is not the template of this version of the lab: train the run again")
        return cls(load_tokenizer(folder))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[int]:
        """The tokens of a conversation.

        Args:
            add_generation_prompt: whether the assistant's next turn is begun.

        Raises:
            DataError: a message is none, in one line; or the tokenizer lacks its characters.
        """
        ids = self.with_answers(messages).ids
        return ids + self.tokenizer.encode(ROLES[ANSWERS]) if add_generation_prompt else ids

    def with_answers(self, messages: Sequence[Message]) -> Rendered:
        """As `render`, with what the assistant says marked."""
        ids: list[int] = []
        learnt: list[bool] = []
        for message in checked(messages):
            mark = self.tokenizer.encode(ROLES[message["role"]])
            said = [*self.tokenizer.encode(" " + message["content"].strip()), self.stop]
            ids += mark + said
            learnt += [False] * len(mark) + [message["role"] == ANSWERS] * len(said)
        return Rendered(ids, learnt)

    def answer(self, ids: Sequence[int]) -> str:
        """The words of a turn that was generated: without its end, and without spaces around them."""
        own = list(ids)
        end = own.index(self.stop) if self.stop in own else len(own)
        return self.tokenizer.decode(own[:end]).strip()


def checked(messages: Any) -> Sequence[Message]:
    """The messages of a conversation, if they are some.

    Raises:
        DataError: what is wrong, in one line.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError('messages must be a list of at least one {"role": ..., "content": ...}')
    for message in messages:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise DataError('a message must be {"role": ..., "content": ...}, both text')
        if message["role"] not in ROLES:
            raise DataError(unknown("role", message["role"], list(ROLES)))
    return messages
