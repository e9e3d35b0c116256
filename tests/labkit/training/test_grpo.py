"""GRPO: groups stand together, its expected gradient at length 1, and how near it comes."""

import copy
import itertools

import pytest
import torch

from labkit.data.rising import RisingTask
from labkit.objectives import reward_kl
from labkit.objectives.policy_gradient import grpo_loss as per_token_loss
from labkit.objectives.sequence_log_probs import counted_log_probs
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.grpo import GrpoConfig, grpo_loss, train_grpo, with_group_advantages
from labkit.training.rollouts import collect

from .rising_policy import (
    TASK,
    assert_untouched,
    frozen,
    listed,
    mean_reward,
    policy_of,
    regained,
    rises,
    sampler,
)

ONE = RisingTask(num_symbols=4, length=1)


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_expected_gradient_at_length_1(name):
    """With k2 that of E r - beta KL(pi || ref), with k3 that of E r - beta KL(ref || pi)."""
    policy, reference, beta = policy_of(1), policy_of(2), 0.3
    every, rewards = ONE.every_sequence(), ONE.listed_rewards()
    log_probs, _ = counted_log_probs(batch_logits(policy, every), every.labels)
    fixed, _ = counted_log_probs(batch_logits(reference, every), every.labels)
    per_token = per_token_loss(
        log_probs,
        log_probs,
        fixed,
        (rewards - rewards.mean(-1, keepdim=True)).flatten(),  # any baseline a prompt serves
        clip=0.2,
        kl_coef=beta,
        kl_estimator=name,
    )
    weights = log_probs.detach().sum(-1).exp()
    ours = torch.autograd.grad((weights * per_token.sum(-1)).sum(), list(policy.parameters()))
    log_p, log_q = listed(policy, ONE), listed(reference, ONE).detach()
    pair = (log_p, log_q) if name == "k2" else (log_q, log_p)
    value = reward_kl.expected_reward(log_p, rewards) - beta * reward_kl.sequence_kl(*pair)
    exact = torch.autograd.grad(-value.sum(), list(policy.parameters()))
    for gradient, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=2e-5)


def tuned(steps, grpo, **settings):
    reference = policy_of()
    policy, before = copy.deepcopy(reference), frozen(reference)
    records = list(
        train_grpo(
            policy,
            reference,
            itertools.repeat(TASK.prompts()),
            TrainConfig(**({"steps": steps, "lr": 6e-3, "warmup_steps": 5} | settings)),
            grpo,
            generate=sampler(),
            reward=rises,
            pad_id=0,
        )
    )
    assert_untouched(reference, before)
    return policy, reference, records


def test_comes_near_the_optimum_of_reward_less_kl():
    """Without the division by the deviation; the token-wise KL gradient keeps it from the top."""
    grpo = GrpoConfig(
        group_size=40, kl_coef=0.3, kl_estimator="k2", scale_by_std=False, minibatch_size=160
    )
    policy, reference, records = tuned(120, grpo)
    share, distance = regained(policy, reference, 0.3)
    assert records[0].kl_nats == pytest.approx(0.0, abs=1e-6)
    assert 0.75 < share <= 1.0
    assert distance < 0.15


def test_the_paper_s_form_climbs_farther_for_the_same_price():
    """Dividing by a deviation below 1 makes the reward larger, and so the penalty smaller."""
    grpo = {"group_size": 20, "kl_coef": 0.3, "minibatch_size": 80}
    scaled, reference, _ = tuned(60, GrpoConfig(**grpo))
    plain, _, _ = tuned(60, GrpoConfig(**grpo, scale_by_std=False))
    assert mean_reward(scaled) > mean_reward(plain) + 0.05 > mean_reward(reference) + 0.1


def ragged_rollouts(policy):
    prompts, responses = [(1, 2)] * 2 + [(3,)] * 2, [[3], [0, 1], [1, 2, 0], [2]]
    return collect(
        policy,
        policy_of(2),
        prompts,
        generate=lambda *_: responses,
        reward=lambda *_: [1.0, 3.0, -1.0, 2.0],
        pad_id=0,
        kl_coef=0.1,
        dtype="float32",
    )


@pytest.mark.parametrize(
    ("normalise", "count", "expected"),
    [("sequence", 4, 0.0), ("token", 7, -(-1 + 2 * 1 + 3 * -1.5 + 1.5))],
)
def test_first_loss_by_hand(normalise, count, expected):
    """Advantages -1, 1, -1.5, 1.5 at responses of 1, 2, 3 and 1 tokens, and no penalty."""
    policy = policy_of(1)
    grpo = GrpoConfig(group_size=2, scale_by_std=False, kl_coef=0.0, normalise=normalise)
    batch = with_group_advantages(ragged_rollouts(policy), grpo)
    assert batch.advantages.tolist() == [-1.0, 1.0, -1.5, 1.5]
    total, counted = grpo_loss(grpo)(policy, batch)
    assert counted == count
    assert total.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("normalise", ["sequence", "token"])
def test_accumulated_minibatches_equal_one(normalise):
    grpo = {"group_size": 3, "normalise": normalise}
    _, _, [one] = tuned(1, GrpoConfig(minibatch_size=12, **grpo), warmup_steps=0)
    _, _, [many] = tuned(1, GrpoConfig(minibatch_size=5, **grpo), warmup_steps=0, accumulation=3)
    assert many.tokens == one.tokens
    assert many.loss_nats == pytest.approx(one.loss_nats, abs=1e-6)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 1}, "group_size=1 must be at least 2"),
        ({"kl_coef": -0.1}, r"kl_coef=-0\.1"),
        ({"clip": 0.0}, r"clip=0\.0 must be positive"),
        ({"epochs": 0}, "epochs=0"),
        ({"kl_estimator": "k1"}, "kl_estimator='k1' must be 'k2' or 'k3'"),
        ({"normalise": "batch"}, "normalise='batch'"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        GrpoConfig(**change)
