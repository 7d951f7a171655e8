"""Two-level fractional factorial designs: generators, resolution, aliases.

A regular fraction is given by its defining words (Box & Hunter 1961, Technometrics 3:311). A generator `d: [a, b, c]`
says that the level of d follows from those of a, b and c; its word is abcd. The baseline holds every factor at its low
level and is always run, so of the fractions that the words allow it is the one in which each word has an even number of
factors at their high level. With the levels as -1 (low) and +1 (high), the product over a word of n factors is then
(-1)^n in every arm. Words multiply by leaving out what is in both: abd times ace is bcde. Multiplying an effect by a
word gives an effect that the fraction cannot tell from it: its alias, with the sign (-1)^n.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Word = tuple[str, ...]
ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")


def group(words: Sequence[Word]) -> list[frozenset[str]]:
    """All products of the words, the words themselves included: the defining relation, shortest first."""
    products = {frozenset[str]()}
    for word in words:
        products |= {one ^ frozenset(word) for one in products}
    return sorted(products - {frozenset[str]()}, key=lambda one: (len(one), sorted(one)))


def resolution(words: Sequence[Word]) -> int | None:
    """Length of the shortest word of the defining relation; None for the full factorial.

    III: main effects are aliased with two-factor interactions. IV: those are aliased with each other. V: neither.
    """
    return min(map(len, group(words)), default=None)


def aliases(effect: frozenset[str], words: Sequence[Word]) -> list[tuple[int, frozenset[str]]]:
    """What the estimate of an effect holds beside it: (sign, effect), those of the fewest factors first."""
    found = [((-1) ** len(word), effect ^ word) for word in group(words)]
    return sorted(found, key=lambda alias: (len(alias[1]), sorted(alias[1])))


def defining_relation(words: Sequence[Word], factors: Sequence[str] = ()) -> str:
    """`I = a × b × c × d`, with a minus before words of an odd number of factors."""
    order = list(factors) or list(dict.fromkeys(name for word in words for name in word))
    shown_words = [f"{'−' if len(word) % 2 else ''}{effect_name(word, order)}" for word in group(words)]
    return " = ".join(["I", *shown_words])


def effect_name(effect: frozenset[str], factors: Sequence[str]) -> str:
    """`a × b`, in the design's order."""
    return " × ".join(name for name in factors if name in effect)


def describe(words: Sequence[Word], factors: Sequence[str]) -> str:
    """One sentence on the size and the resolution of a design."""
    k, p = len(factors), len(words)
    if not p:
        return f"full two-level factorial of {k} factors: {2**k} arms"
    reached = resolution(words) or 0
    meaning = {
        3: "main effects are aliased with two-factor interactions",
        4: "main effects are clear of two-factor interactions, which are aliased with each other",
    }.get(reached, "main effects and two-factor interactions are aliased with higher interactions only")
    return (
        f"1/{2**p} fraction of the two-level factorial of {k} factors: {2 ** (k - p)} arms, "
        f"resolution {ROMAN[reached]} ({meaning}); {defining_relation(words, factors)}"
    )


def _least_aberration(factors: Sequence[str], p: int) -> tuple[Word, ...]:
    k = len(factors)
    base = [1 << i for i in range(k - p)]
    subsets = [m for m in range(1, 1 << (k - p)) if m.bit_count() >= 2]
    subsets.sort(key=lambda m: (-m.bit_count(), [i for i in range(k - p) if m & base[i]]))
    best: tuple[list[int], tuple[int, ...]] | None = None
    for chosen in itertools.combinations(subsets, p):
        masks = [0]
        for i, subset in enumerate(chosen):
            masks += [mask ^ subset ^ (1 << (k - p + i)) for mask in masks]
        lengths = [0] * (k + 1)
        for mask in masks[1:]:
            lengths[mask.bit_count()] += 1
        if best is None or lengths < best[0]:
            best = lengths, chosen
    assert best is not None
    return tuple(
        tuple(name for j, name in enumerate(factors) if j == k - p + i or (j < k - p and subset & base[j]))
        for i, subset in enumerate(best[1])
    )
