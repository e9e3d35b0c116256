"""Estimators against sums over all outcomes; the controller against its rule."""

import pytest
import torch

from labkit.objectives.kl_estimators import adapted_kl_coef, k1, k2, k3

V = 7


@pytest.fixture
def p(gen):
    return torch.randn(V, dtype=torch.float64, generator=gen).requires_grad_()


@pytest.fixture
def log_q(gen):
    return torch.randn(V, dtype=torch.float64, generator=gen).log_softmax(-1)


def divergence(log_a, log_b):
    return (log_a.exp() * (log_a - log_b)).sum()


@pytest.mark.parametrize("estimator", [k1, k3])
def test_unbiased(p, log_q, estimator):
    log_p = p.log_softmax(-1)
    expected = divergence(log_p, log_q).item()
    assert (log_p.exp() * estimator(log_p, log_q)).sum().item() == pytest.approx(expected, rel=1e-9)


def test_k2_is_biased_but_close_when_the_distributions_are(p, log_q):
    log_p = p.log_softmax(-1)
    assert abs((log_p.exp() * k2(log_p, log_q)).sum() - divergence(log_p, log_q)) > 0.01
    near = (p + 0.01 * log_q).log_softmax(-1)
    ratio = (log_p.exp() * k2(log_p, near)).sum() / divergence(log_p, near)
    assert ratio.item() == pytest.approx(1.0, abs=0.02)


def test_k3_is_never_negative_and_k1_is(p, log_q):
    assert k3(p.log_softmax(-1), log_q).min() >= 0
    assert k1(p.log_softmax(-1), log_q).min() < 0


@pytest.mark.parametrize(("estimator", "direction"), [(k2, "reverse"), (k3, "forward")])
def test_gradient_as_a_loss_is_that_of_one_direction(p, log_q, estimator, direction):
    """Sampling weights are constants to the loss, as they are in GRPO."""
    log_p = p.log_softmax(-1)
    (ours,) = torch.autograd.grad((log_p.detach().exp() * estimator(log_p, log_q)).sum(), p)
    log_p = p.log_softmax(-1)
    pair = (log_p, log_q) if direction == "reverse" else (log_q, log_p)
    (exact,) = torch.autograd.grad(divergence(*pair), p)
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(6.0, 0.5), (6.6, 0.505), (5.4, 0.495), (60.0, 0.51), (0.0, 0.49)],
)
def test_controller_moves_by_the_clipped_relative_error(kl, expected):
    assert adapted_kl_coef(0.5, kl, 6.0) == pytest.approx(expected, rel=1e-9)


def test_controller_refuses_a_target_of_zero():
    with pytest.raises(ValueError, match=r"target_nats=0\.0"):
        adapted_kl_coef(0.5, 1.0, 0.0)
