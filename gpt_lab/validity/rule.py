"""A rule on fair comparison: its words, what it withholds, and what finds it before the runs and in them.

A module of validity/rules/ makes its rules at its top level and gives each what finds it, by decorators. The dry run
(beforehand.py), the report (afterwards.py) and docs/fairness-rules.md ask the rules; none of them names one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gpt_lab.study.design import Settings

if TYPE_CHECKING:
    from gpt_lab.validity.compared import Compared
    from gpt_lab.validity.planned import Planned
    from gpt_lab.validity.seen import Seen

Blocked = Literal["better", "worse", "equivalent", "real but small", "all"]
WORDS: tuple[Blocked, ...] = ("better", "worse", "equivalent", "real but small")
Given = Literal["equal cost", "fresh seeds"]
EITHER = "better, worse"


@dataclass(frozen=True)
class Doubt:
    """One sentence for an arm by a rule, and the verdicts that it forbids."""

    rule: Rule
    text: str
    blocks: frozenset[Blocked]

    @property
    def said(self) -> str:
        """With the way out."""
        return f"{self.text}. Way out: {self.rule.way}"

    @property
    def withheld(self) -> str:
        """`no "better"`."""
        if "all" in self.blocks:
            return "no verdict"
        return "no " + " or ".join(f'"{word}"' for word in WORDS if word in self.blocks)


KnownOf = Callable[["Compared"], Iterator[Doubt]]
PlannedOf = Callable[["Planned"], Iterator[Doubt]]
SeenIn = Callable[["Seen"], Iterator[tuple[Settings, Doubt]]]


@dataclass(eq=False)
class Rule:
    """One row of docs/fairness-rules.md, and what finds it.

    Fields:
        name: a word of its own. place: where it is said among the rules, the lowest first.
        title: what is not fair. withheld: which verdicts, in words. way: the way out.
        unless: what an analysis may see to by itself; one that does leaves the rule out.
        beforehand, afterwards: what finds it, each with its place.
    """

    name: str
    place: int
    title: str
    withheld: str
    way: str
    unless: Given | None = None
    beforehand: list[tuple[int, PlannedOf]] = field(default_factory=list)
    afterwards: list[tuple[int, SeenIn]] = field(default_factory=list)

    def doubt(self, text: str, *blocks: Blocked) -> Doubt:
        """A sentence for an arm."""
        return Doubt(self, text, frozenset(blocks))

    def known(self, find: KnownOf) -> KnownOf:
        """Decorates what finds the rule in an arm, planned or run alike."""
        self.planned()(find)
        self.seen()(lambda study: ((arm, one) for arm, pair in study.compared.items() for one in find(pair)))
        return find

    def planned(self, place: int | None = None) -> Callable[[PlannedOf], PlannedOf]:
        """Decorates what finds it in an arm of a sweep before anything is run, said at `place` if not at the rule's."""

        def give(find: PlannedOf) -> PlannedOf:
            self.beforehand.append((self.place if place is None else place, find))
            return find

        return give

    def seen(self, place: int | None = None) -> Callable[[SeenIn], SeenIn]:
        """Decorates what finds it in the runs of a study, each doubt with its arm."""

        def give(find: SeenIn) -> SeenIn:
            self.afterwards.append((self.place if place is None else place, find))
            return find

        return give
