"""Rollouts: labels, log-probabilities and KL exact; sampled only when they are due."""

import pytest
import torch

from labkit.data.batch import IGNORE_INDEX
from labkit.objectives.reward_kl import sequence_kl
from labkit.objectives.sequence_log_probs import sequence_log_probs
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.rollouts import collect, policy_steps

from .rising_policy import TASK, listed, policy_of, rises, sampler

FIXED = {"pad_id": 0, "kl_coef": 0.3, "dtype": "float32"}


def collected(prompts, generate, reward=rises, **change):
    return collect(
        policy_of(1), policy_of(2), prompts, generate=generate, reward=reward, **(FIXED | change)
    )


def test_ragged_prompts_and_responses_are_scored_as_they_would_be_alone():
    prompts, responses = [(1, 2), (3,), (0, 1, 2)], [[3], [1, 2, 0], [2, 2]]
    rollouts = collected(prompts, lambda *_: responses, lambda p, r: [0.5, -1.0, 2.0])
    assert rollouts.ids.tolist() == [[1, 2, 3, 0, 0], [3, 1, 2, 0, 0], [0, 1, 2, 2, 2]]
    assert (rollouts.labels[0] == torch.tensor([-100, -100, 3, -100, -100])).all()
    assert rollouts.mask.sum(-1).tolist() == [1, 3, 2]
    assert rollouts.rewards.tolist() == [0.5, -1.0, 2.0]
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        [log_p], [log_q] = (
            policy_of(seed)(torch.tensor([[*prompt, *response]])).log_softmax(-1) for seed in (1, 2)
        )
        places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
        for at, token in zip(places, response, strict=True):
            assert rollouts.old_log_probs[i, at].item() == pytest.approx(log_p[at, token].item())
            assert rollouts.reference_log_probs[i, at].item() == pytest.approx(
                log_q[at, token].item()
            )
    assert not rollouts.old_log_probs[~rollouts.mask].any()
    assert not rollouts.old_log_probs.requires_grad


def test_estimated_kl_comes_near_the_exact_one():
    rollouts = collected(TASK.prompts() * 500, sampler())
    with torch.no_grad():
        exact = sequence_kl(listed(policy_of(1)), listed(policy_of(2))).mean().item()
    ratios = (rollouts.old_log_probs - rollouts.reference_log_probs).sum(-1)
    assert rollouts.kl_nats == pytest.approx(exact, abs=4 * ratios.std().item() / 2000**0.5)


def test_rows_and_devices_keep_what_belongs_together():
    rollouts = collected(TASK.prompts() * 2, sampler())
    some = rollouts.rows([6, 1, 3]).to("cpu")
    assert torch.equal(some.ids, rollouts.ids[[6, 1, 3]])
    assert torch.equal(some.rewards, rollouts.rewards[[6, 1, 3]])
    sums, _ = sequence_log_probs(batch_logits(policy_of(1), some), some.labels)
    torch.testing.assert_close(some.old_log_probs.sum(-1), sums.detach())
    assert some.kl_coef == 0.3


def test_the_next_round_is_sampled_when_its_first_step_is_due():
    policy, sampled = policy_of(), []

    def rounds():
        while True:
            sampled.append(policy.lm_head.weight.detach().clone())
            yield collected(TASK.prompts() * 3, sampler())

    def loss(model, batch):
        sums, _ = sequence_log_probs(batch_logits(model, batch), batch.labels)
        return -sums.sum(), int((batch.labels != IGNORE_INDEX).sum())

    config = TrainConfig(steps=7, lr=1e-2)
    steps = policy_steps(policy, rounds(), loss, config, epochs=2, minibatch_size=8)
    counts = [(len(sampled), record.tokens) for record in steps]
    assert [count for count, _ in counts] == [1, 1, 1, 1, 2, 2, 2], "two minibatches, two epochs"
    assert [tokens for _, tokens in counts] == [24, 12] * 3 + [24]
    assert not torch.equal(sampled[0], sampled[1]), "the second round has the weights of step 4"


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="4 prompts got 3 responses and 4 rewards"):
        collected(TASK.prompts(), lambda *_: [[1]] * 3, lambda p, r: [0.0] * 4)
    with pytest.raises(ValueError, match="4 prompts got 4 responses and 1 rewards"):
        collected(TASK.prompts(), lambda *_: [[1]] * 4, lambda p, r: [0.0])
