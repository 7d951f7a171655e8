"""What optimizers share: the settings of a recipe, the loop over parameters, the bytes of their state."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpt_lab.optim.groups import Group, param_groups


class Rule(torch.optim.Optimizer):
    """An optimizer whose update is written for lists of tensors.

    `begin` says what is kept of a parameter, `update` moves those of one group. A state may hold tensors of any type:
    they come back from a checkpoint as they were, where torch would cast them to the parameter's type.
    """

    @abstractmethod
    def begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter before its first step; p may lie on the meta device."""

    @abstractmethod
    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Moves the parameters of one group that have a gradient."""

    def estimate(self) -> None:
        """What an update needs to know of all groups together; before the first of them is moved."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.ready(group, self.moved(group))
        self.estimate()
        for group in self.param_groups:
            if params := self.moved(group):
                self.update(group, params)
        return loss

    def ready(self, group: dict[str, Any], params: Iterable[Tensor]) -> None:
        """Makes the state of those that have none yet."""
        for p in params:
            if not self.state[p]:
                self.state[p].update(self.begin(p, group))

    def moved(self, group: dict[str, Any]) -> list[Tensor]:
        """The parameters of a group that have a gradient."""
        return [p for p in group["params"] if p.grad is not None]

    def kept(self, params: Sequence[Tensor], name: str) -> list[Any]:
        """One entry of the state of each parameter."""
        return [self.state[p][name] for p in params]

    def counted(self, params: Sequence[Tensor]) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
        """Counts a step of each parameter; those of one count together, mostly all of them, with their gradients."""
        by_count: dict[int, list[Tensor]] = {}
        for p in params:
            self.state[p]["step"] = count = self.state[p].get("step", 0) + 1
            by_count.setdefault(count, []).append(p)
        for count, members in by_count.items():
            yield count, members, grads_of(members)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave, bit for bit."""
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for p, number in zip(group["params"], saved["params"], strict=True):
                for name, value in state_dict["state"].get(number, {}).items():
                    if isinstance(value, Tensor) and value.dtype != p.dtype:
                        self.state[p][name] = value.to(device=p.device, copy=True)

    def state_bytes(self) -> int:
        """Bytes of the state once every parameter has moved."""
        with _OnMeta():
            return sum(
                value.nbytes
                for group in self.param_groups
                for p in group["params"]
                for value in self.begin(torch.empty_like(p, device="meta"), group).values()
                if isinstance(value, Tensor)
            )


class _OnMeta(TorchFunctionMode):
    """torch's zeros_like of a tensor without numbers imports sympy, which would be half of what a tiny run takes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.zeros_like and args[0].is_meta and not kwargs:
            return args[0].new_zeros(args[0].shape)
        return func(*args, **(kwargs or {}))


class Recipe:
    """The settings that every optimizer has.

    lr: peak learning rate.
    weight_decay: each step shrinks weights by lr x weight_decay (gains and biases excepted).
    clip: largest global gradient norm; 0 clips nothing.

    Args:
        settings: what the rule is given beside the parameters.

    Attributes:
        rule: the optimizer's class; None where `build` makes another.
        no_mup: why init=mup has no rule for its updates, and the way out; None: they have the size of Adam's.
        by_element: whether each number moves by what is known of it alone, so that a tensor's rows can move apart.
        estimator: of the Hessian's diagonal, which the trainer is asked for; None: gradients will do.
    """

    rule: ClassVar[type[Rule] | None] = None
    no_mup: ClassVar[str | None] = None
    by_element: bool = False
    estimator: str | None = None

    def __init__(self, lr: float, weight_decay: float, clip: float, **settings: Any) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.settings = settings

    def prepare(self, model: Any) -> None:
        """Tells the model what this optimizer needs of it; before kernels are chosen.

        Raises:
            ConfigError: it cannot be had.
        """
        if self.estimator == "hutchinson":
            model.twice = True

    def flops_per_token(self, model: Any, forward: float, context: int) -> float:
        """Matmul FLOPs a token of training that passes through the model cost beside gradients.

        Args:
            forward: those of a forward pass. context: tokens of a row.
        """
        return 0.0

    def build(self, groups: Iterable[Group]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        assert self.rule is not None
        return self.rule(param_groups(groups, self.lr, self.weight_decay), {"lr": self.lr, **self.settings})


def state_bytes(optimizer: torch.optim.Optimizer) -> int | None:
    """Bytes that an optimizer will keep; None of one that does not say."""
    if isinstance(optimizer, Rule):
        return optimizer.state_bytes()
    found = 0
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.Adam):
            found += sum(2 * p.nbytes + 4 for p in group["params"])
        elif isinstance(optimizer, torch.optim.SGD):
            found += sum(p.nbytes for p in group["params"] if group["momentum"])
        else:
            return None
    return found


def grads_of(params: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that are there."""
    return [p.grad for p in params if p.grad is not None]


def mean_(means: list[Tensor], values: list[Tensor], beta: float) -> None:
    """mean <- beta mean + (1 - beta) value."""
    torch._foreach_lerp_(means, values, 1 - beta)


def mean_square_(squares: list[Tensor], values: list[Tensor], beta: float) -> None:
    """square <- beta square + (1 - beta) value^2."""
    torch._foreach_mul_(squares, beta)
    torch._foreach_addcmul_(squares, values, values, value=1 - beta)


def roots(squares: list[Tensor], eps: float, correction: float = 1.0) -> list[Tensor]:
    """sqrt(square / correction) + eps."""
    found = list(torch._foreach_sqrt(squares))
    if correction != 1.0:
        torch._foreach_div_(found, math.sqrt(correction))
    torch._foreach_add_(found, eps)
    return found


def shrink_(params: list[Tensor], share: float) -> None:
    """Decoupled weight decay: p <- (1 - share) p."""
    if share:
        torch._foreach_mul_(params, 1 - share)
