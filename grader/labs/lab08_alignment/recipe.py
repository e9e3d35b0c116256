"""The runs at the end of lab 08: a policy of a few thousand weights on the rising task.

All 125 responses to each prompt can be listed, so reward and divergence are exact and the best
policy is known. `python -m grader.labs.lab08_alignment.recipe` repeats the runs with labkit's own
losses for several seeds and writes `solutions/lab08_alignment/envelope.json`, the normal results
that a learner's curves are drawn over.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from grader.labs import envelope
from labkit.data.batch import IGNORE_INDEX, TokenBatch
from labkit.data.preferences import preference_batches
from labkit.data.rising import RisingTask
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM, initialise
from labkit.objectives import reward_kl
from labkit.objectives.language_modelling import token_log_probs
from labkit.objectives.sequence_log_probs import sequence_log_probs
from labkit.runtime.seeding import generator
from labkit.training.config import TrainConfig
from labkit.training.forward import batch_logits
from labkit.training.loop import train

ENVELOPE_SEEDS = (1, 2, 3, 4, 5)
TASK = RisingTask()
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of the runs; every learner's and every envelope's run has the same.

    Attributes:
        scale: How reliable the preferences are; DPO at beta aims at the optimum for beta / scale.
        target_nats: Of GRPO's controller.
        kl_nats: Divergences at which curves are compared.
    """

    pairs: int = 8000
    batch_size: int = 256
    scale: float = 5.0
    dpo_beta: float = 0.5
    dpo_steps: int = 80
    group_size: int = 40
    rounds: int = 60
    epochs: int = 2
    kl_coef: float = 0.8
    target_nats: float = 1.0
    clip: float = 0.2
    lr: float = 4e-3
    kl_nats: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def reference_policy() -> MiniLLM:
    """A small model tuned on demonstrations that do not rise on purpose; always the same."""
    config = ModelConfig(
        vocab_size=TASK.num_symbols,
        width=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_width=16,
        ffn_width=64,
        max_length=16,
    )
    model = MiniLLM(config)
    initialise(model, generator(1))
    for _ in train(model, _demonstrations(), TrainConfig(steps=120, lr=1e-2, warmup_steps=5)):
        pass
    return model.eval()


def _demonstrations() -> Iterator[TokenBatch]:
    """Sequences whose next symbol depends on the last one in a random way."""
    V = TASK.num_symbols
    table = torch.randn(V, V, generator=generator(0)).softmax(-1)
    for seed in count(100):
        gen = generator(seed)
        ids = torch.randint(V, (256, 1), generator=gen)
        for _ in range(TASK.length):
            ids = torch.cat([ids, torch.multinomial(table[ids[:, -1]], 1, generator=gen)], dim=1)
        labels = ids.clone()
        labels[:, 0] = IGNORE_INDEX
        yield TokenBatch(ids=ids, labels=labels)


@torch.no_grad()
def listed(model: nn.Module) -> Tensor:
    """Log-probability of every response to every prompt, (P, N)."""
    every = TASK.every_sequence()
    return sequence_log_probs(batch_logits(model, every), every.labels)[0].view(
        TASK.num_symbols, -1
    )


def point(policy: nn.Module, reference: Tensor) -> Point:
    """Exact KL(policy || reference) in nats and exact reward, means over prompts."""
    log_p = listed(policy)
    kl = reward_kl.sequence_kl(log_p, reference).mean()
    return kl.item(), reward_kl.expected_reward(log_p, TASK.listed_rewards()).mean().item()


def at(path: Sequence[Point], kl_nats: Sequence[float]) -> list[float]:
    """The reward of a run when its divergence first came to each value, interpolated."""
    kl, reward = np.array(path).T
    return [float(x) for x in np.interp(kl_nats, np.maximum.accumulate(kl), reward)]


def frontier(kl_nats: Sequence[float], reference: Tensor) -> list[float]:
    """The most reward that any policy has at these divergences."""
    betas = torch.logspace(2, -2, 80)
    kl, reward = reward_kl.reward_kl_frontier(reference, TASK.listed_rewards(), betas)
    return at(list(zip(kl.tolist(), reward.tolist(), strict=True)), kl_nats)


def dpo_path(
    response_log_probs: Callable[..., Tensor],
    dpo_loss: Callable[..., tuple[Tensor, Tensor]],
    recipe: Recipe,
    seed: int,
) -> Iterator[Point]:
    """Train on preferences, yielding divergence and reward before every step and at the end."""
    reference, gen = reference_policy(), generator(seed)
    policy, fixed = copy.deepcopy(reference), listed(reference)
    pairs = TASK.preferences(recipe.pairs, scale=recipe.scale, generator=gen)
    source = preference_batches(pairs, batch_size=recipe.batch_size, pad_id=0, generator=gen)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=recipe.lr, weight_decay=0.0)

    def sums(model: nn.Module, batch: TokenBatch) -> tuple[Tensor, ...]:
        response = batch.labels != IGNORE_INDEX
        return response_log_probs(batch_logits(model, batch), batch.ids, response).chunk(2)

    for _, batch in zip(range(recipe.dpo_steps), source, strict=False):
        yield point(policy, fixed)
        with torch.no_grad():
            kept = sums(reference, batch)
        losses, _ = dpo_loss(*sums(policy, batch), *kept, recipe.dpo_beta)
        _step(optimizer, losses.mean())
    yield point(policy, fixed)


def grpo_path(
    group_advantages: Callable[..., Tensor],
    ppo_loss: Callable[..., tuple[Tensor, float]],
    recipe: Recipe,
    seed: int,
) -> Iterator[Point]:
    """Train on sampled groups under a divergence controller, yielding as `dpo_path` does."""
    reference, gen, kl_coef = reference_policy(), generator(seed), recipe.kl_coef
    policy, fixed = copy.deepcopy(reference), listed(reference)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=recipe.lr, weight_decay=0.0)
    groups = torch.arange(TASK.num_symbols).repeat(recipe.group_size)
    response = torch.ones(len(groups), TASK.length, dtype=torch.bool)
    for _ in range(recipe.rounds):
        yield point(policy, fixed)
        ids = sampled(policy, groups[:, None], gen)
        with torch.no_grad():
            old, kept = (token_log_probs(model(ids), ids) for model in (policy, reference))
        advantages = group_advantages(TASK.rewards(ids), groups)[:, None].expand_as(old)
        for _ in range(recipe.epochs):
            log_probs = token_log_probs(policy(ids), ids)
            settings = (recipe.clip, kl_coef, recipe.target_nats)
            loss, next_coef = ppo_loss(log_probs, old, kept, advantages, response, *settings)
            _step(optimizer, loss)
        kl_coef = next_coef
    yield point(policy, fixed)


@torch.no_grad()
def sampled(policy: nn.Module, ids: Tensor, gen: torch.Generator) -> Tensor:
    """Prompts with responses drawn at temperature 1."""
    for _ in range(TASK.length):
        probs = policy(ids)[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probs, 1, generator=gen)], dim=1)
    return ids


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main(path: Path) -> None:
    """Write the envelope: a row of rewards a method and seed, with where and how it was made."""
    from grader.labs.lab08_alignment import reference as labkits

    recipe = Recipe()
    dpo = labkits.response_log_probs, labkits.dpo_loss
    grpo = labkits.group_advantages, labkits.ppo_loss
    runs: dict[str, list[list[float]]] = {"dpo": [], "grpo": []}
    for seed in ENVELOPE_SEEDS:
        for name, found in (
            ("dpo", list(dpo_path(*dpo, recipe, seed))),
            ("grpo", list(grpo_path(*grpo, recipe, seed))),
        ):
            runs[name].append([round(reward, 4) for reward in at(found, recipe.kl_nats)])
            sys.stderr.write(f"{name}, seed {seed}: KL {found[-1][0]:.3f} {runs[name][-1]}\n")
    results = {
        "metric": "expected reward at a divergence from the reference",
        "unit": "share of rises",
        "kl_nats": recipe.kl_nats,
        "runs": runs,
        "seeds": ENVELOPE_SEEDS,
    }
    envelope.write(path, "lab08_alignment", results)


if __name__ == "__main__":
    main(Path("solutions/lab08_alignment/envelope.json"))
