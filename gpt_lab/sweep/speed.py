"""How long a run will take: from earlier runs of the same size on this machine, else from its matmul peak."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpt_lab.schema import RunConfig

if TYPE_CHECKING:
    from gpt_lab.train.plan import Plan

MFU = {"cpu": 0.45, "cuda": 0.3}
"""Share of the peak that training is assumed to reach where no run has measured it (48 % of one core, scale=tiny)."""
ALIKE = 0.1
"""Relative difference of FLOPs per token up to which two models count as equally fast."""
SPEED_KINDS = ("attention", "position", "norm", "mlp", "residual", "optim")
"""Parts by which models of one size differ in speed."""
BESIDE = 1.0
"""Seconds of a run beside training and evaluation: model, checkpoints, n-gram floors."""


class Speeds:
    """Tokens per second of runs to come.

    Args:
        cfg: any of them: where runs are kept. threads: of each run.
    """

    def __init__(self, cfg: RunConfig, threads: int) -> None:
        from gpt_lab.store import all_runs

        self.threads = threads
        self._runs = [run for run in all_runs(cfg.runs_dir) if run.state == "finished"]
        self._study = cfg.study
        self._used: dict[str, int] = {}
        self._peak: float | None = None

    @property
    def basis(self) -> str:
        """Where the numbers given so far come from."""
        return "; ".join(self._used) or "no run to estimate"

    def tokens_per_s(self, cfg: RunConfig, plan: Plan) -> float | None:
        """Training speed of a run; None where nothing tells it."""
        own = [run for run in self._runs if run.study == self._study]
        for runs, what in ((own, "runs of this study"), (self._runs, "runs of the same size")):
            rated = [(run, rate) for run in runs if (rate := self._rate(run.record, cfg, plan)) is not None]
            same = [rate for run, rate in rated if _same_parts(run.record["config"], cfg)]
            rates = same or [rate for _, rate in rated]
            if rates:
                self._use(f"measured: {what} on this machine")
                return statistics.median(rates)
        return self._from_peak(cfg, plan)

    def _rate(self, record: Mapping[str, Any], cfg: RunConfig, plan: Plan) -> float | None:
        """Tokens per second of an earlier run, if it says anything about this one."""
        from gpt_lab.store.record import machine

        hardware, resolved = record.get("hardware") or {}, record.get("resolved") or {}
        config, flops = record.get("config") or {}, record.get("train_flops_per_token")
        rate = (record.get("summary") or {}).get("perf/tokens_per_s")
        if not isinstance(rate, int | float) or rate <= 0:
            return None
        alike = (
            isinstance(flops, int)
            and abs(flops - plan.cost.train_flops_per_token) <= ALIKE * plan.cost.train_flops_per_token
            and all(resolved.get(key) == plan.resolved[key] for key in ("device", "precision", "compile"))
            and config.get("scale.depth") == cfg.scale.depth
            and config.get("scale.context") == cfg.scale.context
            and hardware.get("cpu") == machine()["cpu"]
            and (plan.device == "cuda" or hardware.get("threads") == self.threads)
        )
        return float(rate) if alike else None

    def _from_peak(self, cfg: RunConfig, plan: Plan) -> float | None:
        import torch

        from gpt_lab.train.peak import peak_flops
        from gpt_lab.train.plan import LAUNCH_SECONDS

        before = torch.get_num_threads()
        try:
            if plan.device == "cpu":
                torch.set_num_threads(self.threads)
            peak = peak_flops(plan.device, plan.precision.name)
        finally:
            torch.set_num_threads(before)
        if peak is None:
            self._use("the peak of this GPU is not known, and no run has measured it")
            return None
        mfu = MFU[plan.device]
        self._use(f"assumed: {mfu:.0%} of this machine's matmul peak of {peak / 1e9:,.0f} GFLOP/s")
        tokens = cfg.rows * cfg.scale.context
        step = tokens * plan.cost.mfu_flops_per_token / (mfu * peak)
        return tokens / (max(step, LAUNCH_SECONDS * cfg.scale.depth) if plan.device == "cuda" else step)

    def _use(self, what: str) -> None:
        self._used[what] = self._used.get(what, 0) + 1


def _same_parts(config: Mapping[str, Any], cfg: RunConfig) -> bool:
    """Whether a run's flat settings choose the same parts."""
    return all(config.get(f"{kind}.name") == getattr(cfg, kind)["name"] for kind in SPEED_KINDS)


def seconds(cfg: RunConfig, plan: Plan, val_tokens: int, rate: float | None) -> float | None:
    """Seconds of one run from start to end, evaluations included; None where the speed is not known."""
    if rate is None:
        return None
    steps, per_step = plan.budget.steps, cfg.rows * cfg.scale.context
    if plan.budget.seconds is not None:
        training = plan.budget.seconds
        steps = int(training * rate // per_step)
    else:
        assert steps is not None
        training = steps * per_step / rate
    between = min(cfg.eval.tokens or val_tokens, val_tokens)
    evaluated = steps // cfg.eval.every * between + (val_tokens if cfg.eval.tokens is not None else 0)
    if plan.longer:
        evaluated += val_tokens * (1 + len(plan.longer))  # and once more in windows of one context
    return training + evaluated / (3 * rate) + BESIDE  # a forward pass is a third of a training step


def shown(value: float) -> str:
    """A duration: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = max(1, round(value))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
