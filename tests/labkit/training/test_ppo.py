"""PPO: its first loss, its exact expected gradient, and the optimum it comes to."""

import copy
import itertools

import pytest
import torch

from labkit.objectives import reward_kl
from labkit.objectives.kl_estimators import adapted_kl_coef
from labkit.objectives.policy_gradient import clipped_surrogate
from labkit.objectives.sequence_log_probs import counted_log_probs
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.ppo import ActorCritic, PpoConfig, ppo_loss, train_ppo, with_advantages
from labkit.training.reward_model import TokenScorer
from labkit.training.rollouts import Rollouts, collect

from .rising_policy import (
    TASK,
    assert_untouched,
    frozen,
    listed,
    policy_of,
    regained,
    rises,
    sampler,
)


def critic_of(seed=9):
    """With a head that is not zero: a baseline that is wrong, as it always is."""
    critic = TokenScorer(policy_of(seed))
    with torch.no_grad():
        critic.body.lm_head.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return critic


def rollouts_of(policy, reference, prompts, responses, rewards, kl_coef=0.2):
    return collect(
        policy,
        reference,
        prompts,
        generate=lambda *_: responses,
        reward=lambda *_: rewards,
        pad_id=0,
        kl_coef=kl_coef,
        dtype="float32",
    )


RAGGED = ([(1, 2), (3,), (0, 1, 2)], [[3], [1, 2, 0], [2, 2]], [0.5, -1.0, 2.0])


def test_the_first_loss_is_minus_the_mean_advantage_over_response_tokens():
    policy, reference, critic = policy_of(1), policy_of(2), critic_of()
    ppo = PpoConfig(value_weight=0.0, whiten=False)
    rollouts = rollouts_of(policy, reference, *RAGGED)
    batch = with_advantages(rollouts, critic, ppo, "float32")
    total, tokens = ppo_loss(ppo)(ActorCritic(policy, critic), batch)
    assert tokens == 1 + 3 + 2
    assert total.item() == pytest.approx(-batch.advantages[batch.mask].sum().item(), rel=1e-5)
    assert abs(total.item()) > 0.1
    assert not batch.advantages[~batch.mask].any()


def test_penalty_falls_on_each_token_and_the_reward_on_the_last():
    policy, reference = policy_of(1), policy_of(2)
    rollouts = rollouts_of(policy, reference, *RAGGED, kl_coef=0.2)
    ppo = PpoConfig(gamma=1.0, lam=1.0, whiten=False)
    batch = with_advantages(rollouts, critic_of(), ppo, "float32")
    ratios = rollouts.old_log_probs - rollouts.reference_log_probs
    for row, reward in enumerate(RAGGED[2]):
        places = rollouts.mask[row].nonzero().flatten().tolist()
        for i, t in enumerate(places):
            to_go = reward - 0.2 * sum(ratios[row, s].item() for s in places[i:])
            assert batch.returns[row, t].item() == pytest.approx(to_go, abs=1e-5)


def test_expected_gradient_is_that_of_reward_less_kl():
    """All sequences, weighted by their probability: no sampling error is left."""
    policy, reference, beta = policy_of(1), policy_of(2), 0.3
    every = TASK.every_sequence()
    log_probs, _ = counted_log_probs(batch_logits(policy, every), every.labels)
    fixed, _ = counted_log_probs(batch_logits(reference, every), every.labels)
    rollouts = Rollouts(
        ids=every.ids,
        labels=every.labels,
        rewards=TASK.rewards(every.ids),
        old_log_probs=log_probs.detach(),
        reference_log_probs=fixed.detach(),
        kl_coef=beta,
    )
    ppo = PpoConfig(gamma=1.0, lam=1.0, whiten=False)
    batch = with_advantages(rollouts, critic_of(), ppo, "float32")
    surrogate = clipped_surrogate(log_probs, batch.old_log_probs, batch.advantages, clip=0.2)
    weights = log_probs.detach().sum(-1).exp()
    ours = torch.autograd.grad((weights * surrogate.sum(-1)).sum(), list(policy.parameters()))
    value = reward_kl.objective(listed(policy), listed(reference), TASK.listed_rewards(), beta)
    exact = torch.autograd.grad(-value.sum(), list(policy.parameters()))
    for gradient, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=2e-5)


def tuned(steps, ppo, each, **settings):
    """On rounds in which each prompt is answered `each` times."""
    reference, critic = policy_of(), TokenScorer(policy_of())
    policy, before = copy.deepcopy(reference), frozen(reference)
    records = list(
        train_ppo(
            policy,
            reference,
            critic,
            itertools.repeat(TASK.prompts() * each),
            TrainConfig(**({"steps": steps, "lr": 6e-3, "warmup_steps": 5} | settings)),
            ppo,
            generate=sampler(),
            reward=rises,
            pad_id=0,
        )
    )
    assert_untouched(reference, before)
    return policy, reference, records


@pytest.mark.parametrize("beta", [0.2, 0.4])
def test_comes_to_the_optimum_of_reward_less_kl(beta):
    ppo = PpoConfig(kl_coef=beta, minibatch_size=240, epochs=2)
    policy, reference, records = tuned(120, ppo, 60)
    share, distance = regained(policy, reference, beta)
    assert records[0].kl_nats == pytest.approx(0.0, abs=1e-6)
    assert 0.75 < share <= 1.0
    assert distance < 0.1
    for other in (0.4 * beta, 3 * beta):
        assert regained(policy, reference, other)[1] > 1.5 * distance, "the optimum of another beta"


def test_controller_follows_the_divergence_seen():
    ppo = PpoConfig(kl_coef=0.01, target_kl=0.05, minibatch_size=40, epochs=1)
    _, _, records = tuned(12, ppo, 10)
    for one, following in itertools.pairwise(records):
        expected = adapted_kl_coef(one.kl_coef, one.kl_nats, 0.05)
        assert following.kl_coef == pytest.approx(expected)
    assert records[0].kl_coef == 0.01
    assert records[1].kl_coef < 0.01 < records[-1].kl_coef, "down while near, up once far"


def test_accumulated_minibatches_equal_one():
    ppo = {"whiten": False, "epochs": 1}
    _, _, [one] = tuned(1, PpoConfig(minibatch_size=12, **ppo), 3, warmup_steps=0)
    _, _, [many] = tuned(1, PpoConfig(minibatch_size=5, **ppo), 3, warmup_steps=0, accumulation=3)
    assert many.tokens == one.tokens == 36
    assert many.loss_nats == pytest.approx(one.loss_nats, rel=1e-5)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


def test_bfloat16_ratios_start_at_1_too():
    ppo = PpoConfig(minibatch_size=80, epochs=1, whiten=False, value_weight=0.0)
    _, _, [record] = tuned(1, ppo, 20, warmup_steps=0, dtype="bfloat16")
    assert record.loss_nats == pytest.approx(-record.reward, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_coef": -0.1}, r"kl_coef=-0\.1 must not be negative"),
        ({"value_weight": -1.0}, r"value_weight=-1\.0"),
        ({"target_kl": 0.0}, r"target_kl=0\.0 must be positive"),
        ({"clip": 0.0}, r"clip=0\.0"),
        ({"epochs": 0}, "epochs=0"),
        ({"minibatch_size": 0}, "minibatch_size=0"),
        ({"lam": 1.5}, r"lam=1\.5"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        PpoConfig(**change)
