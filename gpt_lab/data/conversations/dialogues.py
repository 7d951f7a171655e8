"""A small corpus of conversations that is made, not shipped: sums, spelling, Shakespeare's plays. Always the same one.

It is for trying fine-tuning without a network: a model of a few million parameters learns it in minutes, and whether an
answer is right can be told.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

from gpt_lab.data.chat_template import Message

TOPICS = ("arithmetic", "spelling", "plays")
MOST = 20
"""The largest number in a sum or a difference."""
WORDS = """\
king queen crown sword ghost night dream storm witch dagger castle garden letter mother father brother sister lover
friend soldier prince duke lord lady fool nurse merchant island forest moon star sun rose blood poison potion battle
honour love death sleep heart hand eye tongue voice music dance feast wine bread horse ship sea river mountain tower
gate door window candle torch fire water earth air spirit fairy ass bear lion owl raven lark nightingale spring summer
autumn winter morning evening hour year world stage play scene act speech verse rhyme sonnet actor crowd market street
city Rome Venice Verona Denmark Scotland"""
PLAYS = {
    "Hamlet": ("Denmark", "tragedy", "the prince of Denmark"),
    "Macbeth": ("Scotland", "tragedy", "a Scottish general"),
    "Othello": ("Venice and Cyprus", "tragedy", "a general of Venice"),
    "King Lear": ("Britain", "tragedy", "the king of Britain"),
    "Romeo and Juliet": ("Verona", "tragedy", "two young lovers"),
    "Julius Caesar": ("Rome", "tragedy", "the ruler of Rome"),
    "Coriolanus": ("Rome", "tragedy", "a Roman general"),
    "The Tempest": ("an island", "comedy", "Prospero, a magician"),
    "Twelfth Night": ("Illyria", "comedy", "Viola, who is shipwrecked"),
    "As You Like It": ("the forest of Arden", "comedy", "Rosalind, a duke's daughter"),
    "Much Ado About Nothing": ("Messina", "comedy", "Beatrice and Benedick"),
    "The Merchant of Venice": ("Venice", "comedy", "Antonio, a merchant"),
    "Measure for Measure": ("Vienna", "comedy", "Isabella and Angelo"),
    "The Taming of the Shrew": ("Padua", "comedy", "Katharina and Petruchio"),
    "Richard III": ("England", "history", "the king of England"),
    "Henry V": ("England and France", "history", "the king of England"),
}

Turn = tuple[str, str]


def conversations(topic: str) -> list[list[Message]]:
    """All conversations on a topic, or on each of them ("all"), in an order that mixes them.

    Of all topics, every third conversation has two turns. No turn stands in two conversations: what is held out is read
    nowhere else.
    """
    turns = {"arithmetic": _sums, "spelling": _spelling, "plays": _plays}
    chosen = TOPICS if topic == "all" else (topic,)
    mixed = sorted((turn for name in chosen for turn in turns[name]()), key=_order)
    if topic != "all":
        return [_messages([turn]) for turn in mixed]
    found: list[list[Message]] = []
    rest = iter(mixed)
    for turn in rest:
        found.append(_messages([turn, *itertools.islice(rest, len(found) % 3 // 2)]))
    return found


def _messages(turns: list[Turn]) -> list[Message]:
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _order(turn: Turn) -> bytes:
    return hashlib.blake2b("\n".join(turn).encode(), digest_size=8).digest()


def _sums() -> Iterator[Turn]:
    for a in range(MOST + 1):
        for b in range(MOST + 1):
            yield f"What is {a} + {b}?", str(a + b)
            if b <= a:
                yield f"What is {a} - {b}?", str(a - b)
            if a <= MOST // 2 and b <= MOST // 2:
                yield f"What is {a} * {b}?", str(a * b)


def _spelling() -> Iterator[Turn]:
    for word in WORDS.split():
        yield f"Spell the word {word}.", "-".join(word)
        yield f"How do you spell {word}?", "-".join(word)
        yield f"How many letters has the word {word}?", str(len(word))
        yield f"What is the first letter of {word}?", word[0]
        yield f"What is the last letter of {word}?", word[-1]


def _plays() -> Iterator[Turn]:
    for play, (place, kind, about) in PLAYS.items():
        yield f"Who wrote {play}?", "William Shakespeare wrote it."
        yield f"Where is {play} set?", f"It is set in {place}." if not place.startswith("an ") else f"On {place}."
        yield f"Is {play} a comedy or a tragedy?", f"It is a {kind}."
        yield f"What kind of play is {play}?", f"It is a {kind}."
        yield f"Who is {play} about?", f"It is about {about}."
        yield f"Tell me about {play}.", f"It is a {kind} by William Shakespeare about {about}."
