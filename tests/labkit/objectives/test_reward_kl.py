"""The closed-form optimum is a maximum, and the frontier is what lies on top of everything."""

import pytest
import torch

from labkit.objectives.reward_kl import (
    expected_reward,
    objective,
    optimal_log_probs,
    reward_kl_frontier,
    sequence_kl,
)

P, N = 3, 17


@pytest.fixture
def reference(gen):
    return (2.0 * torch.randn(P, N, dtype=torch.float64, generator=gen)).log_softmax(-1)


@pytest.fixture
def rewards(gen):
    return torch.rand(P, N, dtype=torch.float64, generator=gen)


def test_kl_equals_torch_distributions(reference, rewards):
    other = (3.0 * rewards).log_softmax(-1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=other),
        torch.distributions.Categorical(logits=reference),
    )
    torch.testing.assert_close(sequence_kl(other, reference), expected)
    assert not sequence_kl(reference, reference).any()


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_optimum_has_the_value_beta_log_z_and_gradient_zero(reference, rewards, beta):
    best = optimal_log_probs(reference, rewards, beta)
    torch.testing.assert_close(best.exp().sum(-1), torch.ones(P, dtype=torch.float64))
    logits = best.clone().requires_grad_()
    value = objective(logits.log_softmax(-1), reference, rewards, beta)
    log_z = (reference + rewards / beta).logsumexp(-1)
    torch.testing.assert_close(value, beta * log_z)
    value.sum().backward()
    assert logits.grad.abs().max() < 1e-12


def test_nothing_else_is_better(reference, rewards, gen):
    best = objective(optimal_log_probs(reference, rewards, 0.2), reference, rewards, 0.2)
    for _ in range(50):
        other = torch.randn(P, N, dtype=torch.float64, generator=gen).log_softmax(-1)
        assert (objective(other, reference, rewards, 0.2) < best).all()


def test_frontier_runs_from_the_reference_to_the_best_response(reference, rewards):
    betas = torch.tensor([1e3, 3.0, 1.0, 0.3, 0.1, 1e-3])
    kl, reward = reward_kl_frontier(reference, rewards, betas)
    assert (kl.diff() > 0).all()
    assert (reward.diff() > 0).all()
    slopes = reward.diff() / kl.diff()
    assert (slopes.diff() < 0).all(), "concave: each nat buys less than the one before"
    start = expected_reward(reference, rewards).mean().item()
    assert reward[0].item() == pytest.approx(start, abs=1e-3)
    assert reward[-1].item() == pytest.approx(rewards.max(-1).values.mean().item(), abs=1e-3)


def test_refuses_beta(reference, rewards):
    with pytest.raises(ValueError, match=r"beta=0\.0"):
        optimal_log_probs(reference, rewards, 0.0)
