"""Lab 08: other right ways pass, planted faults are what their names say, the envelope fits."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, run_check, verdicts
from grader.course import Course
from grader.labs.lab08_alignment import check, outside, recipe, reference
from labkit.objectives.preference import dpo_loss

LAB = load_lab("lab08_alignment")
SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, *range(12))


def log_probs_row_by_row(
    logits: Tensor, ids: Tensor, response: Tensor, average: bool = False
) -> Tensor:
    rows = []
    for scores, row, counted in zip(logits.float(), ids, response, strict=True):
        places = [t for t in range(1, len(row)) if counted[t]]
        nats = [scores[t - 1].log_softmax(0)[row[t]] for t in places]
        total = torch.stack(nats).sum() if nats else torch.zeros(())
        rows.append(total / max(1, len(nats)) if average else total)
    return torch.stack(rows)


def optimum_in_float64(reference: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    tilted = reference.double() + rewards.double() / beta
    top = tilted.amax(1, keepdim=True)
    log_z = top + (tilted - top).exp().sum(1, keepdim=True).log()
    return (tilted - log_z).float(), (beta * log_z[:, 0]).float()


def orpo_by_two_softplus(chosen: Tensor, rejected: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """log odds = -log(exp(-x) - 1), from another side."""
    ratios = torch.log(torch.expm1(-rejected.double())) - torch.log(torch.expm1(-chosen.double()))
    losses = -chosen + weight * torch.nn.functional.softplus(-ratios)
    return losses.float(), ratios.float()


def gae_by_double_sum(
    rewards: Tensor, values: Tensor, last_values: Tensor, terminated: Tensor,
    lengths: Tensor, gamma: float, lam: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition: a weighted sum of all later differences, episode by episode."""
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for b, n in enumerate(lengths.tolist()):
        after = 0.0 if terminated[b] else last_values[b].item()
        v = [*values[b, :n].tolist(), after]
        deltas = [rewards[b, t].item() + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            advantages[b, t] = sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:]))
            returns[b, t] = advantages[b, t] + v[t]
    return advantages, returns


def ppo_token_by_token(
    log_probs: Tensor, old_log_probs: Tensor, reference_log_probs: Tensor, advantages: Tensor,
    response: Tensor, clip: float, kl_coef: float, target_nats: float,
) -> tuple[Tensor, float]:  # fmt: skip
    counted = [tuple(place) for place in response.nonzero().tolist()]
    A = torch.tensor([advantages[place].item() for place in counted], dtype=torch.float64)
    white = ((A - A.mean()) / A.std(correction=0)).tolist()
    losses = []
    for place, a in zip(counted, white, strict=True):
        ratio = (log_probs[place] - old_log_probs[place].item()).exp()
        bound = (1 + clip) if a > 0 else (1 - clip)
        reached = ratio > bound if a > 0 else ratio < bound
        d = log_probs[place] - reference_log_probs[place].item()
        losses.append(-(bound if reached else ratio) * a + kl_coef * d * d / 2)
    sums = [((old_log_probs - reference_log_probs)[b][response[b]]).sum().item() for b in range(4)]
    error = float(np.clip(sum(sums) / 4 / target_nats - 1, -0.2, 0.2))
    return torch.stack([torch.as_tensor(x) for x in losses]).mean().float(), kl_coef * (
        1 + 0.1 * error
    )


def advantages_by_comparison(rewards: Tensor, groups: Tensor, scale_by_std: bool = True) -> Tensor:
    same = (groups[:, None] == groups[None, :]).double()
    n = same.sum(1)
    centred = rewards.double() - same @ rewards.double() / n
    variance = same @ centred.square() / (n - 1).clamp(min=1)
    return (centred / (variance.sqrt() + 1e-4) if scale_by_std else centred).float()


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("response_log_probs", log_probs_row_by_row),
        ("optimal_policy", optimum_in_float64),
        ("orpo_loss", orpo_by_two_softplus),
        ("gae", gae_by_double_sum),
        ("ppo_loss", ppo_token_by_token),
        ("group_advantages", advantages_by_comparison),
    ],
)
def test_other_right_ways_pass(name: str, impl: Callable[..., Any]) -> None:
    assert verdicts(LAB.check(name), impl, SEEDS).message == ""


def test_a_bare_tensor_for_two_is_answered_with_their_names() -> None:
    verdict = run_check(LAB.check("gae"), lambda rewards, *_: rewards, PUBLIC_SEED)
    assert "(advantages, returns)" in verdict.message


@pytest.mark.parametrize("seed", SEEDS)
def test_in_every_batch_the_clip_binds_and_does_not_for_either_sign(seed: int) -> None:
    inputs = LAB.check("ppo_loss").inputs(np.random.default_rng(seed))
    ratio = (inputs["log_probs"] - inputs["old_log_probs"]).exp()[inputs["response"]]
    A = inputs["advantages"][inputs["response"]]
    white = (A - A.mean()) / A.std()
    up, down = ratio > 1 + inputs["clip"], ratio < 1 - inputs["clip"]
    for far in (up, down):
        for sign in (white > 0, white < 0):
            assert (far & sign).any()


def losses(beta: int) -> list[Callable[..., Tensor]]:
    """The losses of all faults, in their order."""
    cases = [{"fault": fault, "beta": beta} for fault in range(5)]
    return [case["loss"] for case in outside.losses({"cases": cases})["cases"]]


def rows(gen: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    policy, fixed = torch.randn(2, 6, 5, generator=gen)
    response = torch.rand(6, 5, generator=gen) < 0.6
    response[:, 2:4] = True
    return policy, fixed, response


def test_only_the_healthy_loss_is_labkits(gen: torch.Generator) -> None:
    policy, fixed, response = rows(gen)
    sums = [(table * response).sum(1).chunk(2) for table in (policy, fixed)]
    expected = dpo_loss(*sums[0], *sums[1], beta=3.0)
    same = [torch.allclose(loss(policy, fixed, response), expected) for loss in losses(3)]
    assert same == [True, False, False, False, False]


def test_beta_on_one_side_alone_does_not_begin_at_log_2(gen: torch.Generator) -> None:
    policy, _, response = rows(gen)
    log_2 = torch.full((3,), math.log(2))
    same = [torch.allclose(loss(policy, policy, response), log_2) for loss in losses(3)]
    assert same == [fault != "beta_on_policy" for fault in check.FAULTS]


@pytest.mark.parametrize("beta", [2, 3, 4])
def test_every_fault_can_be_told(beta: int) -> None:
    names = [reference.diagnose(loss, beta) for loss in losses(beta)]
    assert names == list(check.FAULTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": torch.zeros(3, 2)}, "chosen rows first"),
        ({"response": torch.zeros(2, 2)}, "must be bool"),
        ({"policy": torch.zeros(2)}, "tensors of shape"),
        ({"policy": torch.zeros(2, 2, dtype=torch.long)}, "tensors of floats"),
    ],
)
def test_a_loss_says_what_it_cannot_take(change: dict[str, Tensor], message: str) -> None:
    zeros = torch.zeros(2, 2)
    given = {"policy": zeros, "reference": zeros, "response": zeros == 0} | change
    with pytest.raises(ValueError, match=message):
        losses(2)[0](*given.values())


def test_the_envelope_is_the_recipes_and_stays_below_the_frontier(real_course: Course) -> None:
    beside = real_course.source(LAB.name).with_name("envelope.json")
    envelope = json.loads(beside.read_text(encoding="utf-8"))
    kl_nats = recipe.Recipe().kl_nats
    bound = np.array(recipe.frontier(kl_nats, recipe.listed(recipe.reference_policy())))
    assert tuple(envelope["kl_nats"]) == kl_nats
    for runs in map(np.array, envelope["runs"].values()):
        assert runs.shape == (len(recipe.ENVELOPE_SEEDS), len(kl_nats))
        assert (runs <= bound + 2e-3).all()
        assert (runs > bound - 0.05).all()
        assert (np.diff(runs, axis=1) > 0).all()
