"""Preference losses: values by hand in float64, signs of gradients, invariances, refusals."""

import math

import pytest
import torch

from labkit.objectives.preference import (
    bradley_terry_loss,
    dpo_loss,
    ipo_loss,
    kto_baseline,
    kto_loss,
    log_odds,
    orpo_loss,
)
from labkit.objectives.sequence_log_probs import sequence_log_probs

B = 5


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


@pytest.fixture
def four(gen):
    """Policy chosen and rejected, reference chosen and rejected; all could get a gradient."""
    return [(-9.0 * torch.rand(B, generator=gen)).requires_grad_() for _ in range(4)]


def by_hand(four, b):
    pc, pr, rc, rr = (x[b].item() for x in four)
    return (pc - rc) - (pr - rr)


class TestDpo:
    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_equals_equation_7(self, four, smoothing):
        losses = dpo_loss(*four, beta=0.3, label_smoothing=smoothing)
        for b in range(B):
            h = 0.3 * by_hand(four, b)
            right, wrong = math.log(sigmoid(h)), math.log(sigmoid(-h))
            expected = -(1 - smoothing) * right - smoothing * wrong
            assert losses[b].item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_is_log_2_where_policy_and_reference_agree(self, four, smoothing):
        losses = dpo_loss(*four[:2], *four[:2], beta=0.7, label_smoothing=smoothing)
        assert losses.tolist() == pytest.approx([math.log(2)] * B, abs=1e-6)

    def test_a_shared_shift_of_the_logits_changes_nothing(self, gen):
        """Of the policy alone, at every position another one: softmax does not see it."""
        logits, fixed = torch.randn(2, 4, 6, 11, generator=gen)
        labels = torch.randint(11, (4, 6), generator=gen)
        shift = 5.0 * torch.randn(4, 6, 1, generator=gen)
        reference = sequence_log_probs(fixed, labels)[0].chunk(2)
        plain, shifted = (
            dpo_loss(*sequence_log_probs(x, labels)[0].chunk(2), *reference, beta=0.4)
            for x in (logits, logits + shift)
        )
        torch.testing.assert_close(plain, shifted, rtol=1e-5, atol=1e-6)

    def test_gradient_raises_chosen_lowers_rejected_and_spares_the_reference(self, four):
        dpo_loss(*four, beta=0.3).sum().backward()
        chosen, rejected, *fixed = (x.grad for x in four)
        weights = [0.3 * sigmoid(-0.3 * by_hand(four, b)) for b in range(B)]
        assert chosen.tolist() == pytest.approx([-w for w in weights], rel=1e-5)
        assert rejected.tolist() == pytest.approx(weights, rel=1e-5)
        assert fixed == [None, None]

    def test_smoothing_has_its_minimum_at_the_noise(self):
        """With 20% of labels wrong the best margin is log(0.8 / 0.2), not infinity."""
        margin = torch.tensor([math.log(4.0)], requires_grad=True)
        zero = torch.zeros(1)
        dpo_loss(margin, zero, zero, zero, beta=1.0, label_smoothing=0.2).sum().backward()
        assert margin.grad.item() == pytest.approx(0.0, abs=1e-6)

    @pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
    def test_refuses_beta(self, four, beta):
        with pytest.raises(ValueError, match=f"beta={beta} must be positive"):
            dpo_loss(*four, beta=beta)

    def test_refuses_smoothing(self, four):
        with pytest.raises(ValueError, match=r"label_smoothing=0\.5"):
            dpo_loss(*four, beta=0.1, label_smoothing=0.5)


class TestIpo:
    def test_equals_equation_17(self, four):
        losses = ipo_loss(*four, beta=0.3)
        expected = [(by_hand(four, b) - 1 / 0.6) ** 2 for b in range(B)]
        assert losses.tolist() == pytest.approx(expected, rel=1e-4)

    def test_a_margin_beyond_the_target_is_pulled_back(self):
        margin = torch.tensor([9.0], requires_grad=True)
        zero = torch.zeros(1)
        ipo_loss(margin, zero, zero, zero, beta=0.1).sum().backward()
        assert margin.grad.item() > 0

    def test_refuses_beta(self, four):
        with pytest.raises(ValueError, match=r"beta=0\.0"):
            ipo_loss(*four, beta=0.0)


class TestOrpo:
    def test_equals_equations_6_and_7(self, four):
        chosen, rejected = (x / 3 for x in four[:2])
        losses = orpo_loss(chosen, rejected, weight=0.4)
        for b in range(B):
            p, q = math.exp(chosen[b].item()), math.exp(rejected[b].item())
            ratio = math.log((p / (1 - p)) / (q / (1 - q)))
            expected = -math.log(p) - 0.4 * math.log(sigmoid(ratio))
            assert losses[b].item() == pytest.approx(expected, rel=1e-5)

    def test_gradient_raises_chosen_and_lowers_rejected(self, four):
        orpo_loss(*four[:2], weight=0.4).sum().backward()
        assert (four[0].grad < -1).all(), "more than the likelihood alone"
        assert (four[1].grad > 0).all()

    def test_weight_zero_is_fine_tuning(self, four):
        assert torch.equal(orpo_loss(*four[:2], weight=0.0), -four[0])

    @pytest.mark.parametrize("log_p", [-1e-7, -1e-3, -0.5, -80.0])
    def test_log_odds_near_both_ends(self, log_p):
        odds = log_odds(torch.tensor([log_p]))
        assert odds.item() == pytest.approx(log_p - math.log(-math.expm1(log_p)), rel=1e-5)

    def test_a_saturated_model_has_a_finite_loss_and_gradient(self):
        chosen = torch.zeros(1, requires_grad=True)
        loss = orpo_loss(chosen, torch.tensor([-3.0]), weight=1.0).sum()
        loss.backward()
        assert math.isfinite(loss.item())
        assert chosen.grad.item() == -1.0

    def test_refuses_weight(self, four):
        with pytest.raises(ValueError, match=r"weight=-0\.1"):
            orpo_loss(*four[:2], weight=-0.1)


class TestKto:
    desirable = torch.tensor([True, False, True, True, False])

    def test_equals_the_definition(self, four):
        z = torch.tensor(0.8)
        losses = kto_loss(
            *four[:2], self.desirable, z, beta=0.3, desirable_weight=1.2, undesirable_weight=0.7
        )
        for b, good in enumerate(self.desirable.tolist()):
            gain = 0.3 * (four[0][b].item() - four[1][b].item() - 0.8)
            expected = 1.2 * (1 - sigmoid(gain)) if good else 0.7 * (1 - sigmoid(-gain))
            assert losses[b].item() == pytest.approx(expected, rel=1e-5)

    def test_gradient_signs_and_frozen_parts(self, four):
        z = torch.tensor(0.8, requires_grad=True)
        kto_loss(*four[:2], self.desirable, z, beta=0.3).sum().backward()
        assert (four[0].grad[self.desirable] < 0).all()
        assert (four[0].grad[~self.desirable] > 0).all()
        assert four[1].grad is None
        assert z.grad is None

    def test_half_where_policy_and_reference_agree(self, four):
        losses = kto_loss(four[0], four[0], self.desirable, torch.zeros(()), beta=0.3)
        assert losses.tolist() == pytest.approx([0.5] * B)

    def test_baseline_is_a_mean_cut_off_at_zero_without_gradient(self, four):
        above = kto_baseline(four[0] + 20.0, four[1])
        expected = sum(four[0].tolist()) / B + 20.0 - sum(four[1].tolist()) / B
        assert above.item() == pytest.approx(expected, rel=1e-5)
        assert not above.requires_grad
        assert kto_baseline(four[0] - 20.0, four[1]).item() == 0.0

    def test_refuses_beta(self, four):
        with pytest.raises(ValueError, match=r"beta=-2\.0"):
            kto_loss(*four[:2], self.desirable, torch.zeros(()), beta=-2.0)


def test_bradley_terry(four):
    losses = bradley_terry_loss(*four[:2])
    for b in range(B):
        expected = -math.log(sigmoid(four[0][b].item() - four[1][b].item()))
        assert losses[b].item() == pytest.approx(expected, rel=1e-5)
    losses.sum().backward()
    assert (four[0].grad < 0).all()
    torch.testing.assert_close(four[0].grad, -four[1].grad)
