"""What ranks beside the first do: build what it has built, then do with it what the first does, until it is done."""

from __future__ import annotations

from gpt_lab.config.schema import RunConfig
from gpt_lab.data.dataset import open_dataset
from gpt_lab.errors import LabError
from gpt_lab.train.begin_from import continuation, model_from
from gpt_lab.train.learner import Learner
from gpt_lab.train.parallel.process_group import Joined
from gpt_lab.train.resolve_auto import resolve


def follow(cfg: RunConfig, ranks: Joined) -> None:
    """Follows the first rank until it ends.

    Raises:
        LabError: this rank is not as the first one is, or another one has ended.
    """
    learner: Learner | None = None
    while True:
        name, arguments = ranks.heard()
        if name == "end":
            return
        if learner is None:
            (resolved,) = arguments
            learner = _built(cfg, ranks, resolved)
        else:
            getattr(learner, name)(*arguments)


def _built(cfg: RunConfig, ranks: Joined, resolved: dict[str, str]) -> Learner:
    """What learns here; `resolved` is what `auto` became at the first rank."""
    dataset = open_dataset(cfg)
    plan = resolve(cfg, dataset)
    if plan.resolved != resolved:
        raise LabError(f"rank {ranks.rank} would train with {plan.resolved}, and rank 0 with {resolved}")
    origin = continuation.find(cfg, dataset.vocab_size) or model_from.find(cfg, dataset)
    return Learner(cfg, plan, dataset, origin, ranks=ranks)
