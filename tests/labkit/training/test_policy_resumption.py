"""A resumed run of PPO or GRPO is the uninterrupted one, bit for bit."""

import copy
import itertools

import pytest
import torch

from labkit.training.config import TrainConfig
from labkit.training.grpo import GrpoConfig, train_grpo
from labkit.training.policy_resumption import Resumption
from labkit.training.ppo import PpoConfig, train_ppo
from labkit.training.reward_model import TokenScorer

from .rising_policy import TASK, policy_of, rises

STEPS, A_ROUND = 12, 4  # two epochs of two minibatches


def run(method, folder, *, resume=False, stop=STEPS, every=A_ROUND):
    """The policy and records of a run that is broken off after `stop` steps."""
    reference, generator = policy_of(), torch.Generator().manual_seed(5)
    policy, critic = copy.deepcopy(reference), TokenScorer(reference)

    @torch.no_grad()
    def generate(policy, prompts):
        ids = torch.tensor(prompts)
        for _ in range(TASK.length):
            probs = policy(ids)[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(probs, 1, generator=generator)], 1)
        return ids[:, -TASK.length :].tolist()

    config = TrainConfig(steps=STEPS, lr=6e-3, checkpoint_every=every)
    common = {
        "generate": generate,
        "reward": rises,
        "pad_id": 0,
        "resumption": Resumption(checkpoint_dir=folder, resume=resume, generator=generator),
    }
    if method == "ppo":
        ppo = PpoConfig(target_kl=0.05, minibatch_size=8, epochs=2)
        prompts = itertools.repeat(TASK.prompts() * 3)
        records = train_ppo(policy, reference, critic, prompts, config, ppo, **common)
    else:
        grpo = GrpoConfig(group_size=3, minibatch_size=8, epochs=2)
        prompts = itertools.repeat(TASK.prompts())
        records = train_grpo(policy, reference, prompts, config, grpo, **common)
    return policy, list(itertools.islice(records, stop))


def numbers(records):
    return [(r.step, r.loss_nats, r.grad_norm, r.reward, r.kl_nats, r.kl_coef) for r in records]


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_resumed_run_is_the_uninterrupted_one(method, tmp_path):
    whole, records = run(method, tmp_path / "whole")
    run(method, tmp_path / "parts", stop=2 * A_ROUND)
    resumed, rest = run(method, tmp_path / "parts", resume=True)
    assert numbers(rest) == numbers(records)[2 * A_ROUND :]
    assert len({record.kl_coef for record in records}) == (3 if method == "ppo" else 1)
    for ours, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_finished_run_has_nothing_left(method, tmp_path):
    run(method, tmp_path)
    assert run(method, tmp_path, resume=True)[1] == []


def test_a_checkpoint_within_a_round_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(ValueError, match="minibatch 3 lies within the round of minibatches 1 to 4"):
        run("grpo", tmp_path, every=3)
    assert not list(tmp_path.iterdir())
