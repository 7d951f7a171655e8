"""Numbers and sentences as a reader wants them: signs, units, the answer of a comparison in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpt_lab.analysis.comparison import Comparison, Row
from gpt_lab.metrics import unit
from gpt_lab.stats.interval import Interval
from gpt_lab.study.arm_names import short_names
from gpt_lab.study.design import Design, Stated

TIERS = {
    "screen": "screen: fewer than 5 fresh seeds, or a verdict that a single seed would turn; it suggests",
    "confirm": "confirm: 5 or more seeds that chose nothing, and no single one of them turns the verdict",
    "sequential": "sequential: seeds were added until the arm was decided, and its interval allows for that",
}
"""What each tier means, said where it stands."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MOST_DECIMALS = 6
NOT_FINISHED = ("failed", "diverged", "without score", "missing", "stopped", "pruned", "running")
"""States other than finished, the ones that need somebody first."""


def decimals(scale: float) -> int:
    """Decimals that show two digits of a number of this size; 1 to 6."""
    if not math.isfinite(scale) or scale <= 0:
        return 4
    return min(max(1 - math.floor(math.log10(scale)), 1), MOST_DECIMALS)


def digits(interval: Interval) -> int:
    """Decimals for an estimate and its interval: two digits of half its width, four of an estimate without a width."""
    half = (interval.high - interval.low) / 2
    if half == 0:  # every pair differs by the same: all that is left to show is the number
        return decimals(abs(interval.estimate) / 100)
    return decimals(half if math.isfinite(half) and half > 0 else abs(interval.estimate))


def signed(value: float, places: int) -> str:
    """`+0.012`, `−0.012`, and `0.000` without a sign."""
    text = f"{abs(value):.{places}f}"
    sign = "" if float(text) == 0 else "−" if value < 0 else "+"
    return sign + text


def plain(value: float | None, places: int = 4) -> str:
    """A number with a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{places}f}".replace("-", "−")


def common_digits(intervals: Sequence[Interval]) -> int:
    """Decimals for a column of intervals: those of the middle one."""
    places = sorted(digits(interval) for interval in intervals)
    return places[len(places) // 2] if places else 4


def with_interval(interval: Interval, places: int | None = None) -> str:
    """`−0.031 [−0.041, −0.021]`; the interval is left out where it does not exist."""
    places = digits(interval) if places is None else places
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return signed(interval.estimate, places)
    low, high = signed(interval.low, places), signed(interval.high, places)
    return f"{signed(interval.estimate, places)} [{low}, {high}]"


def count(value: float | None) -> str:
    """`922,752`; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def short(value: float) -> str:
    """Three digits and k, M, B or a power of ten: `923 k`, `2.05 M`, `1.2×10¹³`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    value = float(f"{value:.3g}")  # first, so that 999,999 becomes 1 M
    if abs(value) >= 1e12 or abs(value) < 1e-3:
        return power(value)
    for size, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:.3g}"


def power(value: float) -> str:
    """`1.21×10¹³`, for a number that is not 0."""
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}×10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def amount(value: float) -> str:
    """A positive number in three digits, never rounded to nothing."""
    return f"{value:.3g}"


def p_value(value: float | None, places: int = 3) -> str:
    """`0.012`, `< 0.001`; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    least = 10.0**-places
    return f"< {least:.{places}f}" if value < least else f"{value:.{places}f}"


def percent(alpha: float) -> str:
    """Level of an interval: `95 %` for 0.05."""
    return f"{100 * (1 - alpha):g} %"


def seeds(number: int) -> str:
    return f"{number} seed" if number == 1 else f"{number} seeds"


def verdict(row: Row) -> str:
    """The verdict, and of an undecided one whether something forbids it."""
    if row.withheld:
        return "undecided: see notes"
    return row.verdict


def margin(comparison: Comparison) -> str:
    """` Smallest effect size of interest: 0.01 bits per byte.`; empty where none is stated."""
    if comparison.sesoi is None:
        return ""
    return f" Smallest effect size of interest: {amount(comparison.sesoi)} {unit(comparison.design.metric)}."


def grey_band(comparison: Comparison) -> str:
    """What the grey band of a figure is; empty where there is none."""
    if comparison.sesoi is None:
        return ""
    return f" Grey band: below {amount(comparison.sesoi)} {unit(comparison.design.metric)}, too small to matter."


def post_hoc(design: Design, stated: Stated | None) -> list[str]:
    """What was chosen once runs were there, although it decides what they say."""
    found: list[str] = []
    if stated is None:
        return []
    measure = unit(design.metric)
    if design.sesoi is not None and stated.sesoi != design.sesoi:
        before = "none was" if stated.sesoi is None else f"{stated.sesoi:g} was"
        found.append(
            f"the smallest effect size of interest of {design.sesoi:g} {measure} is post hoc: {before} stated "
            "before the first run"
        )
    elif design.sesoi is None and stated.sesoi is not None:
        found.append(f"the smallest effect size of interest of {stated.sesoi:g} {measure} was dropped post hoc")
    if stated.metric != design.metric:
        found.append(f"the metric {design.metric} is post hoc: {stated.metric} was stated before the first run")
    return found


def left_out(rows: Sequence[Row], design: Design) -> str:
    """What the verdicts become without each seed; empty where none says better or worse."""
    ranges = []
    for row in rows:
        if row.left_out is not None and row.delta is not None:
            low, high = (signed(end, digits(row.delta)) for end in row.left_out)
            ranges.append(f"{row.arm} {low} to {high}")
    if not ranges:
        return ""
    turned = [f"{row.arm} without {design.pair} {' or '.join(row.turns)}" for row in rows if row.turns]
    holds = f"another verdict for {', '.join(turned)}" if turned else "no verdict turns"
    return f"Leaving out one {design.pair} at a time gives {', '.join(ranges)}: {holds}."


def plans(rows: Sequence[Row]) -> str:
    """How many seeds a new study needs to decide arms that are undecided; empty without any."""
    if not rows:
        return ""
    within = [f"{row.arm} {_range(row.plan)}" for row in rows if row.plan is not None]
    beyond = [str(row.arm) for row in rows if row.plan is None]
    parts = [f"To decide an undecided arm plan a new study (power 80 %): {', '.join(within)}."] if within else []
    parts += [f"Not within reach: {', '.join(beyond)}."] if beyond else []
    return " ".join(parts)


def _range(plan: tuple[int, int | None]) -> str:
    least, most = plan
    return f"{least} seeds or more" if most is None else f"{least} to {most} seeds" if most > least else seeds(least)


def states(row: Row) -> str:
    """`1 diverged, 2 missing`; empty when all its runs finished."""
    return ", ".join(f"{row.states[name]} {name}" for name in NOT_FINISHED if row.states.get(name))


def within(design: Design) -> str:
    """` with the same scale`, where each value has a baseline of its own."""
    return f" with the same {' and '.join(design.within)}" if design.within else ""


def answer(comparison: Comparison) -> str:
    """What the comparison says, in one or two sentences."""
    if comparison.caveat:
        return f"No answer about language models: {comparison.caveat}. {_answer(comparison)}"
    return _answer(comparison)


def _answer(comparison: Comparison) -> str:
    design = comparison.design
    stated = design.baseline_arm
    compared = [row for row in comparison.rows if row.verdict != "baseline"]
    if len(comparison.rows) == 1:
        return f"{comparison.rows[0].arm or 'This'} is the only arm, so nothing is compared."
    if stated is None:
        return "No baseline is named, so no arm is called better or worse: name one with --baseline."
    if not any(row.verdict == "baseline" and row.runs for row in comparison.rows):
        return f"The baseline {stated}{within(design)} has no finished run, so nothing can be compared yet."
    judged = [row for row in compared if row.verdict != "no data"]
    if not judged:
        return f"No other arm has a finished run that pairs with the baseline {stated}{within(design)} yet."
    names = short_names(row.arm for row in comparison.rows)
    names |= {arm: str(arm) for arm, name in names.items() if name == "none"}  # `none is worse` would say another thing
    base = f"{names.get(stated, stated)}{within(design)}"
    better = [row for row in judged if row.verdict == "better"]
    if better:
        lead = f"{names[better[0].arm]} leads {base} by {_amount(better[0], design)}"
        if better[0].tier == "screen":
            lead += " (a screen: to be confirmed)"
    else:
        lead = f"No arm is better than {base}"
    parts = [lead]
    for word in ("better", "worse", "equivalent", "real but small", "undecided"):
        rows = [row for row in judged if row.verdict == word and row not in better[:1]]
        if rows:
            said = f"{_listed([names[row.arm] for row in rows])} {'is' if len(rows) == 1 else 'are'} {word}"
            parts.append(said + (_reach(rows, design.sesoi) if word == "real but small" else ""))
    if lacking := len(compared) - len(judged):
        parts.append(f"{lacking} {'arm has' if lacking == 1 else 'arms have'} no data yet")
    return "; ".join(parts) + "."


def _reach(rows: Sequence[Row], sesoi: float | None) -> str:
    """How far the intervals reach beyond the margin: small was not excluded, which is not that it was shown."""
    if not sesoi:
        return ""
    most = max(max(abs(row.delta.low), abs(row.delta.high)) for row in rows if row.delta is not None)
    return f" (interval up to {most / sesoi:.1f} times the smallest effect size of interest)"


def _listed(names: Sequence[str], most: int = 5) -> str:
    """`a, b and c`."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _amount(row: Row, design: Design) -> str:
    """`0.071 [0.025, 0.118] bits per byte (5 seeds)`: by how much it is better."""
    assert row.delta is not None
    places = digits(row.delta)
    sign = -1.0 if design.goal == "minimize" else 1.0
    low, high = sorted((sign * row.delta.low, sign * row.delta.high))
    numbers = [f"{value:.{places}f}".replace("-", "−") for value in (sign * row.delta.estimate, low, high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}] {unit(design.metric)} ({seeds(row.n)})"
