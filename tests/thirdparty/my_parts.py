"""Two parts of one's own: a norm and an attention."""

from torch import Tensor, nn
from torch.nn import functional as F

from gpt_lab.options import PositiveFloat
from gpt_lab.registry import register


@register("norm", "my_norm")
class ScaleNorm(nn.Module):
    """Divides by the length of the vector, then one learned gain for all of it.

    Paper: Nguyen and Salazar 2019, arXiv:1910.05895

    eps: smallest length that is divided by.
    """

    def __init__(self, dim: int, *, eps: PositiveFloat = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(nn.init.constant_(Tensor(1), dim**0.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=self.eps) * self.gain
