"""Whatever is proposed, what comes out follows p: first token, joint law, and how much is kept."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.inference.sampling import SamplingConfig, next_token_distribution, sample
from labkit.inference.speculation.rejection import (
    acceptance_rate,
    expected_tokens,
    residual,
    speedup,
    verify,
    verify_greedy,
)

DRAWS = 100_000
FEWER = 30_000
# At this level one of some 20 tests below would fail by chance once in 500 seeds; seeds are fixed.
LEVEL = 1e-4


def laws(gen: torch.Generator, *shape: int, top_k: int | None = None) -> torch.Tensor:
    config = SamplingConfig(temperature=1.0, top_k=top_k)
    logits = torch.randn(math.prod(shape[:-1]), shape[-1], generator=gen) * 1.5
    return next_token_distribution(logits, config).view(shape)


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """p-value over all cells; those expected less than 5 times are one cell, impossible ones 0."""
    counts, expected = counts.ravel(), expected.ravel() / expected.sum() * counts.sum()
    assert counts[expected == 0].sum() == 0
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    return scipy.stats.chisquare(counts[kept], expected[kept]).pvalue


def draw(law: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    return torch.multinomial(law, 1, generator=gen).squeeze(-1)


def decode(p: torch.Tensor, q: torch.Tensor, k: int, n: int, gen: torch.Generator) -> torch.Tensor:
    """The first n tokens of DRAWS texts of a chain whose laws (V, V, V) look at two tokens back."""
    texts = torch.zeros(DRAWS, 2 + n + k + 1, dtype=torch.long)  # a start, n, and the last surplus
    ends = torch.full((DRAWS,), 2)
    while len(rows := (ends < 2 + n).nonzero().flatten()):
        before, last = texts[rows, ends[rows] - 2], texts[rows, ends[rows] - 1]
        proposed, targets, drafts = [], [p[before, last]], []
        for _ in range(k):
            drafts.append(q[before, last])
            before, last = last, draw(drafts[-1], gen)
            proposed.append(last)
            targets.append(p[before, last])
        both = torch.stack(targets, 1), torch.stack(drafts, 1)
        accepted, token = verify(torch.stack(proposed, 1), *both, gen)
        new = torch.stack([*proposed, last], 1)
        new[range(len(rows)), accepted] = token
        for place in range(k + 1):
            write = place <= accepted
            texts[rows[write], ends[rows[write]] + place] = new[write, place]
        ends[rows] += accepted + 1
    return texts[:, 2 : 2 + n]


def joint(p: torch.Tensor, n: int) -> torch.Tensor:
    """The exact law (V, ..., V) of the first n tokens, by the product rule."""
    V = p.shape[-1]
    law = torch.zeros(V, V, dtype=torch.float64)
    law[0, 0] = 1.0
    for _ in range(n):
        law = law[..., None] * p.double()
    return law[0, 0]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize(("V", "n", "top_k"), [(4, 3, None), (5, 3, 2), (20, 1, None), (20, 2, 4)])
def test_the_joint_law_of_several_tokens_is_the_targets(gen, k, V, n, top_k):
    p, q = laws(gen, V, V, V, top_k=top_k), laws(gen, V, V, V, top_k=top_k)
    texts = decode(p, q, k, n, gen)
    cells = (texts * V ** torch.arange(n - 1, -1, -1)).sum(1)
    counts = np.bincount(cells.numpy(), minlength=V**n)
    exact = joint(p, n).flatten().numpy()
    assert chi_square(counts, exact) > LEVEL
    # The sampling error alone is sqrt(cells / (2 pi DRAWS)) or less: .010 over 64 equal cells.
    assert np.abs(counts / DRAWS - exact / exact.sum()).sum() / 2 <= 0.01


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30), st.floats(0.1, 6))
def test_accepted_and_resampled_parts_add_up_to_p(seed, V, spread):
    gen = torch.Generator().manual_seed(seed)
    p, q = torch.rand(2, 3, V, generator=gen, dtype=torch.float64).pow(spread).unbind()
    a = acceptance_rate(p, q)[:, None]
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    torch.testing.assert_close(
        torch.minimum(p, q) + (1 - a) * residual(p, q), p, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("k", [1, 2, 4, 8])
@pytest.mark.parametrize("top_k", [None, 3])
def test_acceptance_and_yield_are_the_formulas(gen, k, top_k):
    p, q = laws(gen, 2, 12, top_k=top_k)
    q = (p + q) / 2
    a = float(acceptance_rate(p, q))
    proposed = draw(q.expand(FEWER * k, -1), gen).view(FEWER, k)
    law = (p.expand(FEWER, k + 1, -1), q.expand(FEWER, k, -1))
    accepted = verify(proposed, *law, gen).accepted.double()
    error = math.sqrt(a * (1 - a) / FEWER)
    assert abs(float((accepted >= 1).double().mean()) - a) < 4 * error
    tokens = accepted + 1
    error = float(tokens.std()) / math.sqrt(FEWER)
    assert abs(float(tokens.mean()) - expected_tokens(a, k)) < 4 * error
    # Not only its mean: the number accepted is geometric, cut at k.
    exact = np.array([a**i * (1 - a) for i in range(k)] + [a**k])
    assert chi_square(np.bincount(accepted.long().numpy(), minlength=k + 1), exact) > LEVEL


def test_the_bonus_token_follows_the_law_after_the_last_proposal(gen):
    p = laws(gen, 3, 9)
    proposed = torch.stack([draw(p[i].expand(FEWER, -1), gen) for i in range(2)], 1)
    verdict = verify(proposed, p.expand(FEWER, 3, 9), p[:2].expand(FEWER, 2, 9), gen)
    assert verdict.accepted.eq(2).all()
    counts = np.bincount(verdict.next_token.numpy(), minlength=9)
    assert chi_square(counts, p[2].double().numpy()) > LEVEL


def test_certain_proposals_are_point_masses(gen):
    p = laws(gen, 40, 3, 7)
    proposed = torch.randint(7, (40, 2), generator=gen)
    q = torch.nn.functional.one_hot(proposed, 7).float()
    seeded = [torch.Generator().manual_seed(i) for i in range(40)]
    again = [torch.Generator().manual_seed(i) for i in range(40)]
    one, two = verify(proposed, p, None, seeded), verify(proposed, p, q, again)
    assert torch.equal(one.accepted, two.accepted)
    assert torch.equal(one.next_token, two.next_token)
    rejected = one.accepted < 2
    assert rejected.any()
    assert (one.next_token != proposed[range(40), one.accepted.clamp(max=1)])[rejected].all()


def test_certain_proposals_leave_the_law_alone(gen):
    p = laws(gen, 8)
    proposed = torch.full((FEWER, 1), 3)
    verdict = verify(proposed, p.expand(FEWER, 2, 8), None, gen)
    first = torch.where(verdict.accepted == 1, 3, verdict.next_token)
    assert chi_square(np.bincount(first.numpy(), minlength=8), p.double().numpy()) > LEVEL


def test_greedy_is_the_law_of_temperature_zero(gen):
    logits = torch.randn(60, 4, 3, generator=gen)
    best = logits.argmax(-1)
    proposed = best[:, :3].clone()
    proposed[torch.rand(60, 3, generator=gen) < 0.3] = 1
    config = SamplingConfig(temperature=0.0)
    p = next_token_distribution(logits.flatten(0, 1), config).view(logits.shape)
    lengths = torch.randint(4, (60,), generator=gen)
    for given_lengths in (None, lengths):
        greedy = verify_greedy(proposed, best, lengths=given_lengths)
        drawn = verify(proposed, p, None, gen, lengths=given_lengths)
        assert torch.equal(greedy.accepted, drawn.accepted)
        assert torch.equal(greedy.next_token, drawn.next_token)
        assert len(greedy.accepted.unique()) == 4


def test_ragged_rows_are_what_they_are_alone(gen):
    k, V = 4, 11
    lengths = torch.tensor([0, 1, 2, 3, 4, 4, 2, 0])
    p, q = laws(gen, 8, k + 1, V), laws(gen, 8, k, V)
    q = (q + 3 * p[:, :k]) / 4
    for seed in range(30):
        proposed = sample(q.flatten(0, 1), gen).view(8, k)
        together = verify(
            proposed, p, q, [torch.Generator().manual_seed(seed + i) for i in range(8)],
            lengths=lengths,
        )  # fmt: skip
        for row, n in enumerate(lengths.tolist()):
            alone = verify(
                proposed[row : row + 1, :n], p[row : row + 1, : n + 1], q[row : row + 1, :n],
                [torch.Generator().manual_seed(seed + row)],
            )  # fmt: skip
            assert together.accepted[row] == alone.accepted[0]
            assert together.next_token[row] == alone.next_token[0]


def test_rows_need_not_sum_to_one_and_are_left_alone(gen):
    p, q = laws(gen, 30, 3, 6), laws(gen, 30, 2, 6)
    proposed = sample(q.flatten(0, 1), gen).view(30, 2)
    kept = (p.clone(), q.clone())
    one = verify(proposed, p, q, torch.Generator().manual_seed(3))
    two = verify(proposed, p * 8, q * 0.25, torch.Generator().manual_seed(3))
    assert torch.equal(one.accepted, two.accepted)
    assert torch.equal(one.next_token, two.next_token)
    assert torch.equal(p, kept[0])
    assert torch.equal(q, kept[1])


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_extreme_draws(u, monkeypatch):
    def rand(shape: int | tuple[int, ...], **options: object) -> torch.Tensor:
        size = (shape,) if isinstance(shape, int) else shape
        return torch.full(size, u, dtype=torch.float64)

    monkeypatch.setattr(torch, "rand", rand)
    p = torch.tensor([[[0.0, 0.5, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]]])
    q = torch.tensor([[[0.5, 0.0, 0.5, 0.0]]])
    impossible = verify(torch.tensor([[0]]), p, q, torch.Generator())
    assert (impossible.accepted.item(), impossible.next_token.item()) == (0, 1)
    sure = verify(torch.tensor([[2]]), p, q, torch.Generator())
    assert sure.accepted.item() == 1
    # Equal laws in float32, whose sums differ from 1 in the last digit, are never rejected.
    same = torch.tensor([[0.1, 0.2, 0.3, 0.4000001]])
    equal = verify(
        torch.tensor([[3]]), torch.stack((same, same), 1), same[None] * 4, torch.Generator()
    )
    assert equal.accepted.item() == 1


def test_the_residual_of_equal_laws_is_the_law(gen):
    p = laws(gen, 4, 9)
    torch.testing.assert_close(residual(p, p), p.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(residual(p, p * 0), p.double(), rtol=1e-6, atol=0)


def test_no_proposals_are_a_plain_draw(gen):
    p = laws(gen, 5, 1, 8)
    empty = torch.zeros(5, 0, dtype=torch.long)
    verdict = verify(empty, p, None, [torch.Generator().manual_seed(i) for i in range(5)])
    plain = sample(p[:, 0], [torch.Generator().manual_seed(i) for i in range(5)])
    assert verdict.accepted.tolist() == [0] * 5
    assert torch.equal(verdict.next_token, plain)


def test_the_formulas_of_the_paper():
    for a in (0.0, 0.3, 0.75, 0.99):
        for k in (0, 1, 5, 7):
            closed = (1 - a ** (k + 1)) / (1 - a)
            assert expected_tokens(a, k) == pytest.approx(closed, rel=1e-12)
    assert expected_tokens(1.0, 5) == 6
    assert speedup(0.75, 7, cost=0.0) == pytest.approx(3.60, abs=0.005)
    assert speedup(0.8, 5, cost=0.0) == pytest.approx(3.69, abs=0.005)  # the paper's table 1
    assert speedup(0.8, 5, cost=0.2) == pytest.approx((1 - 0.8**6) / 0.2 / 2)
    assert speedup(0.0, 4, cost=0.25) == 0.5


@pytest.mark.parametrize(("a", "k"), [(-0.1, 2), (1.1, 2), (0.5, -1), (float("nan"), 1)])
def test_formulas_refuse_what_is_no_rate(a, k):
    with pytest.raises(ValueError, match="must lie in"):
        expected_tokens(a, k)


def test_verify_refuses_what_does_not_belong_together(gen):
    p, q, proposed = laws(gen, 2, 3, 5), laws(gen, 2, 2, 5), torch.tensor([[0, 1], [2, 3]])
    none = q.clone()
    none[1, 1, 3] = 0
    with pytest.raises(ValueError, match="probability 0 under q"):
        verify(proposed, p, none, gen)
    verify(proposed, p, none, gen, lengths=torch.tensor([2, 1]))  # it is no proposal here
    with pytest.raises(ValueError, match=r"lengths=\[2, 3\]"):
        verify(proposed, p, q, gen, lengths=torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="sum to"):
        verify(proposed, p * float("nan"), q, gen)
