"""Pre-norm whose branches or layers drop out at random in training. Constructor and forward as in single_stream.py."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from gpt_lab.options import Probability
from gpt_lab.parts.base import Flow, Shape
from gpt_lab.parts.dropout import dropped, row_salt
from gpt_lab.parts.residual.base import MakeNorm
from gpt_lab.parts.residual.single_stream import PreNorm
from gpt_lab.registry import register


@register("residual", "layer_drop")
class LayerDrop(PreNorm):
    """x + f(norm(x)) / (1 - p), or x alone with probability p in training: stochastic depth, which shortens gradients.

    Paper: Huang et al. 2016, arXiv:1603.09382; Fan et al. 2019, arXiv:1909.11556 (LayerDrop)

    Each row of a batch draws for itself, by a hash of its key and the layer as dropout does: a step is the same in any
    micro-batch, recomputed or resumed. Evaluation and sampling drop nothing. What is dropped is computed all the same.

    rate: probability p of the last layer.
    schedule: linear: p of layer n of L is rate x n / L, as in Huang; constant: it is the rate in all layers, as in Fan.
    unit: what is dropped at once: each branch (Huang), or both branches of a layer (Fan).
    rescale: divide what is kept by 1 - p in training, so that evaluation needs no factor; Fan does not.
    """

    def __init__(
        self,
        shape: Shape,
        layer: int,
        attention: nn.Module,
        mlp: nn.Module,
        make_norm: MakeNorm,
        *,
        rate: Probability = 0.1,
        schedule: Literal["linear", "constant"] = "linear",
        unit: Literal["branch", "layer"] = "branch",
        rescale: bool = True,
    ) -> None:
        super().__init__(shape, layer, attention, mlp, make_norm)
        self.p = rate * (layer + 1) / shape.depth if schedule == "linear" else rate
        self.draws = self.p > 0.0
        self.salts = row_salt(layer, 0), row_salt(layer, 1 if unit == "branch" else 0)
        self.factor = 1 / (1 - self.p) if rescale else 1.0

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        x = x + self._kept(self.attend(self.attention_norm(x), flow), flow, self.salts[0])
        return x + self._kept(self.feed(self.mlp_norm(x), flow), flow, self.salts[1])

    def _kept(self, y_BTD: Tensor, flow: Flow, salt: int) -> Tensor:
        if not self.draws or not self.training or flow.keys_B is None:
            return y_BTD
        dropped_B11 = dropped(flow.keys_B, salt, (1, 1), self.p)
        return (y_BTD * self.factor).masked_fill(dropped_B11, 0.0)
