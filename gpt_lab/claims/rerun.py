"""Reproduction of a claim's cell: runs it again in a store of its own and compares the scores.

On a CPU a run is the same bit for bit wherever code, CPU model, threads and torch are the same, so there any difference
is one. Elsewhere (another CPU or code version, a GPU) rounding differs, and small differences grow over training up to
those between seeds: there a difference of up to NOISE standard deviations of a run over seeds is noise.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from gpt_lab.claims import code
from gpt_lab.claims.folder import Claim
from gpt_lab.config import checked
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError, DataError
from gpt_lab.store import record

if TYPE_CHECKING:
    from gpt_lab.data.base import Dataset
    from gpt_lab.train.resolve_auto import ResolvedRun

NOISE = 2.0
"""In standard deviations of a run. Two runs that share nothing differ by less in 84 of 100 cases, two that correlate by
1/2, as those of one seed do at least, in 95."""
Reproduction = Literal["identical", "within noise", "different"]


@dataclass(frozen=True)
class RerunOutcome:
    """What became of one cell.

    Fields:
        score: of the new run; None if it was not run, or has none.
        tolerance: largest difference that counts as none. basis: where it comes from.
        unequal: facts in which the runs are not the same, beside the score; any of them makes the cell different.
    """

    word: Reproduction
    claimed: float
    score: float | None
    tolerance: float
    basis: str
    unequal: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        return self.word != "different"


class Interrupted(Exception):
    """A signal ended the new run."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Prepared:
    """A cell that is ready to be run: its config, what it will be on this machine, and what it is held to.

    Args:
        runs_dir: where the new run goes, into the study `study`.
        tolerance: the user's; None: 0 or noise, as the module says.

    Raises:
        ConfigError: its config is not the one that was claimed or cannot be run here; no tolerance is known.
        DataError: its data cannot be read.
    """

    def __init__(
        self, claim: Claim, cell: Mapping[str, Any], runs_dir: Path, study: str, tolerance: float | None
    ) -> None:
        from gpt_lab.data.dataset import open_dataset
        from gpt_lab.train.resolve_auto import resolve

        self.claim, self.cell = claim, cell
        self.metric = str(claim.design["metric"])
        self.environment = claim.content["environment"]["runs"][cell["environment"]]
        self.cfg = _config(claim, cell, runs_dir, study)
        dataset = open_dataset(self.cfg)
        self.plan: ResolvedRun = resolve(self.cfg, dataset)
        self.unequal = tuple(self._planned(dataset))
        self.tolerance, self.basis = self._held_to(tolerance)

    def _planned(self, dataset: Dataset) -> Iterator[str]:
        """Facts that are known before anything is trained and are not those of the claim."""
        cell, plan = self.cell, self.plan
        if cell["data"] is not None and cell["data"] != plan.fingerprint:
            yield f"the data are others: fingerprint {plan.fingerprint}, claimed {cell['data']}"
        yield from _numbers("parameters", plan.cost.parameters, cell["parameters"])
        yield from _numbers("parameters beside embeddings", plan.cost.non_embedding, cell["parameters_non_embedding"])
        if plan.budget.steps is not None:
            yield from _numbers("tokens", dataset.tokens_after(plan.budget.steps), cell["tokens"])

    def _held_to(self, stated: float | None) -> tuple[float, str]:
        if stated is not None:
            return stated, "as asked for"
        reasons = list(self._other())
        if not reasons:
            return 0.0, "same code, CPU, threads and torch: equal to the last bit"
        sd = self.claim.content["run_sd"]
        if sd is None:
            raise ConfigError(
                f"equal bits cannot be expected ({reasons[0]}), and with one run an arm the claim knows no noise: "
                "say with --tolerance X which difference counts as none"
            )
        return NOISE * float(sd), f"{NOISE:g} sd of a run, as {reasons[0]}"

    def _other(self) -> Iterator[str]:
        """Why equal bits cannot be expected, the weightiest reason first."""
        env, now = self.environment, self.plan.resolved
        if self.metric.startswith("perf/"):
            yield f"{self.metric} is measured by the clock"
        if self.cfg.budget.seconds is not None:
            yield "the budget is in seconds"
        for key in ("device", "precision", "kernel", "compile"):
            if env.get(key) != now[key]:
                yield f"{key} is {now[key]}, and was {env.get(key)}"
        if env.get("loss") != now.get("loss"):
            yield f"the loss is {now.get('loss', 'whole')}, and was {env.get('loss') or 'whole'}"
        if now["device"] != "cpu":
            yield "a GPU does not repeat sums in one order"
        machine = record.machine()["cpu"]
        if env.get("cpu") != machine:
            yield f"the CPU is {machine}, and was {env.get('cpu')}"
        if env.get("threads") is None:
            yield "the number of threads is not known"
        torch_now, torch_then = record.packages().get("torch"), versions(env).get("torch")
        if torch_now != torch_then:
            yield f"torch is {torch_now}, and was {torch_then}"
        same, sentence = self.code()
        if not same:
            yield sentence

    def code(self) -> tuple[bool, str]:
        """Whether the run was surely made by this code, and what to say of it."""
        then = code.Version(self.environment.get("commit"), self.environment.get("dirty"))
        return code.compare(then, code.of_this_checkout())

    def run(self, console: Console) -> RerunOutcome:
        """Trains, and compares. Nothing is trained if the data, the model or the budget are others than claimed.

        Raises:
            Interrupted: a signal came. LabError: it cannot be trained here.
        """
        claimed = self.cell["score"]
        if self.unequal:
            return RerunOutcome("different", claimed, None, self.tolerance, self.basis, self.unequal)
        from gpt_lab.train.start import run_training

        with _threads(self.environment.get("threads")):
            result = run_training(self.cfg, console, shlex.join(["train", *(self.cell["overrides"] or ())]))
        if result.signal_number is not None:
            raise Interrupted(result.signal_number)
        unequal = []
        if result.state != "finished":
            unequal.append(f"the new run {result.state} at step {result.summary.get('diverged/step', '?')}")
        elif self.cfg.budget.seconds is None:
            unequal += _numbers("tokens", result.summary.get("tokens"), self.cell["tokens"])
        score = result.summary.get(self.metric) if result.state == "finished" else None
        if not unequal and score is None:
            unequal.append(f"the new run has no {self.metric}")
        return judge(claimed, score, self.tolerance, self.basis, tuple(unequal))


def judge(
    claimed: float, score: float | None, tolerance: float, basis: str, unequal: tuple[str, ...] = ()
) -> RerunOutcome:
    """The outcome of a run that has ended with this score."""
    word: Reproduction = "different"
    if not unequal and score is not None and math.isfinite(score):
        if score == claimed:
            word = "identical"
        elif abs(score - claimed) <= tolerance:
            word = "within noise"
    return RerunOutcome(word, claimed, score, tolerance, basis, unequal)


def versions(environment: Mapping[str, Any]) -> dict[str, str]:
    """Packages of a run: `python 3.11.7, torch 2.11.0` as a mapping."""
    parts = str(environment.get("packages") or "").split(", ")
    return dict(part.rsplit(" ", 1) for part in parts if " " in part)


def _config(claim: Claim, cell: Mapping[str, Any], runs_dir: Path, study: str) -> RunConfig:
    import yaml

    path = claim.folder / str(cell["config"])
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    own = {"runs_dir": str(runs_dir), "study": study, "tracker": {"name": "none"}, "force": False}
    own |= {"parallel": {"name": "none"}, "gpus_per_trial": 1}
    try:
        cfg = checked.from_dict({**tree, **own})
    except ConfigError as error:
        raise ConfigError(f"{path} is no config of this code: {error}") from None
    if cfg.identity() != cell["identity"]:
        raise ConfigError(
            f"{path} means another run to this code ({cfg.identity()}) than when it ran ({cell['identity']}): its "
            f"settings have changed since; check out {claim.content['code']['commit'] or 'the code of the claim'}"
        )
    return cfg


def _numbers(what: str, new: Any, claimed: float | None) -> Iterator[str]:
    """A sentence if two counts are known and not equal."""
    if claimed is not None and new != claimed:
        yield f"{new:,} {what}, claimed {claimed:,.0f}" if new is not None else f"{what} not known"


@contextmanager
def _threads(number: Any) -> Iterator[None]:
    """As many threads as the run had: sums depend on it."""
    import torch

    before = torch.get_num_threads()
    try:
        if isinstance(number, int) and number > 0:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
