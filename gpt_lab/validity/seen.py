"""The finished runs of a study, as the rules on fair comparison look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from gpt_lab.config import schema
from gpt_lab.options import constant
from gpt_lab.study.design import Design, Settings, shown
from gpt_lab.validity.compared import LEARNING_RATE, SOURCES, Compared, cost_kind, tuned_rate

if TYPE_CHECKING:  # a dry run, which imports the rules too, needs no pandas
    import pandas as pd

    from gpt_lab.frame.paired_scores import Paired

COUNTS = {"params": "parameters_non_embedding", "flops": "train_flops_per_token"}
"""What each value of `match` makes equal."""


def agree(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Whether two runs say the same of themselves, where both say something."""
    return all(a == b for a, b in zip(first, second, strict=True) if a is not None and b is not None)


class Seen:
    """The runs of a baseline and of the arms that are compared with it.

    Fields:
        arms: all but the baseline. chosen: runs of each arm's chosen nuisance values. used: those that have a score.
    """

    def __init__(self, runs: pd.DataFrame, paired: Paired, design: Design, baseline: Settings) -> None:
        self.runs, self.paired, self.design, self.baseline = runs, paired, design, baseline
        self.arms = tuple(arm for arm in paired.arms if arm != baseline)
        self.chosen, self.used = runs[paired.chosen], runs[paired.finished]

    @cached_property
    def compared(self) -> dict[Settings, Compared]:
        """What is known of each arm and the baseline."""
        import pandas as pd

        design, paired, used, baseline = self.design, self.paired, self.used, self.baseline
        differing, matched, text, rates = self._differing(), self._matched(), self._text(), self._rates()
        budgets = [name for name in used if str(name).startswith("config.budget.")]
        stated = used[budgets].drop_duplicates().rename(columns=lambda name: name.rpartition(".")[2])
        cost = cost_kind(
            [{kind: value for kind, value in row.items() if pd.notna(value)} for row in stated.to_dict("records")],
            design,
        )
        spent, sizes = self._median(cost), self._median("parameters")
        begun = self.runs[~self.runs["state"].isin(["missing", "failed"])] if design.nuisance else self.runs[:0]
        tunings = {arm: list(own) for arm, own in begun.groupby("arm")["tuning"].unique().items()}
        found = {}
        for arm in self.arms:
            tried = paired.choices[arm].tried, paired.choices[baseline].tried
            known = arm in rates and baseline in rates and not (tuned_rate(design) and min(tried) > 1)
            found[arm] = Compared(
                design=design,
                differing=differing.get(arm, []),
                differs=lambda key, arm=arm: self._differs(key, arm),  # type: ignore[misc]
                matched=arm in matched,
                parameters=(sizes.get(arm), sizes.get(baseline)),
                tried=tried,
                tunings=(tunings.get(arm, []), tunings.get(baseline, [])),
                rates=(rates[arm], rates[baseline]) if known else None,
                cost=cost,
                spent=(spent.get(arm), spent.get(baseline)),
                text=(text.get(arm, {}), text.get(baseline, {})),
            )
        return found

    @property
    def timed(self) -> bool:
        """Whether runs have a budget in seconds."""
        return "config.budget.seconds" in self.used and bool(self.used["config.budget.seconds"].notna().any())

    def both(self, own: str, of_baseline: str) -> Iterator[tuple[Settings, str, Settings]]:
        """Each arm twice: with the words for its own runs and its name, then with those for the baseline's."""
        for arm in self.arms:
            yield arm, own, arm
            yield arm, of_baseline, self.baseline

    def resting_on(self, name: Any) -> tuple[Settings, ...]:
        """Arms whose comparison rests on the runs of an arm: itself, or all on the baseline's."""
        return self.arms if name == self.baseline else (name,)

    def apart(self, *names: str, same: Callable[[Any, Any], bool] = agree) -> dict[Settings, int]:
        """Of each arm the pairs in which what its run and the baseline's say of themselves is not the same.

        What says nothing of any of these in all runs tells nothing.

        Args:
            names: columns of what runs say of themselves (`env.`). same: of the values of two runs.
        """
        import pandas as pd

        used, columns = self.used, [f"env.{name}" for name in names]
        known = [name for name in columns if name in used]
        if not known or not any(used[name].nunique(dropna=False) > 1 for name in known):
            return {}
        table = pd.DataFrame({name: used[name].astype(object) if name in used else None for name in columns})
        table = table.where(table.notna(), None)
        values = list(table.itertuples(index=False, name=None))
        codes, distinct = pd.factorize(pd.Series(values, dtype=object))
        by_pair: dict[Settings, dict[str, set[int]]] = {}
        for arm, pair, code in zip(used["arm"], used["pair"], codes, strict=True):
            by_pair.setdefault(arm, {}).setdefault(pair, set()).add(int(code))
        verdicts: dict[tuple[int, int], bool] = {}

        def differ(a: int, b: int) -> bool:
            if a != b and (a, b) not in verdicts:
                verdicts[a, b] = not same(distinct[a], distinct[b])
            return a != b and verdicts[a, b]

        base = by_pair.get(self.baseline, {})
        counts = {
            arm: sum(any(differ(a, b) for a, b in product(own[pair], base.get(pair, ()))) for pair in own)
            for arm, own in by_pair.items()
            if arm != self.baseline
        }
        return {arm: count for arm, count in counts.items() if count}

    def _median(self, column: str | None) -> dict[Settings, float]:
        if column is None or column not in self.used:
            return {}
        medians: dict[Settings, float] = self.used.groupby("arm", sort=False)[column].median().to_dict()
        return medians

    def _differing(self) -> dict[Settings, list[str]]:
        """Of each arm the flat settings whose values are not those of the baseline's runs."""
        import pandas as pd

        used, found = self.used, dict[Settings, list[str]]()
        for column in used.columns:
            key = str(column).removeprefix("config.")
            if key == column or key.split(".")[0] in schema.NOT_IDENTITY:
                continue
            if constant(used[column].tolist()):
                continue
            there = used[column].notna()  # what only some runs have tells nothing, but of the sources of data
            absent = "" if key.startswith(SOURCES) else None
            codes, values = pd.factorize(used[column].astype(str).astype(object).where(there, absent))
            if len(values) < 2:
                continue
            known = codes >= 0
            ends = pd.DataFrame({"arm": used["arm"][known], "code": codes[known]}).groupby("arm")["code"]
            ends = ends.agg(["min", "max"])
            if self.baseline in ends.index:
                differs = (ends != ends.loc[self.baseline]).any(axis=1)
                for arm in differs.index[differs]:
                    found.setdefault(arm, []).append(key)
        return found

    def _differs(self, key: str, arm: Settings) -> bool:
        return any(own.get(arm) != own.get(self.baseline) for own in map(self._values, (key, f"{key}.name")))

    def _values(self, key: str) -> Mapping[Settings, set[str]]:
        """The values of each arm, as text; {} if all have the same."""
        if key not in self._known:
            column = f"config.{key}"
            varies = column in self.used and self.used[column].map(str).nunique() > 1
            by_arm = self.used[column].groupby(self.used["arm"], sort=False) if varies else ()
            self._known[key] = {arm: set(map(str, own)) for arm, own in by_arm}
        return self._known[key]

    @cached_property
    def _known(self) -> dict[str, Mapping[Settings, set[str]]]:
        return {}

    def _rates(self) -> dict[Settings, str]:
        """The learning rates of each arm, in words."""
        column = f"config.{LEARNING_RATE}"
        if column not in self.used:
            return {}
        by_arm = self.used[column].astype(float).groupby(self.used["arm"], sort=False)
        return {arm: " and ".join(map(shown, sorted(set(own)))) for arm, own in by_arm}

    def _text(self) -> dict[Settings, dict[str, Any]]:
        """What the runs of each arm say of their tokens as text."""
        known = [key for key in ("lossy", "ends", "packing", "measure", "seen") if f"env.{key}" in self.chosen]
        found: dict[Settings, dict[str, Any]] = {arm: dict.fromkeys(known) for arm in self.chosen["arm"].unique()}
        for key in known:
            for arm, value in zip(self.chosen["arm"], self.chosen[f"env.{key}"], strict=True):
                if isinstance(value, (str, bool)):
                    before = found[arm][key]
                    found[arm][key] = value if before is None else max(before, value)
        return found

    def _matched(self) -> set[Settings]:
        """Arms that `match` made as large as the baseline is: they may differ from it in MATCHED and in the target.

        Where the scale is compared, each has a baseline of its own.
        """
        used, found = self.used, set[Settings]()
        if "config.match" not in used or "config.match_to" not in used:
            return found
        if not any(isinstance(kind, str) for kind in used["config.match"].unique()):
            return found
        base = used[used["arm"] == self.baseline]
        for arm, own in used.groupby("arm", sort=False):
            kinds = set(zip(own["config.match"], own["config.match_to"], strict=True))
            kind, to = next(iter(kinds))
            if len(kinds) > 1 or not isinstance(kind, str):
                continue
            count = float(base[COUNTS[kind]].median())
            if abs(count - to) <= schema.TOLERANCE[kind] * to or "scale" in self.design.factors:
                found.add(arm)
        return found
