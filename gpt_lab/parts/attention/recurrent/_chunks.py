"""Recurrences over a matrix of memory, computed chunk by chunk: all tokens at once, no loop over them.

The state S of a head, (K, V), is read and written at each token t, with decay a_t in [0, 1] and step b_t:

    S_t = a_t S_{t-1} + k_t v_t                                  linear attention
    S_t = a_t S_{t-1} + b_t k_t (v_t - k_t a_t S_{t-1})          delta rule: what k_t already recalls is replaced
    S_t = a_t S_{t-1} + k_t v_t + w_t (r_t S_{t-1})              generalized: r_t recalls, w_t writes that elsewhere
    y_t = q_t S_t

Within a chunk of C tokens all are attention under a mask of decays; the delta rules first solve a triangular system
for what each token really writes (WY representation, UT transform: Yang et al. 2024, arXiv:2406.06484; with decay Yang
et al. 2024, arXiv:2412.06464). From chunk to chunk the state goes by one small product, the only loop: T / C steps.

Exponents are never positive, so nothing overflows however fast a channel forgets; a document ends by factors of 0, not
by a decay of minus infinity, so nothing is undefined.

Shape letters: B rows, H heads, T tokens, N chunks, C tokens of a chunk, K key dimension, V value dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECT = 4
"""Tokens of a block whose decays by channel are computed pair by pair; larger ones are halved."""


def recurrence(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    log_decay: Tensor | None = None,
    beta_BHT: Tensor | None = None,
    moved: tuple[Tensor, Tensor] | None = None,
    *,
    chunk: int,
    state_BHKV: Tensor | None = None,
    runs_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What every token reads, (B, H, T, V), and the state after the last, (B, H, K, V); both fp32.

    Args:
        q_BHTK: queries, which already carry their scale. Without `beta_BHT` and `moved`, queries and keys may be of 1
            head, which all share.
        log_decay: log of the decay, at most 0: (B, H, T) for one a head, (B, H, T, K) for one a channel; B and H may be
            1. None: nothing is forgotten.
        beta_BHT: step of the delta rule. None: linear attention.
        moved: (r, w) of the generalized delta rule, (B, H, T, K) each, in place of `beta_BHT`.
        chunk: C, a power of two; shorter where there are fewer tokens.
        state_BHKV: the state before the first token, which belongs to the first token's document. None: zero.
        runs_BT: number of the run of tokens that each belongs to (see `runs`); nothing passes from one to the next.
    """
    with torch.autocast(q_BHTK.device.type, enabled=False):
        q, k, v = q_BHTK.float(), k_BHTK.float(), v_BHTV.float()
        batch, heads, length, width = *v.shape[:3], k.shape[3]
        size = min(chunk, 1 << (length - 1).bit_length())
        log_decay = q.new_zeros(1, 1, length) if log_decay is None else log_decay.float()
        if log_decay.ndim == 3:
            log_decay = log_decay[..., None]
        state = q.new_zeros(batch, heads, width, v.shape[-1]) if state_BHKV is None else state_BHKV.float()
        beta = None if beta_BHT is None else beta_BHT.float()[..., None]
        move = None if moved is None else (moved[0].float(), moved[1].float())
        if length == 1:
            return _step(q, k, v, log_decay.exp(), beta, move, state)
        q, k, v, decay = (_split(t, size) for t in (q, k, v, log_decay))
        entering, leaving = decay.cumsum(3).exp(), _following(decay).exp()
        through = decay.sum(3, keepdim=True).exp().transpose(-1, -2)  # (.., 1 | K, 1)
        same = first = None
        if runs_BT is not None:
            same, first, final, whole = _boundaries(runs_BT, size)
            entering, leaving, through = entering * first, leaving * final, through * whole
        reading, writing = q * entering, (k * leaving).transpose(-1, -2)
        if move is not None:
            recalling, placing = (_split(t, size) for t in move)
            scores, fresh, reread = _moves(q, k, v, recalling, placing, decay, same, first)
            writing = torch.cat((writing, (placing * leaving).transpose(-1, -2)), dim=-1)
        elif beta is None:
            (scores,) = _scores([q], k, decay, same)
            fresh, reread = v, None
        else:
            scores, recalled = _scores([q, k], k, decay, same)
            beta = _split(beta, size)
            # unit lower triangular: the solver reads what is below the diagonal
            right = torch.cat((v, k * entering), dim=-1) * beta
            solved = torch.linalg.solve_triangular(recalled * beta, right, upper=False, unitriangular=True)
            fresh, reread = solved.split((v.shape[-1], width), dim=-1)
        before, written, state = _carry(state, fresh, reread, writing, through)
        y = reading @ before + scores @ written
        return y.flatten(2, 3)[:, :, :length], state


def _step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor | None,
    move: tuple[Tensor, Tensor] | None,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is defined, for a single token: a few small products instead of a chunk's many."""
    moved = None if move is None else move[1].transpose(-1, -2) @ (move[0] @ state)
    state = decay.transpose(-1, -2) * state
    if moved is not None:
        state = state + moved
    if beta is not None:
        v = beta * (v - k @ state)
    state = state + k.transpose(-1, -2) @ v
    return q @ state, state


def _moves(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    recalling: Tensor,
    placing: Tensor,
    decay: Tensor,
    same: Tensor | None,
    first: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the generalized delta rule: what queries find in values and moves, (.., C, 2 C), and both for `_carry`.

    A token recalls the state before it has faded: its decays end with the token before. So the row of each stands where
    that token is, and comes down by one afterwards.
    """
    # rows end with the chunk's last token: what the next chunk's first recalls goes through the state
    earlier = F.pad(recalling[..., 1:, :], (0, 0, 0, 1))
    found, recalled = _scores([q, earlier], torch.stack((k, placing)), decay, None)
    recalled = F.pad(recalled[..., :-1, :], (0, 0, 1, 0))
    entering = F.pad(decay[..., :-1, :].cumsum(-2), (0, 0, 1, 0)).exp()
    if same is not None and first is not None:
        found, recalled, entering = found * same, recalled * same, entering * first
    right = torch.cat((recalled[0] @ v, recalling * entering), dim=-1)
    solved = torch.linalg.solve_triangular(-recalled[1], right, upper=False, unitriangular=True)
    moves, reread = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    return (
        torch.cat((found[0], found[1]), dim=-1),
        torch.cat((v, moves), dim=-2),
        torch.cat((torch.zeros_like(reread), -reread), dim=-2),
    )


def runs(documents_BT: Tensor) -> Tensor:
    """Documents numbered from 0 in the order in which they stand: (B, T). A document ends where its number changes."""
    changed = documents_BT[:, 1:] != documents_BT[:, :-1]
    return F.pad(changed.long(), (1, 0)).cumsum(1)


def _split(x_BHTK: Tensor, size: int) -> Tensor:
    """(B, H, T, K) to (B, H, N, C, K); what is missing of the last chunk is 0, which writes and forgets nothing."""
    missing = -x_BHTK.shape[2] % size
    if missing:
        x_BHTK = F.pad(x_BHTK, (0, 0, 0, missing))
    return x_BHTK.unflatten(2, (-1, size))


def _boundaries(runs_BT: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Factors 0 and 1: pairs of tokens, tokens that the entering state reaches, that reach the end, whole chunks."""
    missing = -runs_BT.shape[1] % size
    if missing:
        runs_BT = torch.cat((runs_BT, runs_BT[:, -1:].expand(-1, missing)), dim=1)
    run = runs_BT.unflatten(1, (-1, size))[:, None, :, :, None]
    final = run[..., -1:, :]
    earlier = torch.cat((run[:, :, :1, :1], final[:, :, :-1]), dim=2)
    same = run == run.transpose(-1, -2)
    return same.float(), (run == earlier).float(), (run == final).float(), (earlier == final).float()


def _following(decay: Tensor) -> Tensor:
    """Log of the decay from after each token to the end: (.., C, K).

    Summed from the end: a difference of sums from the start would lose a slow decay behind a fast one.
    """
    return F.pad(decay[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


def _scores(rows: list[Tensor], k: Tensor, decay: Tensor, same: Tensor | None) -> list[Tensor]:
    """Products of rows with keys no later than they are, under the decay between the two: (B, H, N, C, C) each."""
    if decay.shape[-1] > 1:
        found = _halved(rows, k, decay)
        return found if same is None else [each * same for each in found]
    size = decay.shape[-2]
    between = decay.expand(*decay.shape[:-1], size).tril(-1).cumsum(-2).exp().tril()
    if same is not None:
        between = between * same
    keys = k.transpose(-1, -2)
    return [(row @ keys) * between for row in rows]


def _halved(rows: list[Tensor], k: Tensor, decay: Tensor) -> list[Tensor]:
    """The same where each channel has its own decay.

    The later half of a block sees the earlier one by a product of matrices: keys as they reach the middle, rows as what
    is there reaches them. Then each half by itself.
    """
    size = k.shape[-2]
    if size <= DIRECT:
        later = torch.ones(size, size, dtype=torch.bool, device=k.device).tril(-1)[..., None]
        weighted = torch.where(later, decay.unsqueeze(-2), 0.0).cumsum(-3).exp() * k.unsqueeze(-3)
        return [(row.unsqueeze(-2) * weighted).sum(-1).tril() for row in rows]
    half = size // 2
    keys = (k[..., :half, :] * _following(decay[..., :half, :]).exp()).transpose(-1, -2)
    fade = decay[..., half:, :].cumsum(-2).exp()
    below = [(row[..., half:, :] * fade) @ keys for row in rows]
    halves = _halved([row.unflatten(-2, (2, half)) for row in rows], *(t.unflatten(-2, (2, half)) for t in (k, decay)))
    return [
        torch.cat((F.pad(own[..., 0, :, :], (0, half)), torch.cat((low, own[..., 1, :, :]), dim=-1)), dim=-2)
        for own, low in zip(halves, below, strict=True)
    ]


def _carry(
    state: Tensor, fresh: Tensor, reread: Tensor | None, writing: Tensor, through: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The state before each chunk, (B, H, N, K, V), what each writes, (B, H, N, C, V), and the state after the last.

    C stands for 2 C where moves are written beside values.

    Args:
        fresh: what each chunk would write if it found an empty state, (B, H, N, C, V).
        reread: what it takes off for what it finds is this times the state, (B, H, N, C, K); None: nothing.
        writing: keys as they reach the chunk's end, (B, H, N, K, C).
        through: share of the state that passes each chunk, (.., 1 | K, 1).
    """
    before, written = [], []
    # unbound at once: a gradient of single chunks would fill all others with zeros, chunk by chunk
    shares = through.expand(-1, -1, fresh.shape[2], -1, -1).unbind(2)
    if reread is None:
        for share, added in zip(shares, (writing @ fresh).unbind(2), strict=True):
            before.append(state)
            state = share * state + added
        return torch.stack(before, dim=2), fresh, state
    for share, new, old, keys in zip(shares, fresh.unbind(2), reread.unbind(2), writing.unbind(2), strict=True):
        before.append(state)
        written.append(new - old @ state)
        state = share * state + keys @ written[-1]
    return torch.stack(before, dim=2), torch.stack(written, dim=2), state
