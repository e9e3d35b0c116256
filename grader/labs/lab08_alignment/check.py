"""The checks of lab 08: data, expectations, points and hints. Runs outside the sandbox only."""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance
from grader.labs.lab08_alignment.hints import HINTS

FLOAT32 = Tolerance(rtol=1e-4, atol=1e-5, reason="float32 rounding of sums of terms up to 10")
LARGE = Tolerance(
    rtol=1e-4, atol=2e-3, reason="float32 rounding of differences of numbers up to 4000"
)
FAULTS = ("healthy", "swapped", "beta_on_policy", "mean_over_length", "prompt_counted")


def _positive(rng: np.random.Generator, *shape: int) -> Tensor:
    return normal(rng, *shape).abs()


def _rows(lengths: list[tuple[int, int]], T: int) -> Tensor:
    """True from the first to before the second number of each row."""
    places = torch.arange(T)
    return torch.stack([(places >= start) & (places < end) for start, end in lengths])


def _log_prob_inputs(rng: np.random.Generator) -> Arrays:
    """A gap in one response, none in one row, one from the start; banned tokens all around."""
    B, T, V = 4, int(rng.integers(8, 11)), int(rng.integers(12, 17))
    response = _rows([(3, 7), (2, T), (0, 0), (0, 5)], T)
    response[1, 4] = False
    ids = torch.from_numpy(rng.integers(0, V, size=(B, T)))
    logits = 3 * normal(rng, B, T, V)
    banned = torch.zeros_like(logits, dtype=torch.bool)
    banned[:, :-1] = torch.nn.functional.one_hot(ids[:, 1:], V).bool() & ~response[:, 1:, None]
    banned[:, :-1].scatter_(2, (ids[:, 1:, None] + 1) % V, True)
    ids[0, 1] = ids[2, 3] = ids[0, -1] = -100
    return {
        "logits": logits.masked_fill(banned, -math.inf),
        "ids": ids,
        "response": response,
        "weights": normal(rng, B),
    }


def _optimum_inputs(rng: np.random.Generator) -> Arrays:
    P, N = 3, int(rng.integers(9, 14))
    reference = (2 * normal(rng, P, N)).log_softmax(-1)
    impossible = 2 * normal(rng, P, N)
    impossible[0, 2] = impossible[2, 5] = -math.inf
    beta = float(rng.uniform(0.3, 0.9))
    kinds = {
        "ordinary": (reference, normal(rng, P, N), beta),
        "large": (reference.flip(1), 10 * normal(rng, P, N), 0.01),
        "impossible": (impossible.log_softmax(-1), normal(rng, P, N), beta),
    }
    return {
        "cases": [
            {"kind": kind, "reference": log_q, "rewards": r, "beta": b}
            for kind, (log_q, r, b) in kinds.items()
        ]
    }


def _dpo_inputs(rng: np.random.Generator) -> Arrays:
    B = int(rng.integers(5, 8))
    names = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    far = 900.0 * (torch.arange(B) % 2)
    return {
        **{name: -6 * _positive(rng, B) for name in names},
        "far": [far, 900.0 - far],
        "beta": float(rng.uniform(0.2, 0.6)),
        "label_smoothing": float(rng.uniform(0.1, 0.3)),
        "chosen_lengths": torch.from_numpy(rng.integers(2, 9, size=B)),
        "rejected_lengths": torch.from_numpy(rng.integers(10, 20, size=B)),
    }


def _orpo_inputs(rng: np.random.Generator) -> Arrays:
    B = int(rng.integers(5, 8))
    far = float(rng.uniform(120, 180))
    near = -float(rng.uniform(1, 9)) * 1e-9
    return {
        "chosen": -0.05 - 2 * _positive(rng, B),
        "rejected": -0.05 - 2 * _positive(rng, B),
        "weight": float(rng.uniform(0.2, 0.7)),
        "edges": {
            "near 0": (torch.tensor([near, -1.5, near]), torch.tensor([-1.5, near, 3 * near])),
            "far below 0": (torch.tensor([-far, -1.5]), torch.tensor([-1.5, -far])),
        },
    }


def _gae_inputs(rng: np.random.Generator) -> Arrays:
    """Two episodes that ended and two that were cut, one of each shorter than the row."""
    B, T = 4, int(rng.integers(6, 9))
    lengths = torch.tensor([T, T - 3, 1, T - 1])
    off = torch.arange(T) >= lengths[:, None]
    return {
        "rewards": normal(rng, B, T).masked_fill(off, 37.0),
        "values": normal(rng, B, T).masked_fill(off, -53.0),
        "last_values": 2 + _positive(rng, B),
        "terminated": torch.tensor([False, True, True, False]),
        "lengths": lengths,
        "gamma": float(rng.uniform(0.85, 0.95)),
        "lam": float(rng.uniform(0.6, 0.9)),
    }


def _ppo_inputs(rng: np.random.Generator) -> Arrays:
    """Ragged responses with other numbers where nothing counts; targets above, at and below."""
    B, T = 4, int(rng.integers(8, 11))
    response = _rows([(3, 6), (2, T), (1, 2), (4, T - 1)], T)
    off = ~response
    log_probs = -2 * _positive(rng, B, T)
    old = log_probs + 0.35 * normal(rng, B, T)
    advantages = 2 + 3 * normal(rng, B, T)
    # Of either sign one token far up and one far down, so that the clip binds and does not.
    old[1, 3:7] = log_probs[1, 3:7] - torch.tensor([0.5, 0.6, -0.7, -0.8])
    advantages[1, 3:7] = torch.tensor([9.0, -6.0, 8.0, -7.0])
    reference = old - 0.4 * _positive(rng, B, T)
    kl_nats = float(((old - reference) * response).sum(1).mean())
    return {
        "log_probs": log_probs.masked_fill(off, -3.0),
        "old_log_probs": old.masked_fill(off, -5.0),
        "reference_log_probs": reference.masked_fill(off, -1.0),
        "advantages": advantages.masked_fill(off, 30.0),
        "response": response,
        "clip": float(rng.uniform(0.15, 0.25)),
        "kl_coef": float(rng.uniform(0.1, 0.3)),
        "targets": {"far above": kl_nats / 4, "near": kl_nats / 1.1, "far below": 3 * kl_nats},
    }


def _group_inputs(rng: np.random.Generator) -> Arrays:
    """Groups of 5, 3, 4 and 1 rewards, one of them all equal, in random order."""
    rewards = normal(rng, 13) + torch.tensor([0.0] * 5 + [4.0] * 3 + [1.5] * 4 + [9.0])
    rewards[8:12] = 0.75
    order = torch.from_numpy(rng.permutation(13))
    labels = torch.from_numpy(rng.permutation(20)[:4])
    groups = labels.repeat_interleave(torch.tensor([5, 3, 4, 1]))
    return {"rewards": rewards[order], "groups": groups[order]}


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(len(FAULTS)), more=4)
    return {"cases": [{"fault": fault, "beta": int(rng.integers(2, 5))} for fault in faults]}


def _faults(inputs: Arrays) -> Arrays:
    """The faults that were planted."""
    return {f"loss {i + 1}": FAULTS[case["fault"]] for i, case in enumerate(inputs["cases"])}


_check = partial(exercise, "lab08_alignment", hints=HINTS, tolerance=FLOAT32)

LAB = Lab(
    name="lab08_alignment",
    teaches=(
        "labkit.objectives.preference",
        "labkit.objectives.policy_gradient",
        "labkit.objectives.reward_kl",
        "labkit.objectives.kl_estimators",
        "labkit.objectives.sequence_log_probs",
        "labkit.training.preference",
        "labkit.training.reward_model",
        "labkit.training.rollouts",
        "labkit.training.ppo",
        "labkit.training.grpo",
    ),
    forbids=("trl",),
    files=("envelope.json",),
    checks=(
        _check(
            "response_log_probs", 4, _log_prob_inputs,
            "the logits at t score the token at t + 1; only tokens of the response are summed.",
        ),
        _check(
            "optimal_policy", 4, _optimum_inputs,
            "add rewards / beta to the log-probabilities and normalise each prompt by itself.",
            tolerance=LARGE,
        ),
        _check(
            "dpo_loss", 5, _dpo_inputs,
            "write the margin as the policy's log-ratio of the two responses less the reference's.",
        ),
        _check(
            "orpo_loss", 4, _orpo_inputs,
            "log odds(p) = log p - log(1 - p), from log p alone.",
        ),
        _check(
            "gae", 5, _gae_inputs,
            "walk backwards; what does the value after the last token stand for?",
        ),
        _check(
            "ppo_loss", 6, _ppo_inputs,
            "one mean over all response tokens of the batch.",
        ),
        _check(
            "group_advantages", 3, _group_inputs,
            "compare each reward with the others of its own group only.",
        ),
        _check(
            "diagnose", 6, _diagnose_inputs,
            "make one input for each fault, on which only that fault changes the loss.",
            expect=_faults,
        ),
    ),
)  # fmt: skip
