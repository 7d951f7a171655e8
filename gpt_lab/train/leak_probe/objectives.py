"""Whether what an objective reports is what it says, and what it trains is no token that it can see.

Legend: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from gpt_lab import registry
from gpt_lab.config.schema import RunConfig
from gpt_lab.metrics import BOUND, EXACT
from gpt_lab.model.gpt import GPT
from gpt_lab.parts.dropout import row_keys
from gpt_lab.parts.objective.base import IGNORED, Objective, Sequences
from gpt_lab.parts.objective.masked import MaskedDiffusion
from gpt_lab.train.leak_probe.own_randomness import SEED, seed_all

SHIFTED = "targets are shifted already, logits at t are for target t"


def refusal(cfg: RunConfig, device: torch.device) -> str | None:
    """What is wrong with the objective, in words; None if nothing is."""
    name = f"objective={cfg.objective['name']}"
    objective: Objective = registry.build("objective", cfg.objective)
    said = _unproven(name, objective) or _seen(name, objective)
    if said is None and type(objective).__call__ is not Objective.__call__:
        said = _of_logits(name, objective, device)
    return said


@torch.no_grad()
def misreported(cfg: RunConfig, model: GPT, given: Sequences) -> str | None:
    """Whether an objective that reads more than logits reports another number in training than validation has."""
    objective: Objective = registry.build("objective", cfg.objective)
    if objective.measure != EXACT or type(objective).train is Objective.train:
        return None
    objective.teacher_model = model
    _, nats, count = objective.train(model, given)
    expected, number, _ = objective.score(model, given)
    if int(count) == int(number) and math.isclose(float(nats), float(expected), rel_tol=1e-3):
        return None
    return (
        f"objective={cfg.objective['name']} reports {float(nats):.4g} nats over {int(count)} targets in training, "
        f"where the cross-entropy of the next token is {float(expected):.4g} over {int(number)}"
    )


def _unproven(name: str, objective: Objective) -> str | None:
    """An exact likelihood, or a bound of one, that nothing here has measured."""
    kind = type(objective)
    if objective.measure == EXACT:
        proven = objective.causal and kind.score is Objective.score
    elif objective.measure == BOUND:
        known = (MaskedDiffusion.score, MaskedDiffusion.number, MaskedDiffusion.nats_of_rows)
        proven = issubclass(kind, MaskedDiffusion) and (kind.score, kind.number, kind.nats_of_rows) == known
    else:
        return None
    return (
        None
        if proven
        else (
            f"{name} says that its score is the {objective.measure} likelihood, and measures it by itself: give it a "
            "`measure` of its own, in words, by which it is compared with itself alone"
        )
    )


def _seen(name: str, objective: Objective) -> str | None:
    """Hidden tokens that show in what the model reads, under an objective whose score bounds a likelihood."""
    if objective.measure != BOUND or not isinstance(objective, MaskedDiffusion):
        return None
    rows, length, vocab = 8, 12, 16
    generator = torch.Generator().manual_seed(SEED)
    text_BT = torch.randint(vocab, (rows, length), generator=generator)
    keys_B = row_keys(SEED, 0, torch.arange(rows))
    before = objective.hide(text_BT, keys_B, vocab)
    after = objective.hide(torch.where(before.chosen_BT, (text_BT + 1) % vocab, text_BT), keys_B, vocab)
    if torch.equal(before.inputs_BT, after.inputs_BT) and torch.equal(before.chosen_BT, after.chosen_BT):
        return None
    return f"{name} shows the model tokens that it is asked for: their nats would bound nothing"


def _of_logits(name: str, objective: Objective, device: torch.device) -> str | None:
    """Whether it reports another number than the next token's cross-entropy, or trains another token."""
    length, vocab = 6, 16
    generator = torch.Generator().manual_seed(SEED)
    row = 2 * torch.randn(1, length, vocab, generator=generator)
    logits_BTV = row.repeat(length, 1, 1).to(device).requires_grad_()
    # all different, so that a shift shows; the last of the vocabulary is kept for a change, in row t of target t
    targets_BT = torch.randperm(vocab - 1, generator=generator)[:length].repeat(length, 1).to(device)
    place_T = torch.arange(length, device=device)
    changed_BT = torch.where(place_T == place_T[:, None], vocab - 1, targets_BT)
    ignored_BT = torch.where(place_T == 2, IGNORED, targets_BT)
    for asked_BT in (targets_BT, ignored_BT):
        seed_all(device.type)
        with torch.no_grad():
            _, nats, count = objective(logits_BTV, asked_BT)
        expected = F.cross_entropy(logits_BTV.flatten(0, 1), asked_BT.flatten(), ignore_index=IGNORED, reduction="sum")
        number = int((asked_BT != IGNORED).sum())
        if int(count) != number or not math.isclose(float(nats), expected.item(), rel_tol=1e-3):
            return (
                f"{name} reports {float(nats):.4g} nats over {int(count)} targets, where the cross-entropy of the next "
                f"token is {expected.item():.4g} over {number}: {SHIFTED}"
            )
    gradients = []
    for asked_BT in (targets_BT, changed_BT):
        seed_all(device.type)
        loss = objective(logits_BTV, asked_BT)[0]
        if not loss.requires_grad:
            return f"{name} trains nothing: its loss does not depend on the logits"
        gradients.append(torch.autograd.grad(loss, logits_BTV)[0])
    before_BTV, after_BTV = gradients
    size_BT = before_BTV.abs().amax(-1)
    # beside their length, which may be shared out anew over all tokens
    along = (before_BTV * after_BTV).sum(-1, keepdim=True) / before_BTV.square().sum(-1, keepdim=True).clamp(min=1e-30)
    turned_BTV = after_BTV - along * before_BTV
    unmoved_T = (turned_BTV.abs().amax(-1) < 1e-4 * size_BT).diagonal()
    shown_BT = (turned_BTV[..., vocab - 1] < -1e-2 * size_BT).triu(1)
    if bool((unmoved_T & (size_BT.diagonal() > 0)).any()) or bool(shown_BT.any()):
        return f"{name} trains a token on another target than its own, such as one already read: {SHIFTED}"
    return None
