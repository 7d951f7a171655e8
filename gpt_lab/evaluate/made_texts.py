"""Questions in words that are made from a seed: a needle in a haystack, and the last word of a passage."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_lab.errors import ConfigError
from gpt_lab.evaluate.likelihood import encode
from gpt_lab.evaluate.subject import Subject
from gpt_lab.evaluate.task import Asked, Item, Questions, task

PLACES = ("harbour", "garden", "market", "chapel", "valley", "tower", "castle", "forest", "river", "village")
WORDS = ("silver", "candle", "winter", "feather", "hammer", "barley", "copper", "saddle", "ribbon", "marble")
NAMES = ("Anna", "Peter", "Mary", "Thomas", "Helen", "Robert", "Alice", "Henry", "Clara", "Martin")
HAY = (
    "The road went on between the fields.",
    "A light rain fell in the evening.",
    "Nobody spoke for a long time.",
    "The old man closed the door.",
    "Some birds sat on the wall.",
    "They had bread and a little cheese.",
    "The wind came from the sea.",
    "A dog slept in the shade.",
)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the needle is, from the beginning of the haystack to its end."""
CHOICES = 4


@task("needle")
class Needle(Questions):
    """One sentence with a word, anywhere in a context full of others; then the question for the word, of four.

    A context that does not hold so many sentences that each depth is another place is refused.

    Paper: Kamradt 2023, the test "needle in a haystack"; here by log-likelihood, with accuracy by depth.
    """

    def items(self, subject: Subject, asked: Asked) -> Iterator[Item]:
        tokenizer = subject.needed_tokenizer
        costs = {text: len(encode(tokenizer, f"{text} ")) for text in HAY}
        longest = max(len(encode(tokenizer, f" {word}")) for word in WORDS)
        asks = {(place, word): " ".join(_needle(place, word)) for place in PLACES for word in WORDS}
        taken = {key: len(encode(tokenizer, text)) + longest for key, text in asks.items()}
        least = max(taken.values()) + (len(DEPTHS) - 1) * max(costs.values())
        if subject.context < least:
            raise ConfigError(
                f"tasks=needle needs a context of {least} tokens for {len(DEPTHS)} depths, and this one has "
                f"{subject.context}: leave it out, or take a larger one (evaluate ... context={least}, where the "
                "position encoding extrapolates)"
            )
        for number in range(asked.items):
            draw = asked.generator("needle", number)
            place = PLACES[draw.integers(len(PLACES))]
            words = [WORDS[i] for i in draw.permutation(len(WORDS))[:CHOICES]]
            gold = int(draw.integers(CHOICES))
            needle, question = _needle(place, words[gold])
            room = subject.context - taken[place, words[gold]]
            hay: list[str] = []
            while (room := room - costs[text := HAY[draw.integers(len(HAY))]]) >= 0:
                hay.append(text)
            depth = DEPTHS[number % len(DEPTHS)]
            hay.insert(round(depth * len(hay)), needle)
            yield Item([" ".join([*hay, question])], [f" {word}" for word in words], gold, {"depth": f"{depth:g}"})


def _needle(place: str, word: str) -> tuple[str, str]:
    """The sentence and the question."""
    return f"The secret word of the {place} is {word}.", f"The secret word of the {place} is"


@task("cloze")
class Cloze(Questions):
    """The last word of a passage: a name that stood in it before, beside another; right if it is the likeliest text.

    Paper: Paperno et al. 2016, arXiv:1606.06031 (LAMBADA, whose own passages are a file of `context`, `continuation`)
    """

    def items(self, subject: Subject, asked: Asked) -> Iterator[Item]:
        for number in range(asked.items):
            draw = asked.generator("cloze", number)
            one, other = (NAMES[i] for i in draw.permutation(len(NAMES))[:2])
            place, word = PLACES[draw.integers(len(PLACES))], WORDS[draw.integers(len(WORDS))]
            hay = " ".join(HAY[i] for i in draw.permutation(len(HAY))[:2])
            passage = (
                f"{one} and {other} walked to the {place}. {other} carried the {word}. {hay} At the {place} {other} "
                f"gave the {word} to {one}. So the one who had the {word} now was"
            )
            yield Item([passage], [f" {one}"])
