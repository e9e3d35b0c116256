"""GAE, clipping and group baselines against loops in float64, and masks that really mask."""

import math

import pytest
import torch

from labkit.objectives.policy_gradient import (
    clipped_surrogate,
    clipped_value_loss,
    generalized_advantages,
    group_advantages,
    grpo_loss,
    summed_loss,
    whitened,
)

B, T = 3, 9


@pytest.fixture
def mask():
    """Ragged responses behind prompts; the second has a gap, the third a single token."""
    mask = torch.zeros(B, T, dtype=torch.bool)
    mask[0, 2:8] = True
    mask[1, 1:9] = True
    mask[1, 4] = False
    mask[2, 5] = True
    return mask


@pytest.fixture
def numbers(gen):
    """Also where nothing counts, so that a forgotten mask shows."""
    return lambda: torch.randn(B, T, dtype=torch.float64, generator=gen)


class TestGae:
    @pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.7), (1.0, 1.0), (0.97, 0.0), (0.0, 0.5)])
    def test_equals_the_double_sum(self, numbers, mask, gamma, lam):
        rewards, values = numbers(), numbers()
        advantages, returns = generalized_advantages(rewards, values, mask, gamma=gamma, lam=lam)
        for b in range(B):
            r, v = rewards[b, mask[b]].tolist(), [*values[b, mask[b]].tolist(), 0.0]
            deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
            for i, t in enumerate(mask[b].nonzero().flatten().tolist()):
                expected = sum((gamma * lam) ** k * d for k, d in enumerate(deltas[i:]))
                assert advantages[b, t].item() == pytest.approx(expected, abs=1e-6)
                assert returns[b, t].item() == pytest.approx(expected + v[i], abs=1e-6)
        assert not advantages[~mask].any()
        assert not returns[~mask].any()

    def test_lambda_1_is_reward_to_go_less_value(self, numbers, mask):
        rewards, values = numbers(), numbers()
        _, returns = generalized_advantages(rewards, values, mask, gamma=1.0, lam=1.0)
        to_go = (rewards * mask).flip(-1).cumsum(-1).flip(-1)
        torch.testing.assert_close(returns, to_go * mask)

    def test_carries_no_gradient_and_changes_no_input(self, numbers, mask):
        rewards, values = numbers(), numbers().requires_grad_()
        before = rewards.clone()
        advantages, returns = generalized_advantages(rewards, values, mask, gamma=0.9, lam=0.9)
        assert not advantages.requires_grad
        assert not returns.requires_grad
        assert torch.equal(rewards, before)

    @pytest.mark.parametrize(("gamma", "lam"), [(1.1, 0.5), (0.9, -0.1)])
    def test_refuses(self, numbers, mask, gamma, lam):
        with pytest.raises(ValueError, match=f"gamma={gamma} and lam={lam}"):
            generalized_advantages(numbers(), numbers(), mask, gamma=gamma, lam=lam)


def test_whitening_sees_counted_tokens_only(numbers, mask):
    white = whitened(5.0 * numbers() + 3.0, mask)
    assert white[mask].mean().item() == pytest.approx(0.0, abs=1e-9)
    assert white[mask].var(correction=0).item() == pytest.approx(1.0, abs=1e-6)
    assert not white[~mask].any()


class TestSurrogate:
    def test_ratio_1_gives_minus_the_mean_advantage(self, numbers, mask):
        log_probs, advantages = numbers(), numbers()
        per_token = clipped_surrogate(log_probs, log_probs, advantages, clip=0.2)
        total, count = summed_loss(per_token, mask, normalise="token")
        assert count == int(mask.sum())
        assert total.item() / count == pytest.approx(-advantages[mask].mean().item(), rel=1e-9)

    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "slope"),
        [
            (1.5, 2.0, -2.4, 0.0),  # good and already much likelier: no more
            (0.5, 2.0, -1.0, -1.0),  # good but less likely: back
            (1.5, -2.0, 3.0, 3.0),  # bad but likelier: back
            (0.5, -2.0, 1.6, 0.0),  # bad and already rarer: no more
            (1.1, -2.0, 2.2, 2.2),
        ],
    )
    def test_clips_only_what_would_go_further(self, ratio, advantage, loss, slope):
        log_prob = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
        zero, A = torch.zeros(1, 1).double(), torch.full((1, 1), advantage).double()
        value = clipped_surrogate(log_prob, zero, A, clip=0.2)
        value.sum().backward()
        assert value.item() == pytest.approx(loss)
        assert log_prob.grad.item() == pytest.approx(slope)

    def test_old_policy_and_advantages_get_no_gradient(self, numbers):
        tensors = [numbers().requires_grad_() for _ in range(3)]
        clipped_surrogate(*tensors, clip=0.2).sum().backward()
        assert [x.grad is None for x in tensors] == [False, True, True]

    def test_refuses_clip(self, numbers):
        with pytest.raises(ValueError, match=r"clip=0\.0"):
            clipped_surrogate(numbers(), numbers(), numbers(), clip=0.0)


class TestValueLoss:
    @pytest.mark.parametrize(
        ("value", "loss", "slope"),
        [(1.3, 0.5, 0.0), (0.8, 0.72, -1.2), (-3.0, 12.5, -5.0), (0.9, 0.605, -1.1)],
    )
    def test_takes_the_worse_of_plain_and_clipped(self, value, loss, slope):
        """Old value 0.5, return 2, clip 0.5: beyond 1 towards the return nothing is gained."""
        v = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
        old, target = torch.full((1, 1), 0.5).double(), torch.full((1, 1), 2.0).double()
        result = clipped_value_loss(v, old, target, clip=0.5)
        result.sum().backward()
        assert result.item() == pytest.approx(loss)
        assert v.grad.item() == pytest.approx(slope)

    def test_without_clip_it_is_half_the_square(self, numbers):
        values, old, returns = numbers(), numbers(), numbers()
        expected = 0.5 * (values - returns) ** 2
        torch.testing.assert_close(clipped_value_loss(values, old, returns, clip=None), expected)

    def test_refuses_clip(self, numbers):
        with pytest.raises(ValueError, match=r"clip=-1\.0 must be positive, or None"):
            clipped_value_loss(numbers(), numbers(), numbers(), clip=-1.0)


class TestGroups:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 5.0], [2.0, 2.0, 2.0, 2.0]])

    def test_uses_the_unbiased_deviation_of_each_group(self):
        advantages = group_advantages(self.rewards)
        std = math.sqrt((0.5**2 + 2 * 1.5**2 + 3.5**2) / 3)
        expected = [x / (std + 1e-4) for x in (-0.5, -1.5, -1.5, 3.5)]
        assert advantages[0].tolist() == pytest.approx(expected, rel=1e-5)
        assert advantages[1].tolist() == [0.0] * 4

    def test_without_scaling_only_the_mean_goes(self):
        advantages = group_advantages(self.rewards, scale_by_std=False)
        assert advantages.tolist() == [[-0.5, -1.5, -1.5, 3.5], [0.0] * 4]

    def test_refuses_a_group_of_one(self):
        with pytest.raises(ValueError, match="a group of 1 has no baseline"):
            group_advantages(self.rewards[:, :1])


class TestGrpoLoss:
    def test_starts_at_minus_the_advantages_with_the_reference_at_hand(self, numbers):
        log_probs, A = numbers(), torch.tensor([0.5, -1.0, 2.0]).double()
        loss = grpo_loss(log_probs, log_probs, log_probs, A, clip=0.2, kl_coef=0.3)
        torch.testing.assert_close(loss, -A[:, None].expand(B, T))

    @pytest.mark.parametrize("name", ["k2", "k3"])
    def test_adds_the_estimator(self, numbers, name):
        log_probs, fixed, A = numbers(), numbers(), torch.zeros(B).double()
        loss = grpo_loss(log_probs, log_probs, fixed, A, clip=0.2, kl_coef=0.3, kl_estimator=name)
        d = log_probs - fixed
        expected = 0.5 * d**2 if name == "k2" else (-d).exp() - 1 + d
        torch.testing.assert_close(loss, 0.3 * expected)

    def test_refuses_an_unknown_estimator(self, numbers):
        with pytest.raises(ValueError, match="kl_estimator='k4' must be one of"):
            grpo_loss(
                numbers(), numbers(), numbers(), torch.zeros(B).double(),
                clip=0.2, kl_coef=0.1, kl_estimator="k4",
            )  # fmt: skip


class TestSummedLoss:
    def test_token_and_sequence(self, numbers, mask):
        per_token = numbers()
        rows = [per_token[b, mask[b]] for b in range(B)]
        by_token, tokens = summed_loss(per_token, mask, normalise="token")
        by_row, responses = summed_loss(per_token, mask, normalise="sequence")
        assert (tokens, responses) == (6 + 7 + 1, B)
        assert by_token.item() == pytest.approx(sum(row.sum().item() for row in rows))
        assert by_row.item() == pytest.approx(sum(row.mean().item() for row in rows))

    def test_a_row_without_response_counts_nothing(self, numbers, mask):
        mask[2] = False
        total, responses = summed_loss(numbers(), mask, normalise="sequence")
        assert responses == B - 1
        assert math.isfinite(total.item())

    def test_refuses(self, numbers, mask):
        with pytest.raises(ValueError, match="normalise='batch'"):
            summed_loss(numbers(), mask, normalise="batch")
