"""Cost table of a sweep: each arm, and all of them."""

from __future__ import annotations

from dataclasses import dataclass

from gpt_lab.study.design import Settings

FP32 = 4.0
"""Bytes of a number."""


@dataclass(frozen=True)
class ArmPlan:
    """One arm: what each of its runs costs.

    Fields:
        runs, done: cells of the arm, and those that the ledger says are over.
        tunings: combinations of nuisance values that each pair tries.
        pairs: values of the pairing setting.
        tokens, flops: of the training of one run; None under a budget in seconds.
        seconds: of one run, evaluations included; None where nothing tells how fast it will be.
        matched: the sizes that `match` gave it, in words; empty for an arm that is not matched.
        baseline: the arm that it is compared with.
        state: bytes that the optimizer keeps for a parameter, on average; None: it does not say.
        weights: bytes of a parameter between steps, on average.
    """

    arm: Settings
    runs: int
    done: int
    tunings: int
    pairs: int
    parameters: int
    non_embedding: int
    flops_per_token: int
    tokens: float | None
    flops: float | None
    seconds: float | None
    matched: str = ""
    baseline: Settings | None = None
    state: float | None = None
    weights: float = FP32


@dataclass(frozen=True)
class SweepCost:
    """A sweep's cost.

    Fields:
        seconds: of all that is left, with `jobs` at a time; None where an arm's is not known.
        basis: where the speed comes from, in words.
        matched: what the arms are matched to, in words.
    """

    arms: tuple[ArmPlan, ...]
    jobs: int
    seconds: float | None
    basis: str
    warnings: tuple[str, ...]
    matched: tuple[str, ...] = ()
