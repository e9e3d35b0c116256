"""labkit's methods in the shapes that lab 11's exercises ask for: expected values."""

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from labkit.inference.sampling import SamplingConfig, next_token_distribution
from labkit.inference.speculation import rejection
from labkit.inference.structured.automaton import Automaton
from labkit.inference.structured.masks import TokenMasks
from labkit.inference.structured.trie import TokenTrie

Draft = Callable[[list[int], int], list[int]]


def verify(
    proposed: Tensor, p: Tensor, q: Tensor | None, lengths: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Row by row and in exact fractions; labkit draws its uniform numbers itself."""
    V = p.shape[2]
    accepted, tokens = [], []
    for row, length in enumerate(lengths.tolist()):
        place = 0
        while place < length:
            x = proposed[row, place]
            q_x = Fraction(1) if q is None else Fraction(float(q[row, place, x]))
            if Fraction(float(u[row, place])) * q_x >= Fraction(float(p[row, place, x])):
                break
            place += 1
        certain = torch.nn.functional.one_hot(proposed.clamp(min=0), V)
        drawn_from = certain.double() if q is None else q.double()
        q_next = drawn_from[row, place] if place < length else torch.zeros(V).double()
        law = rejection.residual(p[row, place][None], q_next[None])
        accepted.append(place)
        tokens.append(_first_above(law[0].tolist(), float(u[row, -1])))
    return torch.tensor(accepted), torch.tensor(tokens)


def _first_above(law: list[float], u: float) -> int:
    """min {v : C(v) > u C(V)}."""
    weights = [Fraction(x) for x in law]
    left, token = Fraction(u) * sum(weights), 0
    while left >= weights[token]:
        left -= weights[token]
        token += 1
    return token


def plan_speculation(
    target_logits: Tensor,
    draft_logits: Tensor,
    start: int,
    temperature: float,
    top_p: float | None,
    pass_cost: list[float],
    draft_cost: float,
) -> tuple[Tensor, int, float]:
    """Backwards: a pass from a state yields 1 and, for each accepted token, what follows it."""
    config = SamplingConfig(temperature=temperature, top_p=top_p)
    p, q = (next_token_distribution(z, config).double() for z in (target_logits, draft_logits))
    accepted = torch.minimum(p, q)
    tokens, expected = torch.ones(len(p)).double(), []
    for _ in pass_cost:
        expected.append(tokens[start])
        tokens = 1 + accepted @ tokens
    speedups = [
        float(E) / (cost + k * draft_cost)
        for k, (E, cost) in enumerate(zip(expected, pass_cost, strict=True))
    ]
    best = speedups.index(max(speedups))
    return torch.stack(expected), best, speedups[best]


def guess_by_vote(ids: list[int], k: int, longest: int) -> list[int]:
    """Count what followed each suffix, the longest with any follower first."""
    text = list(ids)
    for _ in range(k):
        for n in range(longest, 0, -1):
            starts = range(len(text) - n)
            followers = [text[i + n] for i in starts if text[i : i + n] == text[-n:]]
            if n < len(text) and followers:
                text.append(Counter(reversed(followers)).most_common(1)[0][0])
                break
        else:
            break
    return text[len(ids) :]


def speculate(
    model: Any, draft: Draft, prompt: list[int], k: int, budget: int, eos: int
) -> list[int]:
    """The loop of labkit's decoder around its greedy verification."""
    ids = [*prompt, int(model.read(prompt)[-1].argmax())]
    last = len(prompt) + budget
    while len(ids) < last and ids[-1] != eos:
        most = min(k, last - len(ids) - 1)
        guesses = draft(list(ids), most) if most else []
        logits = model.read([ids[-1], *guesses])
        proposed = torch.tensor([guesses], dtype=torch.long)
        accepted, token = rejection.verify_greedy(proposed, logits.argmax(-1)[None])
        for fresh in [*guesses[: int(accepted)], int(token)]:
            ids.append(fresh)
            if fresh == eos:
                break
        model.truncate(len(ids) - 1)
    return ids[len(prompt) :]


class _Table(Automaton):
    """An automaton all of whose rows are known; state s of the table is its state s + 1."""

    def __init__(self, step: Tensor) -> None:
        S = len(step)
        self.table = np.concatenate([np.zeros((1, 256)), step.numpy() + 1]).astype(np.int32)
        self.known = np.ones(S + 1, dtype=bool)
        self.distance = np.full(S + 1, math.inf)


def token_masks(
    step: Tensor, accepting: Tensor, tokens: list[bytes], eos_id: int
) -> tuple[Tensor, Tensor]:
    """labkit's walk of its trie through the table; its distance to the end counts tokens here."""
    automaton, states = _Table(step), range(1, len(step) + 1)
    masks = TokenMasks(TokenTrie([token or None for token in tokens]), automaton, eos_id)
    ends = np.stack([masks.ends(state) for state in states])
    automaton.distance[1:][accepting.numpy()] = 0
    for _ in states:  # each round finds the states that are one token farther from the end
        nearest = automaton.distance[ends].min(axis=1) + 1
        automaton.distance[1:] = np.minimum(automaton.distance[1:], nearest)
    allowed = torch.stack([masks.allowed(state) for state in states])
    return torch.from_numpy(ends.astype(np.int64)) - 1, allowed


def laws_in_time(
    ends: Tensor, accepting: Tensor, probs: Tensor, eos_id: int, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """From the definitions, state by state, with what was found kept."""
    S, V = ends.shape

    def after(state: int, token: int, left: int) -> float:
        """The probability to finish in time once this token is written."""
        if token == eos_id:
            return float(accepting[state])
        reached = int(ends[state, token])
        return finish(reached, left - 1) if reached >= 0 else 0.0

    @cache
    def finish(state: int, left: int) -> float:
        if not left:
            return 0.0
        return math.fsum(float(probs[state, v]) * after(state, v, left) for v in range(V))

    total = torch.tensor([finish(state, budget) for state in range(S)], dtype=torch.float64)
    reach = torch.tensor(
        [[after(s, v, budget) for v in range(V)] for s in range(S)], dtype=torch.float64
    )
    open_ = probs.double() * (reach > 0)
    mass = open_.sum(1, keepdim=True)
    masked = open_ / mass.where(mass > 0, 1.0)
    conditional = probs.double() * reach / total.where(total > 0, 1.0)[:, None]
    return total, masked, conditional


def diagnose(verifier: Any, vocab_size: int) -> str:
    """Laws with so many zeros that each fault draws what cannot be, or never what must be."""

    def law(**places: float) -> Tensor:
        row = torch.zeros(vocab_size)
        for name, value in places.items():
            row[int(name[1:])] = value
        return row

    def outcome(token: int, p: list[Tensor], q: Tensor) -> tuple[Tensor, Tensor]:
        proposed = torch.full((400, 1), token)
        return cast(
            tuple[Tensor, Tensor],
            verifier(proposed, torch.stack(p), q[None], 1).unbind(1),
        )

    first, unlikely = law(_0=1.0), law(_0=0.75, _1=0.25)
    _, bonus = outcome(0, [first, law(_3=1.0)], first)
    if not bool((bonus == 3).all()):
        return "bonus_from_draft"
    accepted, _ = outcome(1, [unlikely, first], law(_0=0.5, _1=0.5))
    if not bool(accepted.any()):
        return "accepts_if_larger"
    _, again = outcome(2, [law(_0=0.5, _1=0.5), first], law(_1=0.5, _2=0.5))
    if bool((again == 2).any()):
        return "absolute_residual"
    return "again_from_p" if bool((again == 1).any()) else "healthy"


IMPLEMENTATIONS: dict[str, Any] = {
    "verify": verify,
    "plan_speculation": plan_speculation,
    "guess_by_vote": guess_by_vote,
    "speculate": speculate,
    "token_masks": token_masks,
    "laws_in_time": laws_in_time,
    "diagnose": diagnose,
}
