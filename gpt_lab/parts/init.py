"""Initialization: the standard deviation of each weight, learning-rate multipliers, scales of logits and attention.

Constructor: (shape, *, options). Vectors are not drawn: gains keep their constructor's values and biases start at 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from gpt_lab.errors import ConfigError
from gpt_lab.options import PositiveFloat, PositiveInt
from gpt_lab.parts.base import Role, Shape
from gpt_lab.registry import register

GPT2_STD, GPT2_WIDTH, LARGEST_STD = 0.02, 768, 0.05


def usual_std(width: int) -> float:
    """GPT-2's standard deviation at GPT-2's width, and as 1/sqrt(width) at others, so that products keep their size.

    At most 0.05: at width 64 short runs end higher beyond it (benchmarks/README.md).
    """
    return min(GPT2_STD * (GPT2_WIDTH / width) ** 0.5, LARGEST_STD)


class _Init:
    """The defaults: no multipliers, attention over sqrt(head dimension)."""

    logits_scale: float = 1.0
    """Factor on the logits."""

    def std(self, tensor_shape: tuple[int, ...], role: Role) -> float:
        """Standard deviation of a tensor's initial values; tensor_shape is (out, in)."""
        raise NotImplementedError

    def weight(self, name: str, tensor_shape: tuple[int, ...], role: Role, generator: torch.Generator) -> Tensor:
        """Initial values (fp32, CPU) of one parameter, normally distributed."""
        return torch.empty(tensor_shape).normal_(0.0, self.std(tensor_shape, role), generator=generator)

    def lr_multiplier(self, role: Role, tensor_shape: tuple[int, ...]) -> float:
        """Factor on the learning rate of a parameter."""
        return 1.0

    def attention_scale(self, head_dim: int) -> float:
        """Factor on attention scores."""
        return head_dim**-0.5

    def check(self, model: nn.Module) -> None:
        """Refuses a model that this has no rule for.

        Raises:
            ConfigError: the line names the part and the way out.
        """


def option(part: nn.Module) -> str:
    """What selects a part, such as attention=mha; the name of its class if nothing does."""
    return "=".join(getattr(type(part), "part", (type(part).__name__,)))


@register("init", "normal")
class Normal(_Init):
    """GPT-2's: one standard deviation for all matrices, smaller by sqrt(2 depth) where a branch ends.

    A narrow model that starts with the 0.02 of a wide one spends its first steps on a plateau, and leaves it by chance.

    Reference: Radford et al. 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

    std: standard deviation of embeddings, head and matrices; null: 0.02 x sqrt(768 / width), GPT-2's at its
        width, and at most 0.05.
    scaled_residual: divide it by sqrt(2 x depth) in the last matrix of each branch, so that the residual stream's
        variance does not grow with depth.
    """

    def __init__(self, shape: Shape, *, std: PositiveFloat | None = None, scaled_residual: bool = True) -> None:
        self.value = usual_std(shape.width) if std is None else std
        self.residual = (2 * shape.depth) ** -0.5 if scaled_residual else 1.0

    def std(self, tensor_shape: tuple[int, ...], role: Role) -> float:
        return self.value * (self.residual if role == "residual" else 1.0)


@register("init", "fan_in")
class FanIn(_Init):
    """1/sqrt(fan-in): a matrix keeps the variance of what it reads, at every width.

    Reference: LeCun et al. 1998, Efficient BackProp, doi:10.1007/3-540-49430-8_2

    embedding_std: standard deviation of embeddings and head (a look-up has no fan-in).
    scaled_residual: divide by sqrt(2 x depth) in the last matrix of each branch.
    """

    def __init__(self, shape: Shape, *, embedding_std: PositiveFloat = 0.02, scaled_residual: bool = True) -> None:
        self.embedding_std = embedding_std
        self.residual = (2 * shape.depth) ** -0.5 if scaled_residual else 1.0

    def std(self, tensor_shape: tuple[int, ...], role: Role) -> float:
        if role in ("embedding", "head"):
            return self.embedding_std
        return tensor_shape[-1] ** -0.5 * (self.residual if role == "residual" else 1.0)


@register("init", "mup")
class MuP(_Init):
    """Maximal update parametrisation: a learning rate tuned at base_width holds at every width (Adam).

    Paper: Yang et al. 2022, arXiv:2203.03466

    Against the model at base_width, where this is `normal`: hidden matrices have a standard deviation smaller by
    sqrt(width / base_width) and a learning rate smaller by width / base_width; logits are divided by
    width / base_width; attention scores by head dimension instead of its root. Embeddings, head and vectors keep
    their learning rate. A matrix whose input is a latent goes by the latent's size: as under `normal` where it is
    fixed, with the head dimension where it follows that. Parts that nothing of this holds for are refused, and so are
    optimizers whose steps are not Adam's in size; Muon has its own factor, 1 or 1/sqrt(width / base_width).

    base_width: the width at which hyperparameters were (or will be) tuned.
    base_head_dim: the head dimension there; scores are multiplied by sqrt(base_head_dim) / head dimension.
    std: standard deviation of all matrices at base_width; null: as under `normal` there.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        base_width: PositiveInt = 128,
        base_head_dim: PositiveInt = 32,
        std: PositiveFloat | None = None,
    ) -> None:
        self.value = usual_std(base_width) if std is None else std
        self.base_head_dim = base_head_dim
        self.ratio = shape.width / base_width
        head_ratio = shape.width / shape.heads / base_head_dim
        self.growth: dict[Role, float] = {"matrix": self.ratio, "residual": self.ratio, "head_input": head_ratio}
        self.residual = (2 * shape.depth) ** -0.5
        self.logits_scale = 1 / self.ratio

    def std(self, tensor_shape: tuple[int, ...], role: Role) -> float:
        return self.value * self.growth.get(role, 1.0) ** -0.5 * (self.residual if role == "residual" else 1.0)

    def lr_multiplier(self, role: Role, tensor_shape: tuple[int, ...]) -> float:
        return 1 / self.growth.get(role, 1.0)

    def attention_scale(self, head_dim: int) -> float:
        return self.base_head_dim**0.5 / head_dim

    def check(self, model: nn.Module) -> None:
        """Refuses parts that say, in `no_mup`, why their activations or updates would change with width."""
        for part in model.modules():
            if why := getattr(part, "no_mup", None):
                raise ConfigError(f"init=mup cannot hold learning rates across widths with {option(part)}: {why}")


@register("init", "deepnorm")
class DeepNorm(_Init):
    """DeepNet's, for post-norm of any depth: Xavier, smaller by (8 depth)^(1/4) in values, attention's output and MLP.

    Paper: Wang et al. 2022, arXiv:2203.00555

    The other half of the method is in the residual stream: residual=post residual.alpha=null, which this needs. Of a
    gated MLP the gate itself is not made smaller, as in the authors' torchscale. Embeddings and head are those of
    init=normal.
    """

    SMALL = ("v_proj", "o_proj", "up_proj", "down_proj")
    KNOWN: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("qkv", "q_proj", "k_proj", "v_proj", "o_proj"),
        "mlp": ("up_proj", "gate_proj", "down_proj"),
    }

    def __init__(self, shape: Shape) -> None:
        self.width = shape.width
        self.alpha = (2 * shape.depth) ** 0.25
        self.beta = (8 * shape.depth) ** -0.25

    def std(self, tensor_shape: tuple[int, ...], role: Role) -> float:
        if role in ("embedding", "head"):
            return usual_std(self.width)
        return math.sqrt(2 / sum(tensor_shape)) * (self.beta if role == "residual" else 1.0)

    def weight(self, name: str, tensor_shape: tuple[int, ...], role: Role, generator: torch.Generator) -> Tensor:
        if role in ("embedding", "head"):
            return super().weight(name, tensor_shape, role, generator)
        drawn = torch.empty(tensor_shape).normal_(generator=generator)
        matrix = name.split(".")[-2]
        if matrix != "qkv":
            gain = self.beta if matrix in self.SMALL else 1.0
            return drawn.mul_(gain * self.std(tensor_shape, "matrix"))
        rows = self._rows(tensor_shape)
        for part, gain in zip(drawn.split(rows), (1.0, 1.0, self.beta), strict=True):
            part.mul_(gain * self.std(tuple(part.shape), "matrix"))
        return drawn

    def _rows(self, tensor_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Rows of queries, keys and values in a matrix of all three: as many queries as the model is wide."""
        each = (tensor_shape[0] - self.width) // 2
        return self.width, each, each

    def check(self, model: nn.Module) -> None:
        """Refuses another residual, and matrices that the paper has not."""
        for block in model.get_submodule("blocks").children():
            alpha = getattr(block, "alpha", None)
            if not isinstance(alpha, float) or not math.isclose(alpha, self.alpha):
                said = option(block) + (f" residual.alpha={alpha:g}" if isinstance(alpha, float) else "")
                raise ConfigError(
                    f"init=deepnorm needs the stream multiplied by (2 x depth)^(1/4) = {self.alpha:.4g}, and {said} is "
                    "not: use residual=post residual.alpha=null, or init=normal"
                )
            for branch, known in self.KNOWN.items():
                part = block.get_submodule(branch)
                for name, parameter in part.named_parameters():
                    matrix = name.removesuffix(".weight")
                    if parameter.ndim > 1 and matrix not in known:
                        raise ConfigError(
                            f"init=deepnorm says nothing of {option(part)}'s {matrix}: use attention=mha or gqa with "
                            "an mlp such as gelu or swiglu, or init=normal"
                        )
