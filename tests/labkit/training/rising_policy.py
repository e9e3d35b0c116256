"""Tiny policies on the rising task, where reward, KL and the best policy are exact."""

import torch
from torch import nn

from labkit.data.rising import RisingTask
from labkit.model import minillm
from labkit.model.config import ModelConfig
from labkit.objectives import reward_kl
from labkit.objectives.sequence_log_probs import sequence_log_probs
from labkit.training.forward import batch_logits

TASK = RisingTask(num_symbols=4, length=3)


def policy_of(seed=1, num_layers=1):
    """Far from uniform, so that the reference matters."""
    config = ModelConfig(
        vocab_size=TASK.num_symbols,
        width=38,
        num_layers=num_layers,
        num_heads=3,
        num_kv_heads=1,
        head_width=10,
        ffn_width=71,
        max_length=15,
    )
    model = minillm.MiniLLM(config)
    minillm.initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4 if parameter.ndim > 1 else 1
    return model.eval()


def listed(model: nn.Module, task=TASK):
    """Log-probability of every response to every prompt, a row a prompt."""
    every = task.every_sequence()
    return sequence_log_probs(batch_logits(model, every), every.labels)[0].view(
        task.num_symbols, -1
    )


@torch.no_grad()
def regained(policy, reference, beta):
    """Share of the objective's possible gain over the reference, 1 at pi*; and KL(pi || pi*)."""
    fixed, ours, rewards = listed(reference), listed(policy), TASK.listed_rewards()
    best = reward_kl.optimal_log_probs(fixed, rewards, beta)
    start, now, end = (
        reward_kl.objective(log_p, fixed, rewards, beta).mean().item()
        for log_p in (fixed, ours, best)
    )
    return (now - start) / (end - start), reward_kl.sequence_kl(ours, best).mean().item()


@torch.no_grad()
def mean_reward(policy):
    return reward_kl.expected_reward(listed(policy), TASK.listed_rewards()).mean().item()


def sampler(seed=5, length=TASK.length):
    """Plain ancestral sampling at temperature 1, by torch."""
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def generate(policy, prompts):
        ids = torch.tensor(prompts)
        for _ in range(length):
            probs = policy(ids)[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(probs, 1, generator=generator)], 1)
        return ids[:, -length:].tolist()

    return generate


def rises(prompts, responses):
    rows = [(*prompt, *response) for prompt, response in zip(prompts, responses, strict=True)]
    return TASK.rewards(torch.tensor(rows)).tolist()


def frozen(model):
    """A copy of the weights, to see later that they stayed."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model, before):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
