"""One optimizer step: forward, backward, clip, update. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from gpt_lab.errors import LabError
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.objective.base import Objective, Sequences
from gpt_lab.train.curvature.estimates import Curvature
from gpt_lab.train.feed import Micro, StepBatch
from gpt_lab.train.few_bits.kept_weights import Kept, widened
from gpt_lab.train.parallel.ranks import ALONE, Ranks
from gpt_lab.train.precision import Precision
from gpt_lab.train.probe.light_probe import LightProbe
from gpt_lab.train.speed.eager import light_step


class StepOutcome(NamedTuple):
    """What a step leaves behind, still on the device: nats summed over its targets, gradient norm before clipping."""

    nll_sum: Tensor
    grad_norm: Tensor


class Stepper:
    """Runs optimizer steps.

    Args:
        clip: largest global gradient norm; 0 clips nothing.
        compiled: whether torch.compile makes one program of forward pass and loss.
        seed: of what an optimizer's estimates draw, and the rounding of weights that are kept in few bits.
        ranks: those that share each step.

    Attributes:
        probe: looks at steps before and after their update; None: nothing does.
    """

    probe: LightProbe | None = None

    def __init__(
        self,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        precision: Precision,
        clip: float,
        compiled: bool,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.ranks = ranks
        self.optimizer = optimizer
        self.objective = objective
        self.precision = precision
        self.clip = clip
        self.parameters = ranks.parameters(model)
        # before a checkpoint is loaded, whose groups hold the values that were applied last
        self.decays: list[float] = [group.get("weight_decay", 0.0) for group in optimizer.param_groups]
        self.update = light_step(optimizer)
        self.estimator: str | None = getattr(optimizer, "estimator", None)
        # of an optimizer that takes the schedule its own way, and of one whose weights that count are averages
        self.rate: Callable[[float], float] = getattr(optimizer, "rate", lambda multiplier: multiplier)
        self.averaged: Callable[[], AbstractContextManager[None]] = getattr(optimizer, "averaged", nullcontext)
        self.curvature = Curvature(model, self.parameters, precision, seed)
        self.kept, self.seed = [part for part in model.modules() if isinstance(part, Kept)], seed
        # parts that also learn by a rule of their own, such as a router's biases, from `counts` of a step's tokens
        self.learners: list[Any] = [part for part in model.modules() if hasattr(part, "after_step")]
        # the function is compiled, not the module: parameter names stay as they are
        compute = torch.compile(self._forward, dynamic=False) if compiled else self._forward
        self.forward = ranks.forward(model, compute)

    @property
    def weight_decay(self) -> float:
        """The one applied in the last step, of parameters that are decayed."""
        return max((float(group.get("weight_decay", 0.0)) for group in self.optimizer.param_groups), default=0.0)

    def __call__(
        self, batch: StepBatch, multiplier: float, decay: float = 1.0, step: int = 0, progress: float = 1.0
    ) -> StepOutcome:
        """One step at `multiplier` times each group's base learning rate and `decay` times its weight decay.

        Args:
            step: 0-based, which says when estimates are due. progress: the share of the budget that is spent.
        """
        nll_sum = self._learn(batch, step)
        norm = self._clip()
        probe = self.probe if self.probe is not None and self.probe.due(step) else None
        if probe is not None:
            probe.before_update(batch, norm, self.clip)
        for group, weight_decay in zip(self.optimizer.param_groups, self.decays, strict=True):
            group["lr"] = group["base_lr"] * multiplier
            group["progress"] = progress
            if weight_decay:
                group["weight_decay"] = weight_decay * decay
        scaler = self.precision.scaler
        with widened(self.kept, self.seed, step):
            if scaler is None:
                self.update()
            else:
                scaler.step(self.optimizer)
                scaler.update()
            for part in self.learners:
                for name in getattr(part, "counts", ()) if self.ranks.number > 1 else ():
                    getattr(part, name).copy_(self.ranks.sum(getattr(part, name)))
                part.after_step()
        if probe is not None:
            probe.after_update()
        self._drop_gradients()
        return StepOutcome(nll_sum, norm)

    def note(self, step: int) -> None:
        """Has the probe write what it sees of the model after so many steps, if there is one."""
        if self.probe is not None:
            with self.averaged():
                self.probe.write(step)

    def warm_up(self, *batches: StepBatch) -> None:
        """Compiles before the clock runs, for the shapes of these batches; changes no parameter.

        Raises:
            LabError: the compiler fails here; the line names the way without it.
        """
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            for batch in batches:
                self._gradients(batch.micro)
        except (TorchDynamoException, InductorError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise LabError(f"torch.compile failed ({reason[:200]}): train with compile=off") from error
        self._drop_gradients()

    def _learn(self, batch: StepBatch, step: int) -> Tensor:
        """Gradients of a step, and the optimizer's estimates where they are due; returns the sum of nats."""
        optimizer: Any = self.optimizer
        if self.estimator is None or step % optimizer.every:
            return self._gradients(batch.micro)
        if self.estimator == "gnb":
            optimizer.curve(self.parameters, self.curvature.gauss_newton(batch, step))
            return self._gradients(batch.micro)
        estimates, nll_sum = self.curvature.hutchinson(batch, step, self._losses)
        optimizer.curve(self.parameters, estimates)
        return nll_sum

    def _losses(self, micro: Micro) -> tuple[Tensor, Tensor]:
        """Loss and sum of nats, as one can differentiate them twice: not compiled."""
        with self.precision.autocast():
            return self._forward(micro.tokens_BT, micro.targets_BT, micro.documents_BT, micro.keys_B)

    def _gradients(self, micros: list[Micro]) -> Tensor:
        """Accumulates the gradients of the mean over all counted targets of the step; returns the sum of nats."""
        scaler = self.precision.scaler
        total = None
        for number, micro in enumerate(micros, 1):
            with self.ranks.exchanging(last=number == len(micros)):
                with self.precision.autocast():
                    loss, nll_sum = self.forward(micro.tokens_BT, micro.targets_BT, micro.documents_BT, micro.keys_B)
                share = micro.share * self.ranks.number  # of gradients the ranks take the mean
                if share != 1.0:
                    loss = loss * share
                (loss if scaler is None else scaler.scale(loss)).backward()
            total = nll_sum if total is None else total + nll_sum
        assert total is not None
        self.ranks.settle()
        return self.ranks.sum(total)

    def _forward(
        self, tokens_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None, keys_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        loss, nats, _ = self.objective.train(self.model, Sequences(tokens_BT, targets_BT, documents_BT, keys_B))
        return loss, nats.detach()

    def _drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _clip(self) -> Tensor:
        if self.precision.scaler is not None:
            self.precision.scaler.unscale_(self.optimizer)
        norm = self.ranks.norm([p.grad for p in self.parameters if p.grad is not None])
        # a CPU need not wait for the norm, and below the limit each factor would be 1
        if self.clip > 0 and not (norm.device.type == "cpu" and norm.item() <= self.clip):
            clip_grads_with_norm_(self.parameters, self.clip, norm)
        return norm
