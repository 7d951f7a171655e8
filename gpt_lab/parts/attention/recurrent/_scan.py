"""The selective scan: a linear recurrence of each number of a state by itself, without a loop over tokens.

    h_t = exp(s_t A) h_{t-1} + s_t B_t x_t        per channel: h of K numbers, A negative
    y_t = C_t h_t

Tokens are combined in pairs, the pairs in pairs, and so on (Blelloch 1990, prefix sums): decays are only multiplied,
never divided by, so that nothing overflows however fast a state forgets. A document begins by a decay of 0.

Shape letters: B rows, T tokens, E channels, K numbers of a channel's state.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scan(
    x_BTE: Tensor,
    step_BTE: Tensor,
    a_EK: Tensor,
    b_BTK: Tensor,
    c_BTK: Tensor,
    *,
    chunk: int,
    state_BEK: Tensor | None = None,
    begins_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What every token reads, (B, T, E), and the state after the last, (B, E, K).

    Args:
        step_BTE: s, positive.
        a_EK: A, negative.
        chunk: tokens whose states exist at once where no gradient is asked for.
        state_BEK: the state before the first token. None: zero.
        begins_BT: bool, the tokens that find an empty state.
    """
    read = []
    for start in range(0, x_BTE.shape[1], chunk):
        now = slice(start, start + chunk)
        decay = (step_BTE[:, now, :, None] * a_EK).exp()
        if begins_BT is not None:
            decay = decay * ~begins_BT[:, now, None, None]
        added = (step_BTE[:, now] * x_BTE[:, now])[..., None] * b_BTK[:, now, None]
        if state_BEK is not None:
            added = torch.cat((added[:, :1] + decay[:, :1] * state_BEK[:, None], added[:, 1:]), dim=1)
        states = prefix(decay, added)
        read.append((states @ c_BTK[:, now, :, None])[..., 0])
        state_BEK = states[:, -1]
    assert state_BEK is not None, "there is a token"
    return torch.cat(read, dim=1), state_BEK


def prefix(decay: Tensor, added: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + added_t over dimension 1, from h = 0; T rounds up to pairs log2(T) times."""
    length = decay.shape[1]
    if length == 1:
        return added
    even = length // 2 * 2
    first, second = (slice(0, even, 2), slice(1, even, 2))
    ends = prefix(decay[:, first] * decay[:, second], added[:, second] + decay[:, second] * added[:, first])
    # each pair's first token goes on from the end of the pair before
    begin = added[:, 2::2] + decay[:, 2::2] * ends[:, : (length - 1) // 2]
    begin = torch.cat((added[:, :1], begin), dim=1)
    paired = torch.stack((begin[:, : even // 2], ends), dim=2).flatten(1, 2)
    return paired if even == length else torch.cat((paired, begin[:, -1:]), dim=1)
