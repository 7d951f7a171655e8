"""Cross-entropy, label smoothing and z-loss against torch's formulas."""

import pytest
import torch
import torch.nn.functional as F

from gpt_lab.parts.objective.ce import CrossEntropy

B, T, V = 3, 5, 11


def _example() -> tuple[torch.Tensor, torch.Tensor]:
    logits = (4 * torch.randn(B, T, V)).requires_grad_()
    targets = torch.randint(V, (B, T))
    targets[0, :3] = -100
    return logits, targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_formulas(smoothing: float, z_loss: float) -> None:
    logits, targets = _example()
    loss, nll_sum, count = CrossEntropy(label_smoothing=smoothing, z_loss=z_loss)(logits, targets)
    flat, kept = logits.view(-1, V), targets.view(-1) != -100
    expected = F.cross_entropy(flat, targets.view(-1), label_smoothing=smoothing)
    expected = expected + z_loss * flat.logsumexp(-1)[kept].square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll_sum, F.cross_entropy(flat, targets.view(-1), reduction="sum").detach())
    assert count.item() == B * T - 3
    assert count.dtype == torch.int64
    assert nll_sum.dtype == torch.float32
    assert not nll_sum.requires_grad
    mine, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(mine, theirs)
    assert mine[0, :3].abs().max() == 0


def test_sums_in_fp32_from_bf16_logits() -> None:
    logits, targets = _example()
    low = logits.detach().bfloat16().requires_grad_()
    loss, nll_sum, _ = CrossEntropy(label_smoothing=0.1, z_loss=0.01)(low, targets)
    exact, exact_sum, _ = CrossEntropy(label_smoothing=0.1, z_loss=0.01)(low.detach().float(), targets)
    assert loss.dtype == nll_sum.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), exact)
    torch.testing.assert_close(nll_sum, exact_sum)
    assert torch.autograd.grad(loss, low)[0].dtype == torch.bfloat16


def test_a_view_without_the_padding_is_enough() -> None:
    logits, targets = _example()
    padded = torch.cat([logits.detach(), torch.full((B, T, 5), 99.0)], dim=-1)[..., :V]
    assert torch.equal(CrossEntropy()(padded, targets)[0], CrossEntropy()(logits.detach(), targets)[0])


def test_micro_batches_add_up() -> None:
    logits, targets = _example()
    objective = CrossEntropy(z_loss=0.01)
    loss, nll_sum, count = objective(logits, targets)
    parts = [objective(logits[i : i + 1], targets[i : i + 1]) for i in range(B)]
    torch.testing.assert_close(sum(part * n for part, _, n in parts) / count, loss)
    torch.testing.assert_close(sum(part for _, part, _ in parts), nll_sum)


def test_nothing_to_count_is_zero() -> None:
    logits, targets = _example()
    loss, nll_sum, count = CrossEntropy(label_smoothing=0.1, z_loss=0.1)(logits, torch.full_like(targets, -100))
    assert (loss.item(), nll_sum.item(), count.item()) == (0.0, 0.0, 0)
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0
