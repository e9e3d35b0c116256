"""Both divergences against float64 loops and scipy; temperature, mask and mixture."""

import pytest
import torch
from scipy.special import rel_entr, softmax

from labkit.objectives.distillation import (
    distillation_loss,
    forward_kl,
    generalized_jsd,
    reverse_kl,
)
from labkit.objectives.language_modelling import IGNORE_INDEX, cross_entropy

B, T, V = 3, 7, 19


@pytest.fixture
def student(gen):
    return (3.0 * torch.randn(B, T, V, generator=gen)).requires_grad_()


@pytest.fixture
def teacher(gen):
    return (3.0 * torch.randn(B, T, V, generator=gen)).requires_grad_()


@pytest.fixture
def mask():
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, 4:] = False
    mask[2, :3] = False
    return mask


def brute_force(student, teacher, mask, temperature, direction):
    """Scipy's elementwise relative entropy at every counted position, in float64."""
    total = 0.0
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                q = softmax(student[b, t].detach().double().numpy() / temperature)
                p = softmax(teacher[b, t].detach().double().numpy() / temperature)
                total += rel_entr(p, q).sum() if direction == "forward" else rel_entr(q, p).sum()
    return temperature**2 * total


@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.7])
@pytest.mark.parametrize(
    ("divergence", "direction"), [(forward_kl, "forward"), (reverse_kl, "reverse")]
)
def test_equals_the_definition(student, teacher, mask, temperature, divergence, direction):
    loss_sum, tokens = divergence(student, teacher, mask, temperature)
    assert tokens == int(mask.sum())
    expected = brute_force(student, teacher, mask, temperature, direction)
    assert loss_sum.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl])
def test_zero_for_equal_logits_and_positive_otherwise(student, teacher, mask, divergence):
    assert divergence(student, student, mask)[0].item() == pytest.approx(0.0, abs=1e-5)
    assert divergence(student, teacher, mask)[0].item() > 1.0


def test_the_two_directions_differ(student, teacher, mask):
    forward, reverse = (f(student, teacher, mask)[0].item() for f in (forward_kl, reverse_kl))
    assert abs(forward - reverse) > 0.01 * forward


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl])
def test_only_the_student_at_counted_positions_gets_a_gradient(student, teacher, mask, divergence):
    divergence(student, teacher, mask, 1.7)[0].backward()
    assert teacher.grad is None
    assert not student.grad[~mask].any()
    assert student.grad[mask].abs().sum(-1).min() > 0


def test_gradient_of_forward_kl_is_tau_times_the_difference_of_probabilities(
    student, teacher, mask
):
    tau = 2.5
    forward_kl(student, teacher, mask, tau)[0].backward()
    difference = torch.softmax(student / tau, -1) - torch.softmax(teacher / tau, -1)
    expected = tau * difference.detach() * mask[..., None]
    torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-6)


def test_gradient_size_hardly_depends_on_a_high_temperature(student, teacher, mask):
    norms = []
    for tau in (20.0, 40.0):
        (gradient,) = torch.autograd.grad(forward_kl(student, teacher, mask, tau)[0], student)
        norms.append(gradient.norm().item())
    assert norms[1] / norms[0] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_mixture_is_the_weighted_sum(student, teacher, gen, direction):
    labels = torch.randint(0, V, (B, T), generator=gen)
    labels[1, 3:] = IGNORE_INDEX
    mask = torch.zeros(B, T, dtype=torch.bool)
    mask[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    loss_sum, tokens = distillation_loss(
        student, teacher, labels, temperature=2.0, hard_weight=0.3, direction=direction
    )
    hard, count = cross_entropy(student, labels)
    soft = brute_force(student, teacher, mask, 2.0, direction)
    assert tokens == count
    assert loss_sum.item() == pytest.approx(0.7 * soft + 0.3 * hard.item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_refuses_temperature(student, teacher, mask, temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature}"):
        forward_kl(student, teacher, mask, temperature)


def test_refuses_weight(student, teacher):
    labels = torch.zeros(B, T, dtype=torch.long)
    with pytest.raises(ValueError, match=r"hard_weight=1\.5"):
        distillation_loss(student, teacher, labels, hard_weight=1.5)


def test_refuses_direction(student, teacher):
    labels = torch.zeros(B, T, dtype=torch.long)
    with pytest.raises(ValueError, match="direction='backward'"):
        distillation_loss(student, teacher, labels, direction="backward")


class TestGeneralizedJsd:
    @pytest.mark.parametrize(("beta", "temperature"), [(0.5, 1.0), (0.1, 1.7), (0.9, 1.0)])
    def test_equals_the_definition(self, student, teacher, mask, beta, temperature):
        loss_sum, tokens = generalized_jsd(
            student, teacher, mask, beta=beta, temperature=temperature
        )
        total = 0.0
        for b, t in mask.nonzero().tolist():
            q = softmax(student[b, t].detach().double().numpy() / temperature)
            p = softmax(teacher[b, t].detach().double().numpy() / temperature)
            m = beta * p + (1 - beta) * q
            total += beta * rel_entr(p, m).sum() + (1 - beta) * rel_entr(q, m).sum()
        assert tokens == int(mask.sum())
        assert loss_sum.item() == pytest.approx(total, rel=1e-5)

    def test_its_ends_are_the_two_divergences(self, student, teacher, mask):
        for beta, divergence in ((0.0, forward_kl), (1.0, reverse_kl)):
            ours, _ = generalized_jsd(student, teacher, mask, beta=beta, temperature=2.0)
            exact = divergence(student, teacher, mask, 2.0)[0] / 4.0
            assert ours.item() == pytest.approx(exact.item(), rel=1e-6)

    def test_near_its_ends_it_is_proportional_to_them(self, student, teacher, mask):
        for beta, divergence in ((1e-4, forward_kl), (1 - 1e-4, reverse_kl)):
            flat = 0.3 * student, 0.3 * teacher  # rare tokens would slow the limit down
            ours, _ = generalized_jsd(*flat, mask, beta=beta)
            exact = divergence(*flat, mask)[0]
            assert ours.item() / 1e-4 == pytest.approx(exact.item(), rel=0.03)

    def test_the_teacher_gets_no_gradient(self, student, teacher, mask):
        generalized_jsd(student, teacher, mask, beta=0.3)[0].backward()
        assert teacher.grad is None
        assert not student.grad[~mask].any()

    def test_refuses_beta(self, student, teacher, mask):
        with pytest.raises(ValueError, match=r"beta=1\.2 must lie between"):
            generalized_jsd(student, teacher, mask, beta=1.2)
