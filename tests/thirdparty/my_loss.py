"""A loss of one's own: the state at a place is to foresee the state some places later."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.objective.base import Outcome, Predictor, Sequences, Surroundings, with_losses
from gpt_lab.parts.objective.ce import CrossEntropy
from gpt_lab.registry import register


class Foresight(nn.Linear):
    """What will be seen, from what is seen."""

    def flops_per_token(self, context: int) -> float:
        return 2 * self.weight.numel() + 2 * self.in_features * context


@register("objective", "contrastive")
class Contrastive(CrossEntropy):
    """Cross-entropy of the next token, and a contrast: each place tells its own later state from those of other places.

    Paper: van den Oord et al. 2018, arXiv:1807.03748 (InfoNCE of contrastive predictive coding)

    ahead: places between a state and the one that it is to foresee.
    weight: of the contrast.
    temperature: of its softmax over the places of a row.
    """

    def __init__(
        self, *, ahead: PositiveInt = 4, weight: PositiveFloat = 0.1, temperature: PositiveFloat = 0.1
    ) -> None:
        super().__init__()
        self.ahead, self.weight, self.temperature = ahead, weight, temperature

    def modules(self, around: Surroundings) -> nn.Module:
        if self.ahead >= around.shape.context:
            raise ConfigError(f"objective.ahead={self.ahead} must be less than scale.context={around.shape.context}")
        return Foresight(around.shape.width, around.shape.width, bias=False)

    def train(self, model: Predictor, given: Sequences) -> Outcome:
        losses: list[Tensor] = []
        flow = model.flow(given.tokens_BT, documents_BT=given.documents_BT, keys_B=given.keys_B, losses=losses)
        hidden_BTD = model.hidden(given.tokens_BT, flow)
        outcome = self(model.logits(hidden_BTD), given.targets_BT)
        assert model.auxiliary is not None, "what modules gave"
        foreseen_BND = F.normalize(model.auxiliary(hidden_BTD[:, : -self.ahead]), dim=-1)
        seen_BND = F.normalize(hidden_BTD[:, self.ahead :], dim=-1)
        likeness_BNN = foreseen_BND @ seen_BND.mT / self.temperature
        own_BN = torch.arange(likeness_BNN.shape[1], device=likeness_BNN.device).expand(len(likeness_BNN), -1)
        contrast = F.cross_entropy(likeness_BNN.flatten(0, 1), own_BN.flatten())
        return with_losses(outcome._replace(loss=outcome.loss + self.weight * contrast), losses)
