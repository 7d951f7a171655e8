"""The trainer: load, step, log, validate, save; resume where a run was left."""

from __future__ import annotations

import math
import signal
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from rich.console import Console

from gpt_lab import registry, trackers
from gpt_lab.config.schema import RunConfig
from gpt_lab.console import signals
from gpt_lab.console.signals import Signals
from gpt_lab.data.base import Dataset
from gpt_lab.devices import hardware
from gpt_lab.model.gpt import GPT
from gpt_lab.optim.schedule import decay_factor
from gpt_lab.store import Run, fork
from gpt_lab.train import checkpoint, ending, run_display
from gpt_lab.train.begin_from import continuation
from gpt_lab.train.budget import Clock
from gpt_lab.train.claim_run import shared
from gpt_lab.train.ending import Result
from gpt_lab.train.learner import Learner
from gpt_lab.train.loss_history import Diverged, History
from gpt_lab.train.parallel.ranks import ALONE, Ranks
from gpt_lab.train.probe import light_probe
from gpt_lab.train.resolve_auto import ResolvedRun
from gpt_lab.train.speed.peak_flops import mfu, peak_flops
from gpt_lab.train.state import Stopped, TrainingState
from gpt_lab.train.task_scores import scores
from gpt_lab.train.validation.sample import save_tokenizer

READ_AT_LEAST_EVERY = 100
"""Steps between two looks at the losses where the log is rarer, so that divergence is seen in time."""


class Trainer:
    """A run in this process, which holds the run's lock."""

    def __init__(
        self,
        cfg: RunConfig,
        plan: ResolvedRun,
        dataset: Dataset,
        run: Run,
        console: Console,
        asked: Signals,
        command: str = "",
        forks: Collection[int] = (),
        origin: continuation.Origin | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.cfg, self.plan, self.dataset, self.run = cfg, plan, dataset, run
        self.asked, self.command, self.forks, self.origin = asked, command, frozenset(forks), origin
        self.ranks = ranks
        self.view = run_display.RunDisplay(console, plan.budget, cfg.eval.every)
        self.tracker = trackers.build_tracker(cfg.tracker, run, cfg)
        self.checkpoints = checkpoint.Checkpoints(
            run.checkpoints, cfg.checkpoint.every or cfg.eval.every, cfg.checkpoint.keep
        )
        self.state = TrainingState()
        self.clock = Clock()
        self.history = History(overflow_allowed=plan.precision.scaler is not None)
        self.multiplier = 0.0
        with self.failures():
            self.schedule = registry.build("schedule", cfg.schedule)
            self.learner = Learner(cfg, plan, dataset, origin, lambda: asked.caught, ranks)
            self.stepper = self.learner.stepper
            self.stepper.probe = light_probe.build(cfg.probe, run, self.learner.parts, cfg.eval.every)
            self.peak = None if plan.device == "cpu" else self.peak_of(plan.device)

    def run_to_end(self) -> Result:
        """Resumes, trains, validates; leaves the run folder in a final state whatever happens."""
        with self.failures():
            try:
                self.resume()
                self.view.start(self.state.step, self.clock.seconds)
                self.measure_origin()
                self.train()
                return self.conclude()
            except Stopped as stop:
                return self.leave(stop.number)
            except Diverged as divergence:
                return self.report(divergence)

    def resume(self) -> None:
        """Continues from the newest whole checkpoint, or begins; says what was damaged."""
        damaged: list[str] = []
        found = self.checkpoints.resume(self.learner, damaged)
        self.state = found or self.state
        self.view.say(
            run_display.opening(self.run.path, found.step if found else None, self.plan.resolved.values(), damaged)
        )
        if found is not None:
            self.run.update(resumed=True)  # from its start to its end is not how long it took
        if (self.run.record.get("forked") or {}).get("step", 0) > self.state.step:  # what its trunk gave is damaged
            self.run.update(forked=None)
        self.checkpoints.clean(self.state.step, self.state.best_step)
        if said := self.run.truncate_after(self.state.step):
            self.view.say(said)
        if self.run.metrics():  # of an earlier process or of a trunk: the mirror may lack some of it
            self.tracker.resume()
        self.run.update(state="running", finished=None, error=None, prompt=self.prompt, **self.shared_among())
        hardware.reset_peak(self.plan.device)
        self.history.losses, self.history.norms = self.state.losses, self.state.norms
        self.clock = Clock(self.state.seconds)
        self._marked = (self.state.step, self.state.seconds)
        if self.plan.compile and not self.finished:
            self.tracker.start()
            self.view.say("compiling (compile=off trains without)")
            with signals.blocked():  # the compiler's processes
                self.learner.warm_up({self.state.step, *self.dataset.first_steps()})

    def measure_origin(self) -> None:
        """Notes in the record what the origin's weights do here before the first step, at every context asked for.

        Raises:
            Stopped: a signal came.
        """
        if self.origin is None or self.state.step or "before" in self.run.record["continues"]:
            return
        values = self.whole() | self.evaluate_longer()
        self.run.update(continues=self.run.record["continues"] | {"before": values})
        said = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if name.startswith("val/loss"))
        self.view.say(f"weights of {self.origin.told['run']}, before the first step: {said}")

    def evaluate_longer(self) -> dict[str, float]:
        """Metrics of the final weights in windows of each further multiple of the context, and in few bits.

        Raises:
            Stopped: a signal came.
        """
        longer = self.learner.evaluate_longer()
        rounded = self.learner.evaluate_quantized()
        if rounded is None:
            raise Stopped(self.asked.caught or signal.SIGTERM)
        return longer | rounded

    def whole(self) -> dict[str, float]:
        """Metrics on the whole validation split.

        Raises:
            Stopped: a signal came.
        """
        values = self.evaluate(None)
        if values is None:
            raise Stopped(self.asked.caught or signal.SIGTERM)
        return values

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.plan.budget.spent(self.state.step, self.clock.seconds)

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens now."""
        return self.state.step > 0 and self.state.step % every == 0

    def train(self) -> None:
        """Steps until the budget is spent.

        Raises:
            Stopped: a signal came. Diverged: a loss or a gradient norm is not finite.
        """
        cfg, state = self.cfg, self.state
        if self.due(cfg.eval.every) and state.validated < state.step:  # a signal cut that evaluation short
            self.validate()
            if state.best_step == state.step:
                self.save()
        self.leave_fork()  # a process may have been killed between a checkpoint and its fork point
        self.clock.start()
        while not self.finished:
            if self.asked.caught is not None:
                raise Stopped(self.asked.caught)
            self.step()
            self.tracker.start()  # not before: importing its client would hold up the first step by 1 s
            if self.due(cfg.log.every):
                self.log()
            if self.due(cfg.eval.every):
                self.validate()
            if self.due(self.checkpoints.every) or state.step in {state.best_step, *self.forks}:
                self.save()
            self.leave_fork()

    def step(self) -> None:
        """One optimizer step; does not wait for the device."""
        state = self.state
        progress = self.plan.budget.progress(state.step, self.clock.seconds)
        self.multiplier = self.stepper.rate(self.schedule(progress, state.step))
        decay = decay_factor(self.cfg.schedule.get("weight_decay", "constant"), progress, self.multiplier)
        outcome, targets = self.learner.step(state.step, self.multiplier, decay, progress)
        self.history.add(state.step, outcome, targets)
        state.step += 1
        if len(self.history) >= READ_AT_LEAST_EVERY:
            self.history.settle()

    def log(self) -> None:
        """Writes the means since the last log line."""
        self.history.settle()
        step, seconds = self.state.step, self.clock.seconds
        before, since = self._marked
        rate = (self.tokens - self.dataset.tokens_after(before)) / max(seconds - since, 1e-9)
        self._marked = (step, seconds)
        values = self.history.means() | {
            "train/lr": self.learning_rate,
            "train/weight_decay": self.stepper.weight_decay,
            "train/batch_tokens": self.tokens - self.dataset.tokens_after(step - 1),
            "perf/tokens_per_s": rate,
            **self.shares(rate),
        }
        share = mfu(rate, self.plan.mfu_flops_per_token(self.dataset, before, step), self.peak)
        values |= self.model.measures() | ({} if share is None else {"perf/mfu": share})
        self.write(values)
        self.view.log(step, seconds, values)

    def validate(self) -> None:
        """Evaluates on the fixed part of the validation split and draws a sample. The clock stands still."""
        self.history.settle()
        with self.clock.paused():
            values = self.evaluate(self.cfg.eval.tokens)
            if values is None:
                return
            state = self.state
            state.validated, state.validation = state.step, values
            self.consider(values["val/loss"])
            self.write(values)
            self.stepper.note(state.step)
            self.view.validated(state.step, self.clock.seconds, values)
            self.draw_sample()

    def save(self) -> None:
        """Writes a checkpoint of this step; it becomes `last`, and `best` if its val/loss is the lowest so far."""
        self.history.settle()
        with self.clock.paused():
            state = self.state
            state.seconds, state.losses, state.norms = self.clock.seconds, self.history.losses, self.history.norms
            self.run.sync()
            save_tokenizer(self.dataset.tokenizer, self.run.path / "tokenizer", self.dataset.template)
            kept = {**asdict(state), "tokens": self.tokens}
            self.checkpoints.save(self.learner, kept, best=state.best_step == state.step)

    def leave_fork(self) -> None:
        """Keeps the run as it is, for those with another budget that go on from this step."""
        if self.state.step in self.forks:
            with self.clock.paused():
                facts = {"run": self.run.name, "id": self.run.record.get("id")}
                fork.write_fork_point(
                    self.run.path, self.state.step, {**facts, "shared": shared(self.cfg, self.plan, self.run.record)}
                )

    def conclude(self) -> Result:
        """Saves the final weights, validates them on the whole split, and reports."""
        self.clock.pause()
        self.tracker.start()
        state, limit = self.state, self.cfg.eval.tokens
        if self.history.losses or len(self.history):
            self.log()
        self.save()
        values = state.validation
        if limit is not None or state.validated < state.step:
            values = self.whole()
            if limit is None:
                self.consider(values["val/loss"])
                if state.best_step == state.step:
                    self.checkpoints.point("best", self.run.checkpoints / f"step-{state.step}")
            self.write(values)
            if state.validated < state.step:
                self.draw_sample()
        if longer := self.evaluate_longer() | scores(self.run, self.cfg, self.plan.device):
            self.write(longer)
        self.view.stop()
        summary = self.spent | values | longer | ending.floors(self.dataset) | ending.packed(self.dataset)
        summary["val/targets"] = self.dataset.val_tokens - 1
        peak = self.peak if self.plan.device != "cpu" else self.peak_of("cpu")  # takes memory
        share = mfu(summary["perf/tokens_per_s"], self.plan.mfu_flops_per_token(self.dataset, 0, state.step), peak)
        if share is not None:
            summary["perf/mfu"] = share
        return self.end("finished", summary)

    def leave(self, number: int) -> Result:
        """Ends after a signal: a checkpoint, so that the same command resumes here."""
        self.clock.pause()
        step = self.state.step
        try:
            if step > 0:
                self.save()
        except Diverged as divergence:
            return self.report(divergence)
        self.view.stop()
        when = f"at step {step}, whose checkpoint is kept" if step > 0 else "before the first step"
        line = f"stopped by {signals.name(number)} {when}: the same command resumes from here"
        cut = self.finished or (self.due(self.cfg.eval.every) and self.state.validated < self.state.step)
        open_step = self.state.step if cut else None  # a resume will validate here, in the same row
        return self.end("stopped", self.spent | self.state.validation, line, number, open_step)

    def report(self, divergence: Diverged) -> Result:
        """Ends a run whose numbers are no longer finite; keeps the batch where that began."""
        self.clock.pause()
        self.view.stop()
        path = self.run.path / "diverged" / f"step-{divergence.step + 1}.safetensors"
        batch = self.dataset.batch(divergence.step)._asdict()
        checkpoint.save_tensors(path, {name: tensor for name, tensor in batch.items() if tensor is not None})
        self.state.step = divergence.step + 1
        line = f"diverged: {divergence} (batch in {path}); lower optim.lr, or raise schedule.warmup"
        return self.end("diverged", self.spent | {"diverged/step": divergence.step + 1}, line)

    def failures(self) -> AbstractContextManager[None]:
        """What an error that ends the run leaves behind."""
        return ending.failures(self.run, self.cfg, self.plan, self.view, self.tracker, lambda: self.state.step)

    def end(
        self,
        state: str,
        summary: dict[str, Any],
        line: str = "",
        signal_number: int | None = None,
        open_step: int | None = None,
    ) -> Result:
        """Writes the final state and shows it: a line, or the table of a run that has finished."""
        self.run.finish(state, summary)
        if line:
            self.view.say(line)
        rows = run_display.summary_rows(summary)
        if state == "finished":
            self.tracker.table("summary", ["metric", "value"], rows)
            told = self.dataset, self.prompt if self.model.generates else None
            ending.show(self.view.console, self.run, self.cfg, summary, rows, self.command, *told)
        self.tracker.finish(state, summary, open_step)
        self.pass_on_messages()
        return Result(self.run.path, state, summary, signal_number=signal_number)

    def shared_among(self) -> dict[str, Any]:
        """For the record of a run that several ranks have shared: how many, from which step on."""
        told = list(self.run.record.get("ranks") or ())
        now = {"parallel": self.cfg.parallel["name"], "number": self.ranks.number}
        if not told and self.ranks.number == 1:
            return {}
        return {"ranks": [*(one for one in told if one["from"] < self.state.step), {"from": self.state.step, **now}]}

    # -- smaller things that the story above uses --
    @property
    def model(self) -> GPT:
        return self.learner.model

    @property
    def prompt(self) -> str:
        """What samples continue: the prompt that was given, else the corpus's own."""
        given = self.cfg.sample.prompt
        return self.dataset.opening if given is None else given

    @property
    def tokens(self) -> int:
        return self.dataset.tokens_after(self.state.step)

    @property
    def flops(self) -> float:
        return self.plan.flops(self.dataset.read_after(self.state.step))

    @property
    def spent(self) -> dict[str, Any]:
        """What is known of the run without evaluating it again."""
        found = ending.spent(self.state, self.tokens, self.flops, self.clock.seconds, self.plan)
        return found | self.shares(found["perf/tokens_per_s"])

    def shares(self, rate: float) -> dict[str, float]:
        """Peak memory of a device, the most that one has held; of several also of all, and the tokens/s of each."""
        each = self.learner.peak_memory_gb()
        found = {"perf/peak_memory_gb": max(each)}
        if len(each) > 1:
            found |= {"perf/tokens_per_s_per_rank": rate / len(each), "perf/total_memory_gb": sum(each)}
        return found

    def peak_of(self, device: str) -> float | None:
        """Peak FLOP/s of all ranks' devices."""
        found = peak_flops(device, self.plan.precision.products)
        return None if found is None else found * self.ranks.number

    @property
    def learning_rate(self) -> float:
        """The rate of a parameter without a multiplier of its own."""
        return float(self.cfg.optim.get("lr", self.learner.optimizer.param_groups[0]["base_lr"])) * self.multiplier

    def evaluate(self, limit: int | None) -> dict[str, float] | None:
        """Metrics on the validation split; None if a signal came.

        Raises:
            Diverged: the last update broke the weights although its own loss was finite.
        """
        values = self.learner.evaluate(limit)
        if values is not None and not math.isfinite(values["val/loss"]):
            raise Diverged(self.state.step - 1, "the validation loss")
        return values

    def consider(self, loss: float) -> None:
        """Makes this step the best if its validation loss is the lowest."""
        if self.state.best is None or loss < self.state.best:
            self.state.best, self.state.best_step = loss, self.state.step

    def write(self, values: dict[str, float]) -> None:
        """To the run folder first, then to the tracker."""
        step = self.state.step
        spent = {
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": round(self.clock.seconds, 6),
        }
        self.run.log(step, values, **spent)
        self.tracker.log({**spent, **values}, step)
        self.pass_on_messages()

    def pass_on_messages(self) -> None:
        """Shows what the tracker has to say: a link, a warning."""
        for message in self.tracker.messages():
            self.view.say(message)

    def draw_sample(self) -> None:
        """Text of the model as it is now: in the run folder, the view and the tracker."""
        if self.dataset.tokenizer is None or self.cfg.sample.tokens == 0 or not self.model.generates:
            return
        text = self.learner.sample(self.prompt)
        self.run.sample(self.state.step, text)
        self.view.sample(text)
        self.tracker.text("sample", text, self.state.step)
