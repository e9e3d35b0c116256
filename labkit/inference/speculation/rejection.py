"""Rejection sampling of proposed tokens: whatever proposes, what comes out has the target's law."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from labkit.inference.sampling import sample


class Verdict(NamedTuple):
    """What became of k proposals a row: the first `accepted` stand, and `next_token` follows."""

    accepted: Int[Tensor, "B"]
    next_token: Int[Tensor, "B"]


def verify(
    proposed: Int[Tensor, "B k"],
    p: Float[Tensor, "B k+1 V"],
    q: Float[Tensor, "B k V"] | None,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    lengths: Int[Tensor, "B"] | None = None,
) -> Verdict:
    """Accept proposal x with probability min(1, p(x) / q(x)), up to the first rejection.

    The token after the accepted ones is drawn from max(0, p - q) / Z where a proposal was rejected,
    and from p where none was left: that is the same formula with q = 0. Both together follow p,
    provided that x was drawn from q. Each row uses one uniform number a proposal and one more.

    Paper: arXiv 2211.17192, algorithm 1; arXiv 2302.01318, algorithm 2.

    Args:
        proposed: Draft tokens, each drawn given the ones before it.
        p: The target's distributions at each proposal and after the last; rows need not sum to 1.
        q: The distributions the proposals were drawn from; None: each was certain, q(x) = 1.
        generator: One for all rows, or one a row; not one that would repeat the draft's numbers.
        lengths: How many of a row's k columns are proposals, for ragged rows; default: all.

    Raises:
        ValueError: Shapes disagree, or a proposal has probability 0 under q.
    """
    B, k = proposed.shape
    if lengths is None:
        lengths = torch.full((B,), k, device=proposed.device)
    q = _point_masses(proposed, p) if q is None else q
    _check(proposed, p, q, lengths)
    tested = torch.arange(k, device=proposed.device) < lengths[:, None]
    p_x, q_x = _probability(p[:, :k], proposed), _probability(q, proposed)
    if bool(((q_x <= 0) & tested).any()):
        raise ValueError("a proposal has probability 0 under q: pass the q it was drawn from")
    accept = (_uniforms(lengths, k, generator) * q_x < p_x) & tested
    accepted = accept.cumprod(dim=1).sum(dim=1)
    rows = torch.arange(B, device=p.device)
    q_next = functional.pad(q, (0, 0, 0, 1))[rows, accepted] * (accepted < lengths)[:, None]
    return Verdict(accepted, sample(residual(p[rows, accepted], q_next), generator))


def verify_greedy(
    proposed: Int[Tensor, "B k"],
    best: Int[Tensor, "B k+1"],
    *,
    lengths: Int[Tensor, "B"] | None = None,
) -> Verdict:
    """`verify` at temperature 0: the proposals that are the target's best token, then its next one.

    Args:
        proposed: Draft tokens.
        best: The target's largest logit at each proposal and after the last.
        lengths: As in `verify`.
    """
    k = proposed.shape[1]
    accept = proposed == best[:, :k]
    if lengths is not None:
        accept = accept & (torch.arange(k, device=proposed.device) < lengths[:, None])
    accepted = accept.cumprod(dim=1).sum(dim=1)
    return Verdict(accepted, best.gather(1, accepted[:, None]).squeeze(1))


def residual(p: Float[Tensor, "B V"], q: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """max(0, p - q) / Z in float64, of p and q scaled to sum to 1; a row of q may be all 0.

    Where p = q nothing is ever rejected, and the row is p.
    """
    p, q = _normalised(p), _normalised(q)
    rest = (p - q).clamp(min=0)
    Z = rest.sum(dim=-1, keepdim=True)
    return torch.where(Z > 0, rest / Z.where(Z > 0, 1.0), p)


def acceptance_rate(p: Float[Tensor, "*B V"], q: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """a = sum min(p, q) = 1 - TV(p, q): the probability that a draw from q is accepted.

    Paper: arXiv 2211.17192, section 3.2.
    """
    return torch.minimum(_normalised(p), _normalised(q)).sum(dim=-1)


def expected_tokens(acceptance: float, draft_tokens: int) -> float:
    """(1 - a^(k+1)) / (1 - a): tokens that a pass over k proposals yields, one in k at the least.

    This takes acceptances as independent and equally likely; k + 1 at a = 1.

    Paper: arXiv 2211.17192, section 3.1.

    Args:
        acceptance: a, in [0, 1].
        draft_tokens: k, proposals a pass.

    Raises:
        ValueError: A value lies outside its range.
    """
    if not 0 <= acceptance <= 1 or draft_tokens < 0:
        raise ValueError(
            f"acceptance={acceptance} must lie in [0, 1], draft_tokens={draft_tokens} be >= 0"
        )
    return sum(acceptance**i for i in range(draft_tokens + 1))


def speedup(acceptance: float, draft_tokens: int, *, cost: float) -> float:
    """(1 - a^(k+1)) / ((1 - a) (k c + 1)): tokens a second over those of plain decoding.

    Paper: arXiv 2211.17192, section 3.3. Differs: there c is a draft pass alone, since a pass over
    k + 1 tokens is taken to cost no more than one over a single token.

    Args:
        acceptance: a.
        draft_tokens: k.
        cost: c, of one more proposal in passes of the target over one token: its draft pass, and
            what it adds to the target's pass.
    """
    return expected_tokens(acceptance, draft_tokens) / (draft_tokens * cost + 1)


def _check(proposed: Tensor, p: Tensor, q: Tensor, lengths: Tensor) -> None:
    B, k = proposed.shape
    if p.shape[:2] != (B, k + 1) or q.shape != (B, k, p.shape[-1]):
        raise ValueError(
            f"{k} proposals in {B} rows need p of ({B}, {k + 1}, V) and q of ({B}, {k}, V), "
            f"not {tuple(p.shape)} and {tuple(q.shape)}"
        )
    if bool(((lengths < 0) | (lengths > k)).any()):
        raise ValueError(f"lengths={lengths.tolist()} must lie in [0, {k}]")


def _point_masses(proposed: Tensor, like: Tensor) -> Tensor:
    masses = like.new_zeros(*proposed.shape, like.shape[-1])
    return masses.scatter_(-1, proposed[..., None], 1.0)


def _probability(law: Tensor, tokens: Tensor) -> Tensor:
    chosen = law.gather(-1, tokens[..., None]).squeeze(-1).double()
    return chosen / law.sum(dim=-1, dtype=torch.float64)


def _normalised(law: Tensor) -> Tensor:
    total = law.sum(dim=-1, keepdim=True, dtype=torch.float64)
    return law.double() / total.where(total > 0, 1.0)


def _uniforms(
    lengths: Tensor, k: int, generator: torch.Generator | Sequence[torch.Generator]
) -> Tensor:
    """Numbers in [0, 1), (B, k); a row with its own generator draws for its own proposals only."""
    if isinstance(generator, torch.Generator):
        shape = (len(lengths), k)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return drawn.to(lengths.device)
    uniform = torch.zeros(len(lengths), k, dtype=torch.float64)
    for row, (length, own) in enumerate(zip(lengths.tolist(), generator, strict=True)):
        drawn = torch.rand(length, generator=own, dtype=torch.float64, device=own.device)
        uniform[row, :length] = drawn
    return uniform.to(lengths.device)
