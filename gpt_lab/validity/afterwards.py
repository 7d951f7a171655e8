"""The rules on fair comparison in the runs of a study: what they withhold from each arm."""

from __future__ import annotations

from gpt_lab.study.design import Settings
from gpt_lab.validity.measures import taught
from gpt_lab.validity.rule import Doubt
from gpt_lab.validity.rules import AFTERWARDS
from gpt_lab.validity.seen import Seen


def doubts(study: Seen) -> dict[Settings, list[Doubt]]:
    """What speaks against comparing each arm with the baseline."""
    found: dict[Settings, list[Doubt]] = {arm: [] for arm in study.arms}
    for find in AFTERWARDS:
        for arm, one in find(study):
            found[arm].append(one)
    return found


def information(study: Seen) -> list[str]:
    """What a reader should know of how the arms differ; it forbids nothing."""
    compared, said = study.compared, dict[str, list[str]]()
    run = [arm for arm in study.used["arm"].unique() if arm in compared]
    texts = [(arm, text) for arm in run for text in (compared[arm].bundled, compared[arm].bounded)]
    texts += [(arm, text) for arm, pair in compared.items() for text in (pair.larger, pair.other_batches)]
    texts += taught(study.used)
    for arm, text in texts:
        if text:
            said.setdefault(text, []).append(str(arm))
    return [f"{'; '.join(arms)}: {text}" for text, arms in said.items()]
