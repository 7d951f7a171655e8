"""One optimizer step: accumulation, clipping, rates, number formats."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import pytest
import torch

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.data.base import Batch, Dataset
from gpt_lab.data.dataset import open_dataset
from gpt_lab.model.gpt import GPT, initialize
from gpt_lab.optim.groups import groups
from gpt_lab.train import precision
from gpt_lab.train.feed import Feed
from gpt_lab.train.loss_history import Diverged, History
from gpt_lab.train.speed.eager import light_step
from gpt_lab.train.step import StepOutcome, Stepper
from tests.train.train_helpers import curve, train

Make = Callable[..., RunConfig]


class Masked:
    """A dataset whose rows count very different numbers of targets."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.context = dataset, dataset.context

    def batch(self, step: int) -> Batch:
        batch = self.dataset.batch(step)
        targets_BT = batch.targets_BT.clone()
        for row in range(len(targets_BT)):
            targets_BT[row, : 5 * row] = -100
        return batch._replace(targets_BT=targets_BT)


def build(cfg: RunConfig) -> tuple[Stepper, Feed]:
    dataset = open_dataset(cfg)
    model = GPT(cfg, dataset.vocab_size)
    initialize(model, cfg)
    recipe = registry.build("optim", cfg.optim)
    optimizer = recipe.build(groups(model, registry.build("init", cfg.init, model.shape)))
    stepper = Stepper(
        model,
        optimizer,
        registry.build("objective", cfg.objective),
        precision.resolve(cfg.precision, "cpu"),
        recipe.clip,
        compiled=False,
    )
    seed = cfg.seed if cfg.model.dropout else None
    return stepper, Feed(Masked(dataset), "cpu", cfg.batch.micro, seed)  # type: ignore[arg-type]


def gradients(cfg: RunConfig) -> tuple[dict[str, torch.Tensor], float]:
    stepper, feed = build(cfg)
    nll = stepper._gradients(feed.take(3).micro)
    return {name: p.grad.clone() for name, p in stepper.model.named_parameters() if p.grad is not None}, float(nll)


@pytest.mark.parametrize("objective", [{"name": "ce"}, {"name": "ce", "label_smoothing": 0.1, "z_loss": 0.01}])
@pytest.mark.parametrize("micro", [1, 2])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    make: Make, micro: int, objective: dict[str, float]
) -> None:
    """Rows with few targets must not count more, and dropout must not depend on the micro-batch."""
    settings = {"batch.tokens": 64, "model.dropout": 0.2, "objective": objective}
    whole, nll = gradients(make(**settings))
    parts, also_nll = gradients(make(**settings, **{"batch.micro": micro}))
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-7)
    assert math.isclose(nll, also_nll, rel_tol=1e-6)


def test_gradients_are_those_of_the_mean_over_counted_targets(make: Make) -> None:
    cfg = make(**{"batch.micro": 2})
    found, nll = gradients(cfg)
    stepper, feed = build(cfg)
    batch = feed.dataset.batch(3)
    logits_BTV = stepper.model(batch.tokens_BT)
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=-100)
    loss.backward()
    for name, parameter in stepper.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)
    counted = int((batch.targets_BT != -100).sum())
    assert math.isclose(nll / counted, loss.item(), rel_tol=1e-5)


def test_weight_decay_is_scaled_where_there_is_one(make: Make) -> None:
    """Gains have none; a checkpoint holds the values of its last step, and the next goes on from the stated ones."""
    stepper, feed = build(make(**{"optim.weight_decay": 0.4}))
    groups_ = stepper.optimizer.param_groups
    assert sorted(group["weight_decay"] for group in groups_) == [0.0, 0.4]
    for decay in (0.25, 0.5):
        before = stepper.model.embed.weight.detach().clone()  # type: ignore[union-attr]
        with torch.no_grad():  # only decay moves it: AdamW's moments of no gradient are 0
            stepper.optimizer.state.clear()
        stepper._gradients = lambda micros: torch.zeros(())  # type: ignore[method-assign]
        for parameter in stepper.parameters:
            parameter.grad = torch.zeros_like(parameter)
        stepper(feed.take(0), 0.5, decay)
        rate = groups_[0]["base_lr"] * 0.5 * 0.4 * decay
        torch.testing.assert_close(stepper.model.embed.weight, before * (1 - rate))  # type: ignore[union-attr]
        assert sorted(group["weight_decay"] for group in groups_) == [0.0, 0.4 * decay]
        assert stepper.weight_decay == 0.4 * decay


def test_clipping_limits_the_norm_and_reports_the_one_before(make: Make) -> None:
    loose, feed = build(make(**{"optim.clip": 0.0}))
    tight, _ = build(make(**{"optim.clip": 0.01}))
    seen: list[float] = []
    for stepper in (loose, tight):
        update = stepper.update

        def watched(update: Callable[[], None] = update, stepper: Stepper = stepper) -> None:
            norms = [p.grad.norm() for p in stepper.parameters if p.grad is not None]
            seen.append(torch.stack(norms).norm().item())
            update()

        stepper.update = watched
    outcomes = [stepper(feed.take(0), 1.0) for stepper in (loose, tight)]
    assert outcomes[0].grad_norm.item() == outcomes[1].grad_norm.item()
    assert math.isclose(seen[0], outcomes[0].grad_norm.item(), rel_tol=1e-5)
    assert seen[0] > 0.01
    assert math.isclose(seen[1], 0.01, rel_tol=1e-3)


def test_each_group_gets_its_own_rate(make: Make) -> None:
    stepper, feed = build(make(init="mup", **{"scale.width": 64}))
    stepper(feed.take(0), 0.25)
    rates = {group["base_lr"]: group["lr"] for group in stepper.optimizer.param_groups}
    assert len(rates) > 1
    assert rates == {base: 0.25 * base for base in rates}


def test_a_step_leaves_no_gradients(make: Make) -> None:
    stepper, feed = build(make())
    stepper(feed.take(0), 1.0)
    assert all(parameter.grad is None for parameter in stepper.parameters)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_loss_curves_of_low_precision_stay_close_to_fp32(make: Make, name: str) -> None:
    if name == "bf16" and precision.cpu_native_bf16() is None:
        pytest.skip("this CPU has no native bf16")
    settings = {"budget.steps": 60, "eval.every": 60, "log.every": 1, "kernel": "math"}
    exact = [row["train/loss"] for row in curve(train(make(**settings)).path)]
    rounded = [row["train/loss"] for row in curve(train(make(**settings, precision=name)).path)]
    assert exact != rounded
    assert exact[-1] < 0.7 * exact[0]
    assert max(abs(a - b) / a for a, b in zip(exact, rounded, strict=True)) < 0.02


def test_fp16_skips_steps_that_overflow(make: Make) -> None:
    cfg = make(precision="fp16")
    stepper, feed = build(cfg)
    scaler = stepper.precision.scaler
    assert scaler is not None
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**40})
    before = [parameter.clone() for parameter in stepper.parameters]
    history = History(overflow_allowed=True)
    history.add(0, stepper(feed.take(0), 1.0), 1)
    history.settle()
    assert all(torch.equal(a, b) for a, b in zip(before, stepper.parameters, strict=True))
    assert scaler.get_scale() < 2.0**40


@pytest.mark.slow
@pytest.mark.compiles
def test_compiled_and_eager_training_agree(make: Make) -> None:
    import shutil

    from torch._inductor import config as inductor

    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler")
    settings = {
        "budget.steps": 4,
        "scale.depth": 1,
        "eval.every": 4,
        "position": "none",
        "mlp": "relu",
        "model.dropout": 0.1,
        "model.logit_softcap": 5.0,
    }
    eager = train(make(**settings))
    with inductor.patch({"cpp.simdlen": 1}):  # code without vector types: half the time to compile
        compiled = train(make(**settings, compile="on"))
    assert compiled.path != eager.path
    for a, b in zip(curve(eager.path), curve(compiled.path), strict=True):
        assert math.isclose(a["train/loss"], b["train/loss"], rel_tol=1e-3)
    names = (compiled.path / "checkpoints" / "last" / "model.safetensors").read_bytes()[:4000]
    assert b"_orig_mod" not in names


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd"])
def test_the_light_step_is_the_optimizers_own(make: Make, name: str) -> None:
    """Against optimizer.step(), wrapped as torch wraps it; and with a hook it is exactly that."""
    (light, feed), (own, _) = build(make(optim=name)), build(make(optim=name))
    own.update = own.optimizer.step
    called: list[bool] = []
    hooked, _ = build(make(optim=name))
    hooked.optimizer.register_step_post_hook(lambda *args: called.append(True))
    hooked.update = light_step(hooked.optimizer)
    for step in range(3):
        for stepper in (light, own, hooked):
            stepper(feed.take(step), 1.0)
    for mine, theirs, others in zip(light.parameters, own.parameters, hooked.parameters, strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(mine, others)
    assert len(called) == 3


# -- what steps leave behind --


def outcome(nll: float, norm: float = 1.0) -> StepOutcome:
    return StepOutcome(torch.tensor(nll), torch.tensor(norm))


def test_history_means() -> None:
    history = History()
    history.add(0, outcome(10.0, 2.0), 5)
    history.settle()
    history.add(1, outcome(30.0, 4.0), 10)
    history.settle()
    assert history.means() == {"train/loss": 2.5, "train/grad_norm": 3.0}
    assert history.losses == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["the loss", "the gradient norm"])
def test_history_names_the_first_bad_step(bad: float, what: str) -> None:
    history = History()
    for step in range(4, 9):
        wrong = step >= 6
        history.add(step, outcome(bad) if wrong and what == "the loss" else outcome(1.0, bad if wrong else 1.0), 1)
    with pytest.raises(Diverged, match=f"{what} is not finite at step 7") as caught:
        history.settle()
    assert caught.value.step == 6


def test_the_scaler_forgives_norms_but_not_losses() -> None:
    history = History(overflow_allowed=True)
    history.add(0, outcome(1.0, math.inf), 1)
    history.add(1, outcome(3.0, 5.0), 1)
    history.settle()
    assert history.means() == {"train/loss": 2.0, "train/grad_norm": 5.0}
    history.add(2, outcome(math.nan), 1)
    with contextlib.suppress(Diverged):
        history.settle()
        pytest.fail("a loss that is not finite must end the run")
