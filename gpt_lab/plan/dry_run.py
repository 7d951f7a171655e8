"""The dry run: cost and detectable effects of a sweep, and whether its cells can be built."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from gpt_lab.cost import memory
from gpt_lab.noise import null_pairs
from gpt_lab.plan import expected_runs, matched_sizes, run_time, sample_size, tuning_cost
from gpt_lab.plan.cost_table import FP32, ArmPlan, SweepCost
from gpt_lab.plan.paces import Machine
from gpt_lab.stats import two_level
from gpt_lab.stats.tiers import FEWEST
from gpt_lab.study import cells as cells_
from gpt_lab.study.build import Builder
from gpt_lab.study.design import Cell, Settings
from gpt_lab.study.format import trunk_block
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep.ledger import ledger
from gpt_lab.sweep.search import trunk
from gpt_lab.sweep.search import tuner as tuner_
from gpt_lab.validity.beforehand import beforehand
from gpt_lab.validity.planned import Side

if TYPE_CHECKING:
    pass


def estimate(
    sweep: Sweep,
    cells: Sequence[Cell],
    jobs: int,
    threads: int,
    builder: Builder | None = None,
    trunks: trunk.Trunks | None = None,
    gpus: Sequence[str] = (),
) -> SweepCost:
    """The cost of the cells, each arm's told from its first one. Imports torch; builds shards that are missing.

    Args:
        jobs, threads, gpus: trials at a time, CPU threads of each, and the GPUs that they share.
        trunks: what the cells share; None: each is trained from the start.

    Raises:
        ConfigError, DataError: as Builder.check.
    """
    from gpt_lab.study.place import runs_folder

    builder = builder or Builder()
    ended = [e for e in ledger.entries(runs_folder(sweep)) if e.state in ("finished", "diverged", "pruned")]
    over = {e.key for e in ended}
    by_arm: dict[Settings, list[Cell]] = {}
    for cell in cells:
        by_arm.setdefault(cell.arm, []).append(cell)
    firsts = [group[0] for group in by_arm.values()]
    configs = cells_.configs(firsts)
    plans = [builder.plan(cfg, cell) for cfg, cell in zip(configs, firsts, strict=True)]
    jobs = jobs if gpus else memory.at_once(configs, memory.free(), jobs)
    machine = Machine(min(jobs, max(len(cells), 1)), threads, tuple(gpus))
    took = run_time.times(configs, plans, [builder.dataset(cfg).val_tokens for cfg in configs], machine)
    arms = []
    for (arm, group), cfg, made, seconds in zip(by_arm.items(), configs, plans, took.runs, strict=True):
        steps = made.budget.steps
        dataset = builder.dataset(cfg)
        tokens = None if steps is None else float(dataset.tokens_after(steps))
        arms.append(
            ArmPlan(
                arm=arm,
                runs=len(group),
                done=sum(cell.key in over for cell in group)
                if sweep.listed
                else sum(e.wanted and sweep.design.arm(e.values) == arm for e in ended),
                tunings=len({cell.tuning for cell in group}),
                pairs=len({str(cell.pair) for cell in group if not sweep.design.tunes(cell.pair)}),
                parameters=made.cost.parameters,
                non_embedding=made.cost.non_embedding,
                flops_per_token=made.cost.train_flops_per_token,
                tokens=tokens,
                flops=None if steps is None else made.flops(dataset.read_after(steps)),
                seconds=seconds,
                matched=matched_sizes.sizes(sweep, cfg, group[0]),
                baseline=sweep.design.reference(group[0].values),
                state=None if made.state_bytes is None else made.state_bytes / made.cost.parameters,
                weights=made.weight_bytes / made.cost.parameters,
            )
        )
    shares = {cell.key: trunks.share(cell.key) if trunks else 1.0 for cell in cells if cell.key not in over}
    parts = {
        arm.arm: [shares[cell.key] for cell in by_arm[arm.arm] if cell.key in shares]
        if sweep.listed
        else [1.0] * max(arm.runs - arm.done, 0)
        for arm in arms
    }
    whole = run_time.sweep_seconds([(arm.seconds, parts[arm.arm]) for arm in arms], jobs, took.start)
    sides = [
        Side(arm.arm, group, cfg, made.fingerprint, arm.parameters, arm.tokens, arm.flops, made.text)
        for arm, group, cfg, made in zip(arms, by_arm.values(), configs, plans, strict=True)
    ]
    notes = dict.fromkeys((*(note for made in plans for note in made.notes), *builder.warnings))
    said = (*warnings(sweep, arms, sides), *notes)
    return SweepCost(tuple(arms), jobs, whole, took.basis, said, tuple(matched_sizes.lines(sweep, configs)))


def warnings(sweep: Sweep, arms: Sequence[ArmPlan], sides: Sequence[Side]) -> list[str]:
    """What will weaken or forbid a verdict, known beforehand.

    Args:
        sides: the arms as `lint` wants them.
    """
    design = sweep.design
    place = {arm.arm: i for i, arm in enumerate(arms)}
    against = [0 if arm.baseline is None else place.get(arm.baseline, 0) for arm in arms]
    found = []
    if design.baseline is None and len(arms) > 1:
        found.append("no baseline: name one in gpt_lab.baseline, or give the report --baseline")
    found += beforehand(sweep, [(side, sides[i]) for side, i in zip(sides, against, strict=True)])
    for arm, i in zip(arms, against, strict=True):
        if arm.pairs != arms[i].pairs:
            found.append(f"unequal pairs: {arm.arm} has {arm.pairs}, {arms[i].arm} {arms[i].pairs}")
    if sweep.method != "grid" and len(arms) > 1:
        found.append(f"a {sweep.method} search does not give each arm as many runs: it tunes, it does not compare")
    if sweep.method == "grid" and len(arms) > 1 and (fewest := arms[against[0]].pairs) < FEWEST:
        found.append(f"{fewest} values of {design.pair} give no verdict: {FEWEST} are the fewest")
    return found


def show(
    sweep: Sweep,
    cells: Sequence[Cell] | None,
    console: Console,
    jobs: int,
    threads: int,
    tuner: tuner_.Tuner | None = None,
    gpus: Sequence[str] = (),
) -> None:
    """Prints the dry run.

    Args:
        cells: of a grid; None: of a random sweep its draws are shown, of a bayes sweep the cells that try its ranges.
        jobs: trials at a time. threads: of each. tuner: of a sweep with `tune`. gpus: that the trials share.

    Raises:
        ConfigError, DataError: a cell that cannot be run here.
    """
    design = sweep.design
    if cells is None:
        from gpt_lab.sweep.search import search

        cells = search.drawn(sweep) if sweep.method == "random" else search.corners(sweep)
    builder = Builder()
    configs = cells_.configs(cells)
    builder.check(cells, configs)
    trunks = trunk.Trunks()
    if trunk_block.possible(sweep):
        trunks = trunk.find(cells, configs, trunk.lengths(cells, configs, builder))
    if sweep.trunk:
        trunk.required(sweep, trunks)
    plan = estimate(sweep, cells, jobs, threads, builder, trunks if sweep.trunk else None, gpus)
    said: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
    if design.question:
        console.print(design.question, **said)
    console.print(table(sweep, plan))
    stated = () if design.factorial is None else (two_level.describe(design.factorial, design.factors),)
    powers = effects(sweep, plan, sample_size.spread(sweep, builder))
    counted = totals(sweep, plan) if tuner is None else tuning_cost.lines(sweep, tuner, plan)
    for line in (*plan.matched, *states(plan), *counted, *trunk.lines(sweep, trunks), *stated, *powers):
        console.print(line, **said)
    for line in plan.warnings:
        console.print(f"warning: {line}", style="yellow", **said)


def table(sweep: Sweep, plan: SweepCost) -> Table:
    """One row for each arm."""
    made = Table(title=f"{sweep.design.study} ({sweep.method})", title_justify="left")
    headings = ("runs", "done", "time per run", "parameters", "non-embedding", "FLOPs/token", "FLOPs in all")
    made.add_column("arm", overflow="fold")
    for heading in headings:
        made.add_column(heading, justify="right")
    matched = any(arm.matched for arm in plan.arms)
    if matched:
        made.add_column("matched by", overflow="fold")
    for arm in plan.arms:
        name = (str(arm.arm) or "all") + (" (baseline)" if arm.arm == arm.baseline else "")
        made.add_row(
            name,
            f"{arm.runs}",
            f"{arm.done}",
            "-" if arm.seconds is None else run_time.shown(arm.seconds),
            f"{arm.parameters:,}",
            f"{arm.non_embedding:,}",
            f"{arm.flops_per_token:.3g}",
            "-" if arm.flops is None else f"{arm.flops * arm.runs:.3g}",
            *([arm.matched or "-"] if matched else []),
        )
    return made


def states(plan: SweepCost) -> list[str]:
    """What weights that are not all fp32 and the optimizers keep, in bytes a parameter: one number, or each arm's."""
    few = any(arm.weights != FP32 for arm in plan.arms)
    weights = {arm.arm: f"{arm.weights:.3g}" for arm in plan.arms if few}
    known = {arm.arm: f"{arm.state:.3g}" for arm in plan.arms if arm.state is not None}
    found = []
    for what, sizes in (("weights", weights), ("optimizer state", known)):
        if len(set(sizes.values())) == 1:
            found.append(f"{what}: {next(iter(sizes.values()))} bytes a parameter")
        elif sizes:
            found.append(f"{what}, bytes a parameter: " + ", ".join(f"{arm}: {size}" for arm, size in sizes.items()))
    return found


def totals(sweep: Sweep, plan: SweepCost) -> list[str]:
    """How many trials, how long, and how that is known."""
    done = sum(arm.done for arm in plan.arms)
    most = "" if sweep.design.looks is None else "at most "
    if sweep.method == "bayes":
        lines = [f"{sweep.run_cap} trials, chosen one after the other; the table shows the cells that try its ranges"]
        each = [arm.seconds for arm in plan.arms if arm.seconds is not None]
        whole = statistics.fmean(each) * (sweep.run_cap or 0) / plan.jobs if each else None
    else:
        runs = sum(arm.runs for arm in plan.arms)
        shape = {(arm.pairs, arm.tunings) for arm in plan.arms}
        text = f"{most}{runs} trials"
        if len(shape) == 1 and sweep.method == "grid":
            ((pairs, tunings),) = shape
            tuned = f" x {tunings} tuning settings" if tunings > 1 else ""
            text += f": {len(plan.arms)} arms{tuned} x {pairs} values of {sweep.design.pair}"
        lines, whole = [text + (f"; {done} are done" if done else "")], plan.seconds
    if whole is None:
        lines.append(f"time: not known ({plan.basis})")
    else:
        lines.append(f"{most}about {run_time.shown(whole)} with {plan.jobs} at a time ({plan.basis})")
    return lines


def effects(sweep: Sweep, plan: SweepCost, noise: sample_size.Spread | None = None) -> list[str]:
    """What the design can say with a power of 80 %, and the seeds that differences need.

    Args:
        noise: of a pair's difference; None: not known.
    """
    design = sweep.design
    pairs = min(arm.pairs for arm in plan.arms)
    if sweep.method != "grid" or len(plan.arms) < 2:
        return []
    family = max(len(plan.arms) - len({arm.baseline for arm in plan.arms}), 1)
    if design.looks is not None:
        return expected_runs.lines(design, noise)
    found = sample_size.lines(design, pairs, family, noise)
    if found and noise is None and design.pair == null_pairs.PAIR and design.baseline is not None:
        way = null_pairs.again(str(sweep.path), sweep.overrides)
        found.append(f"the noise of the baseline is not known here: `{way}` measures it")
    return found
