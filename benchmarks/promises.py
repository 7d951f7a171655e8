"""Whether whole studies keep the promises: made-up runs through the report's own code, truth known.

    uv run python benchmarks/promises.py

calibration.py asks this of the test; here are the ways in which a study can go wrong around it. Of each condition
4,000 studies; `better` are studies that call an arm better that is not, at an alpha of 5 %.

    strata      settings beside the arms and the seed: one seed is not five, three are not fifteen (compare)
    noisy       an arm 2 to 5 times as noisy as the others, beside real effects (judge)
    margin      arms at the edge of the smallest effect size of interest, noisy arms beside them (judge)
    planned     the power of what the plan promises, for `better` and for `equivalent` (judge)
    skewed      an arm with occasional bad runs: `better`, and how many of these are confirmed (judge)
    asked       a gate asked again after each further seed (judge, the seeds beyond the planned ones being late)
    tuned       arms with one flat curve, tuned on one seed and on three, compared on five fresh ones (tuning, judge)
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpt_lab.analysis.compare import compare
from gpt_lab.analysis.judge import judge
from gpt_lab.frame.paired_scores import NuisanceChoice, Paired
from gpt_lab.frame.study import Study
from gpt_lab.stats import decision, optimum, power_analysis
from gpt_lab.store.record import machine, packages
from gpt_lab.study.design import Design, Settings

RESULTS = Path(__file__).parent / "results"
STUDIES = 4000
Array = NDArray[np.float64]
ALPHA = 0.05


def judged(scores: Array, sesoi: float = 0.0, planned: int | None = None) -> tuple[NDArray[np.int64], list[str], Array]:
    """Claims, tiers and whether the interval holds 0, of arms (1 + arms, seeds) of which the first is the baseline."""
    arms, seeds = scores.shape
    names, pairs = tuple(Settings((("arm", i),)) for i in range(arms)), tuple(map(str, range(seeds)))
    choice = NuisanceChoice(Settings(), 1, True, np.zeros(seeds, bool), ())
    none = np.zeros(0, bool)
    paired = Paired(names, pairs, scores, dict.fromkeys(names, choice), none, none, 0)
    known = None if planned is None else pairs[:planned]
    found = judge(paired, range(1, arms), [0] * (arms - 1), Design("made"), sesoi, planned=known)
    return found.claim, list(found.tiers), np.stack([found.fit.estimate - found.half, found.fit.estimate + found.half])


def made(rng: np.random.Generator, arms: int, seeds: int, rho: float = 0.5) -> Array:
    """Scores (1 + arms, seeds) of equal arms, a pair's difference having a deviation of 1."""
    run = math.sqrt(0.5 / (1 - rho))
    common = rng.standard_normal((1, seeds)) * math.sqrt(rho)
    return np.asarray(run * (common + rng.standard_normal((arms + 1, seeds)) * math.sqrt(1 - rho)))


def share(values: list[bool]) -> float:
    return round(float(np.mean(values)), 4)


def strata(studies: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Two arms that are equal, 5 learning rates each; a seed's runs share its noise."""
    for seeds in (1, 3, 5):
        better, covered, counted = [], [], set()
        for _ in range(studies // 4):
            rows = []
            of_seed = rng.standard_normal((2, seeds))
            for arm in range(2):
                for seed in range(seeds):
                    for rate in range(5):
                        score = 2 + of_seed[arm, seed] + 0.3 * rng.standard_normal() + 0.5 * rate
                        rows.append((f"v={arm}", str(seed), f"optim.lr={rate}", score))
            runs = pd.DataFrame(rows, columns=["arm", "pair", "stratum", "score"])
            runs = runs.assign(run=[str(i) for i in range(len(runs))], state="finished", tuning="")
            row = next(
                r
                for r in compare(Study(Design("made", factors=("v",), baseline={"v": 0}), runs)).rows
                if r.n and r.tier
            )
            counted.add(row.n)
            better.append(row.verdict == "better")
            if row.delta is not None:
                covered.append(row.delta.low <= 0 <= row.delta.high)
        yield {
            "seeds": seeds,
            "rates": 5,
            "n": sorted(counted),
            "better": share(better),
            "coverage": share(covered) if covered else None,
        }


def noisy(studies: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Four arms: one far better, one far worse, one equal, one equal and noisier."""
    for seeds in (3, 5, 10):
        for ratio in (1.0, 2.0, 3.0, 5.0):
            better, covered = [], []
            for _ in range(studies):
                scores = made(rng, 4, seeds)
                scores[4] = scores[0] + (scores[4] - scores[0]) * ratio
                scores[1] -= 40.0
                scores[2] += 40.0
                claim, _, ends = judged(scores)
                better.append(bool((claim[2:] == decision.LOWER).any()))
                covered.append(bool(ends[0, 3] <= 0 <= ends[1, 3]))
            yield {"seeds": seeds, "ratio": ratio, "better": share(better), "coverage_of_the_noisy": share(covered)}


def margin(studies: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """An arm at -2 with a stated margin of 1, or none, beside arms that are equal or ten times as noisy."""
    for sesoi in (0.0, 1.0):
        for beside in (1.0, 10.0):
            words = []
            edge = []
            for _ in range(studies):
                scores = made(rng, 4, 5)
                scores[2:] = scores[0] + (scores[2:] - scores[0]) * beside
                at_edge = scores.copy()
                scores[1] -= sesoi + 3.0
                words.append(int(judged(scores, sesoi)[0][0]) == decision.LOWER)
                at_edge[1] -= sesoi
                claim = judged(at_edge, sesoi)[0][0]
                edge.append(claim in (decision.LOWER, decision.EQUIVALENT) and sesoi > 0)
            yield {
                "sesoi": sesoi,
                "noise_of_the_others": beside,
                "found": share(words),
                "false_at_the_edge": share(edge),
            }


def planned(studies: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """At the printed effect and at the printed margin, 80 % of studies must get the word."""
    for arms, seeds in ((1, 3), (1, 5), (4, 3), (4, 5), (4, 10), (9, 5)):
        for rho in (0.0, 0.9):
            sesoi, size = 0.7, power_analysis.detectable(seeds, arms=arms)
            better = []
            for _ in range(studies):
                scores = made(rng, arms, seeds, rho)
                scores[1] -= sesoi + size
                better.append(int(judged(scores, sesoi)[0][0]) == decision.LOWER)
            within = power_analysis.narrowest(seeds, arms=arms)
            equal = [
                float((judged(made(rng, arms, seeds, rho), within)[0] == decision.EQUIVALENT).mean())
                for _ in range(studies)
            ]
            yield {
                "arms": arms,
                "seeds": seeds,
                "rho": rho,
                "power_better": share(better),
                "power_equivalent": round(float(np.mean(equal)), 4),
            }


def skewed(studies: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """One arm of whose runs one in ten is bad; its mean is the baseline's, its spread 1 to 5 times as large."""
    bad = 0.1
    for seeds in (3, 5, 10):
        for ratio in (1.0, 2.0, 5.0):
            better, confirmed = [], []
            for _ in range(studies):
                base = rng.standard_normal(seeds)
                own = 0.3 * rng.standard_normal(seeds) + 3.0 * (rng.random(seeds) < bad)
                own = ratio * (own - 3 * bad) / math.sqrt(0.09 + 9 * bad * (1 - bad))
                claim, tiers, _ = judged(np.stack([base, own]))
                better.append(int(claim[0]) == decision.LOWER)
                confirmed.append(better[-1] and tiers[0] == "confirm")
            yield {"seeds": seeds, "ratio": ratio, "better": share(better), "confirmed": share(confirmed)}


def asked(studies: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """An arm that equals the baseline, asked about after 5, 6, ... 20 seeds of which 5 were planned."""
    kept, naive = [], []
    for _ in range(studies):
        scores = made(rng, 1, 20)
        answers = [judged(scores[:, :n], planned=5) for n in range(5, 21)]
        kept.append(any(int(c[0]) == decision.LOWER and t[0] == "confirm" for c, t, _ in answers))
        naive.append(any(int(judged(scores[:, :n])[0][0]) == decision.LOWER for n in range(5, 21)))
    yield {"looks": 16, "kept": share(kept), "kept_if_every_look_counted": share(naive)}


def tuned(studies: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Two arms with the same curve over the learning rate, flat (0.01 per squared octave, a run's deviation 0.02)."""
    ladder = np.array([0.001, 0.002, 0.004, 0.008, 0.016])

    def truth(rate: float) -> float:
        return 0.01 * math.log2(rate / 0.004) ** 2

    for tuning_seeds in (1, 3):
        for sesoi in (0.0, 0.01):
            false = []
            for _ in range(studies):
                chosen = []
                for _arm in range(2):
                    noise = 0.02 * rng.standard_normal((len(ladder), tuning_seeds)).mean(1)
                    curve = {float(v): truth(float(v)) + float(e) for v, e in zip(ladder, noise, strict=True)}
                    best = optimum.optimum(curve).value
                    assert best is not None
                    chosen.append(truth(best))
                scores = 0.02 * made(rng, 1, 5) + np.array(chosen)[:, None]
                false.append(int(judged(scores, sesoi)[0][0]) in (decision.LOWER, decision.HIGHER))
            yield {"tuning_seeds": tuning_seeds, "sesoi": sesoi, "any_false": share(false)}


CONDITIONS = (strata, noisy, margin, planned, skewed, asked, tuned)


def main() -> None:
    """Command line: --quick for a short run, --out for another file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 studies a condition")
    parser.add_argument("--out", type=Path, default=RESULTS / "promises.json")
    options = parser.parse_args()
    studies = 40 if options.quick else STUDIES
    found: dict[str, list[dict[str, Any]]] = {}
    for number, condition in enumerate(CONDITIONS):
        found[condition.__name__] = []
        for row in condition(studies, np.random.default_rng([7, number])):
            print(condition.__name__, ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            found[condition.__name__].append(row)
    kept = {name: version for name, version in packages().items() if name in ("python", "numpy", "scipy", "gpt_lab")}
    result = {"machine": {**machine(), "packages": kept}, "alpha": ALPHA, "studies": studies, "conditions": found}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
