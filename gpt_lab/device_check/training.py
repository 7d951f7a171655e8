"""Small runs on a device: number formats, the compiler, the loss in chunks, and a run that is resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpt_lab.device_check.steps import Place, Wrong
from gpt_lab.train.speed.stepwise import Stepwise

APART = {"precision=bf16": 0.05, "precision=fp16": 0.05, "precision=fp8": 0.15, "precision=tf32": 0.02}
"""Difference of the last loss from fp32's that is rounding, as a share of what fp32's has fallen."""
CLOSE = 0.01
FALLEN = 0.02
"""The least share of its first loss that a run must lose, or losses would agree whatever is computed."""


def losses(place: Place, study: str, *words: str, steps: int | None = None) -> list[float]:
    """Training losses of a small run on Shakespeare's bytes, whose frequencies are learnt at once."""
    return run(place, study, *words).losses(steps or place.steps)


def run(place: Place, study: str, *words: str) -> Stepwise:
    """A small run, eager in fp32 where nothing else is said."""
    fixed = [f"study={study}", f"device={place.device}", f"scale={place.scale}", f"batch.tokens={place.tokens}"]
    fixed += ["tokenizer=byte", "schedule.warmup=0", "optim.lr=0.003"]
    plain = ["precision=fp32", "compile=off", "kernel=auto", f"budget.steps={place.steps}"]
    given = {word.partition("=")[0] for word in words}
    return Stepwise([*fixed, *(one for one in plain if one.partition("=")[0] not in given), *words], place.folder)


def format_step(word: str) -> Callable[[Place], dict[str, Any]]:
    """A step that trains in a number format and in fp32."""

    def step(place: Place) -> dict[str, Any]:
        name = word.replace("=", "-")
        return _same(losses(place, name, word), losses(place, "fp32"), APART[word])

    return step


def compiled(place: Place) -> dict[str, Any]:
    """The compiled program trains as the eager one does."""
    return _same(losses(place, "compiled", "compile=on"), losses(place, "eager"), CLOSE)


def chunked(place: Place) -> dict[str, Any]:
    """The loss in chunks trains as the whole one does."""
    whole = losses(place, "whole", "chunked_loss=off")
    return _same(losses(place, "chunked", "chunked_loss=on"), whole, CLOSE)


def resumed(place: Place) -> dict[str, Any]:
    """A run that is left halfway and resumed ends as one that goes through."""
    through = run(place, "through")
    expected = through.losses(place.steps)
    half = run(place, "halves")
    before = half.losses(place.steps // 2)
    half.trainer.save()
    again = run(place, "halves")
    if again.trainer.state.step != place.steps // 2:
        raise Wrong("it was not resumed", {"step": again.trainer.state.step})
    got = again.losses(place.steps - place.steps // 2)
    pairs = zip(through.trainer.model.parameters(), again.trainer.model.parameters(), strict=True)
    apart = max(float((one - other).detach().abs().max()) for one, other in pairs)
    found = _same([*before, *got], expected, CLOSE)
    return found | {"largest_difference_of_a_weight": apart, "bit_for_bit": apart == 0.0}


def _same(got: Sequence[float], expected: Sequence[float], limit: float) -> dict[str, Any]:
    """Losses that fall, and agree at the end.

    Raises:
        Wrong: they do not.
    """
    fallen = expected[0] - expected[-1]
    apart = abs(got[-1] - expected[-1]) / max(fallen, 1e-9)
    found = {"first": got[0], "last": got[-1], "expected": expected[-1], "apart": apart, "limit": limit}
    if fallen < FALLEN * expected[0]:
        raise Wrong("even the run that it is compared with has learnt nothing", found)
    if not apart <= limit:
        raise Wrong(f"the last loss is {got[-1]:.5g}, and should be {expected[-1]:.5g}", found)
    return found
