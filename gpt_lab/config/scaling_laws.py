"""Published laws of how sizes and hyperparameters grow together, as functions of plain numbers.

Letters of the formulas: M parameters of the layers' matrices, N all parameters, D training tokens.
"""

from __future__ import annotations

PER_LAYER = 64
"""Of the width: the first of each width in Chinchilla's table A9, from 8 layers of 512 to 16 of 1,024; heads too."""
TOKENS_PER_PARAMETER = 20
VOCABULARY_AT = (33e6, 6144 * 512, 0.8353974035228025)
"""M and vocabulary parameters of the smallest model (6,144 tokens at width 512), and the power that both grow by."""
BATCH = (0.0306, 0.383, 2048)
"""Factor and power of the batch in sequences, and the tokens of one of these."""
TIMESCALE = (1.084, -0.527)
"""Factor and power of AdamW's timescale, in runs."""


def width(depth: int) -> int:
    """Width at a depth. Hoffmann et al. 2022, arXiv:2203.15556, table A9."""
    return PER_LAYER * depth


def heads(width: int) -> int:
    """Heads of 64 dimensions, as there; of another width, those that divide it into the nearest even dimension."""
    fitting = [n for n in range(1, width + 1) if width % n == 0 and width // n % 2 == 0] or [1]
    return min(fitting, key=lambda n: abs(width / n - PER_LAYER))


def matrices(depth: int, width: int) -> int:
    """M = 12 depth width^2: attention's four and a plain MLP's two. Kaplan et al. 2020, arXiv:2001.08361, table 1."""
    return 12 * depth * width**2


def vocabulary(matrices: float, width: int) -> float:
    """Tokens of the vocabulary. Tao et al. 2024, arXiv:2407.13623, the derivative-based approach (M = their N_nv)."""
    at, parameters, power = VOCABULARY_AT
    return parameters * (matrices / at) ** power / width


def tokens(parameters: float) -> float:
    """D = 20 N, embeddings counted as there. Hoffmann et al. 2022, arXiv:2203.15556, table 3."""
    return TOKENS_PER_PARAMETER * parameters


def batch(tokens: float) -> float:
    """Tokens of the best batch for D tokens. Bergsma et al. 2025, arXiv:2505.13738, figure 1."""
    factor, power, sequence = BATCH
    return sequence * factor * tokens**power


def batch_of_steps(steps: float) -> float:
    """The same where steps are given and not D: the batch B with B = batch(steps x B)."""
    _, power, _ = BATCH
    return float(batch(steps) ** (1 / (1 - power)))


def learning_rate(tuned: float, tuned_at: int, width: int) -> float:
    """Adam's rate for matrices, from the width it was tuned at. Yang et al. 2022, arXiv:2203.03466, table 8."""
    return tuned * tuned_at / width


def timescale(tokens_per_parameter: float) -> float:
    """Best B / (rate x decay x D) at D / N. Bergsma et al. 2025, arXiv:2505.13738, figure 1."""
    factor, power = TIMESCALE
    return float(factor * tokens_per_parameter**power)


def weight_decay(batch: float, rate: float, tokens: float, parameters: float) -> float:
    """AdamW's weight decay that has the best timescale. Bergsma et al. 2025, arXiv:2505.13738, equations 2 to 4."""
    return batch / (rate * tokens * timescale(tokens / parameters))
