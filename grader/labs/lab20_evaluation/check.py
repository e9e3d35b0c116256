"""The checks of lab 20: data, expectations, points and hints. Runs outside the sandbox only."""

import math
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from grader.checks.core import Arrays, Lab
from grader.checks.exercise import every_kind, exercise, normal
from grader.checks.values import Tolerance

FLOAT32 = Tolerance(rtol=2e-4, atol=1e-5, reason="float32 rounding of a softmax")
FLOAT64 = Tolerance(rtol=1e-7, atol=1e-10, reason="float64 rounding")
NORMAL = Tolerance(rtol=1e-3, reason="quantiles of the normal distribution to three digits")
WORDS = ("path", "naïve", "größe", "item", "λ-term", "set", "日本", "key", "size", "file")


def _window_inputs(rng: np.random.Generator) -> Arrays:
    """Texts that end inside a window, exactly with one, and before the first one does."""
    window = int(rng.integers(11, 24))
    context = int(rng.integers(3, 5))
    stride = window - context
    more, ragged = int(rng.integers(3, 7)), int(rng.integers(2, stride))
    texts = [
        (window + more * stride + ragged, window, context),
        (window + 2 * stride, window, context),
        (window - 3, window, context),
        (3 * window + 1, window, window - 1),
        (2 * window + 5, window, 1),
    ]
    return {"texts": texts, "impossible": [(window, window), (window, 0)]}


def _perplexity_inputs(rng: np.random.Generator) -> Arrays:
    """Batches with very different numbers of counted tokens; one counts none, logits are large."""
    V = 13
    logits, labels = [], []
    for rows, length, kept in ((1, 11, 0.25), (3, 9, 0.9), (2, 6, 0.0), (2, 7, 0.5)):
        scale = float(rng.uniform(0.5, 3.5))
        logits.append(scale * normal(rng, rows, length, V) + 200.0)
        tokens = torch.from_numpy(rng.integers(0, V, size=(rows, length)))
        mask = torch.from_numpy(rng.random((rows, length)) < kept)
        mask[:, 0] = True  # never counted: nothing predicts the first token
        labels.append(torch.where(mask, tokens, torch.full_like(tokens, -100)))
    return {"logits": logits, "labels": labels, "num_bytes": int(rng.integers(90, 140))}


def _option_inputs(rng: np.random.Generator) -> Arrays:
    V, D = 29, 7
    items = []
    for lengths in ((1, 1, 1), (2, 5, 3, 1), (4, 3)):
        items.append(
            {
                "prompt": rng.integers(0, V, size=int(rng.integers(3, 6))).tolist(),
                "choices": [rng.integers(0, V, size=n).tolist() for n in lengths],
                "texts": [" " + " ".join(rng.choice(WORDS, size=n + 1)) for n in lengths],
            }
        )
    return {
        "embedding": normal(rng, V, D),
        "head": normal(rng, V, D),
        "neutral": rng.integers(0, V, size=2).tolist(),
        "items": items,
    }


def _interval_inputs(rng: np.random.Generator) -> Arrays:
    """Groups of one to nine items; large groups differ from small ones, so weights matter."""
    G, R = int(rng.integers(9, 13)), 237
    sizes = rng.permutation(np.arange(G) % 9 + 1)
    groups = rng.permutation(np.repeat(np.arange(G), sizes))
    N = len(groups)
    shift = 0.15 * sizes[groups] + rng.normal(0, 0.3, G)[groups]
    hard = rng.normal(0, 2, N)
    return {
        "first": hard + shift + rng.normal(0, 0.4, N),
        "second": hard + rng.normal(0, 0.4, N),
        "groups": groups,
        "resamples": rng.integers(0, G, size=(R, G)),
        "item_resamples": rng.integers(0, N, size=(R, N)),
        "level": float(rng.choice([0.8, 0.9])),
    }


def _report(rng: np.random.Generator, fault: int) -> Arrays:
    """One evaluation report; `fault` 0 is sound. Reported numbers have four digits."""
    names = [f"What does `mod{i}.f{rng.integers(10, 99)}` do?" for i in range(9)]
    few_shot = names[:2]
    if fault == 1:
        few_shot = [names[0], f"  what does  {names[4][10:].upper()} "]
    nats, perplexity = _windows(rng, fault == 2)
    warmup, samples, latency = _latency(rng, fault == 3)
    first, second, margin = _scores(rng, fault == 4)
    return {
        "few_shot": few_shot,
        "items": names[2:],
        "window_nats": nats,
        "perplexity": _rounded(perplexity),
        "warmup": warmup,
        "samples_ms": samples,
        "latency_ms": _rounded(latency),
        "first": first,
        "second": second,
        "margin": _rounded(margin),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _windows(rng: np.random.Generator, wrong: bool) -> tuple[list[npt.NDArray[Any]], float]:
    """Long calm windows and a short surprising one; the two means lie 15% or more apart."""
    nats = [rng.gamma(4.0, 0.5, size=int(n)) for n in rng.integers(23, 41, size=3)]
    nats.append(rng.gamma(4.0, float(rng.uniform(0.95, 1.3)), size=int(rng.integers(5, 9))))
    right = float(np.exp(np.concatenate(nats).mean()))
    means = float(np.exp(np.mean([part.mean() for part in nats])))
    if abs(means / right - 1) < 0.15:
        return _windows(rng, wrong)
    return nats, means if wrong else right


def _latency(rng: np.random.Generator, wrong: bool) -> tuple[int, npt.NDArray[Any], float]:
    """A slow warm-up of a third of the samples, which moves even the median by 15% or more."""
    warmup = int(rng.integers(4, 6))
    samples = 20 * rng.lognormal(0, 0.35, size=13)
    samples[:warmup] *= 4
    right, all_of_them = float(np.median(samples[warmup:])), float(np.median(samples))
    if all_of_them / right - 1 < 0.15:
        return _latency(rng, wrong)
    return warmup, samples, all_of_them if wrong else right


def _scores(
    rng: np.random.Generator, wrong: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], float]:
    """Scores of two models on the same items: hard ones are hard for both."""
    N = int(rng.integers(41, 60))
    hard = rng.normal(3, 1, N)
    first, second = hard + rng.normal(0, 0.5, N), hard + rng.normal(0.1, 0.5, N)
    paired = (first - second).var(ddof=1)
    unpaired = first.var(ddof=1) + second.var(ddof=1)
    return first, second, 1.96 * math.sqrt((unpaired if wrong else paired) / N)


def _diagnose_inputs(rng: np.random.Generator) -> Arrays:
    faults = every_kind(rng, range(5), more=4)
    return {"reports": [_report(rng, fault) for fault in faults]}


def _plan_inputs(rng: np.random.Generator) -> Arrays:
    N = int(rng.integers(31, 53))
    hard = rng.normal(0, 1.5, N)
    demands = [
        (float(rng.uniform(0.1, 0.14)), 0.95, 0.8),
        (float(rng.uniform(0.14, 0.2)), 0.9, 0.7),
    ]
    return {
        "first": hard + rng.normal(0.2, 0.4, N),
        "second": hard + rng.normal(0, 0.4, N),
        "demands": demands,
    }


HINTS: dict[str, dict[str, str]] = {
    "plan_windows": {
        "raises ValueError": "which values of min_context can no plan fulfil?",
        "number of windows": "how far may a window move on and still leave min_context tokens?",
        "times each token": "score what no window before has scored; nothing predicts token 0.",
    },
    "perplexity_of": {
        "bits": "bits are not nats, and bytes are not tokens.",
        "reversed": "the order of the batches must not matter: sum first, divide once.",
    },
    "option_scores": {
        "'bytes'": "count UTF-8 bytes, not characters, and not the leading space.",
        "'tokens'": "divide by the choice's own tokens only.",
        "'prior'": "score the same choice after the neutral prompt, too.",
    },
    "paired_interval": {
        "own group": "with one item a group this is the plain paired bootstrap: check its tails.",
    },
    "plan_items": {
        "items needed": "solve the inequality for n, and ask no fraction of an item.",
    },
}


_check = partial(exercise, "lab20_evaluation", tolerance=FLOAT64, hints=HINTS)

LAB = Lab(
    name="lab20_evaluation",
    teaches=("labkit.evaluation", "labkit.objectives"),
    files=("envelope.json",),
    checks=(
        _check(
            "plan_windows", 5, _window_inputs,
            "the first token that a later window scores stands min_context tokens into it.",
        ),
        _check(
            "perplexity_of", 5, _perplexity_inputs,
            "one mean over all counted tokens, labels one step ahead; bits are not nats.",
            tolerance=FLOAT32,
        ),
        _check(
            "option_scores", 7, _option_inputs,
            "each token of a choice is predicted one position earlier; bytes are not characters.",
            tolerance=FLOAT32,
        ),
        _check(
            "paired_interval", 7, _interval_inputs,
            "draw whole groups, and weigh every item of the drawn groups alike.",
        ),
        _check(
            "diagnose", 7, _diagnose_inputs,
            "recompute each number from the report's own data and see which one is off by a tenth.",
        ),
        _check(
            "plan_items", 5, _plan_inputs,
            "the spread that counts is that of the differences; both error rates enter.",
            tolerance=NORMAL,
        ),
    ),
)  # fmt: skip
