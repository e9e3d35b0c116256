"""labkit's evaluation in the shapes that lab 20's exercises ask for: the expected values."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor, nn

from labkit.evaluation.bootstrap import interval
from labkit.evaluation.multiple_choice import continuation_log_probs
from labkit.evaluation.perplexity import sliding_windows
from labkit.objectives.language_modelling import cross_entropy

Values = npt.NDArray[Any]
Batches = Sequence[tuple[Tensor, Tensor]]


def plan_windows(num_tokens: int, window: int, min_context: int) -> list[tuple[int, int, int]]:
    """labkit's windows, their stride derived from the context wanted."""
    if not 1 <= min_context < window:
        raise ValueError(f"min_context={min_context} must lie in 1..{window - 1}")
    plan = sliding_windows(num_tokens, window=window, stride=window - min_context)
    return [(w.begin, w.end, w.first_scored) for w in plan]


def perplexity_of(batches: Batches, num_bytes: int) -> tuple[float, float]:
    """Perplexity over all counted tokens, and bits per byte."""
    losses = [cross_entropy(logits, labels) for logits, labels in batches]
    nats = sum(float(loss) for loss, _ in losses)
    return math.exp(nats / sum(count for _, count in losses)), nats / math.log(2) / num_bytes


class _AsModule(nn.Module):
    """A function from ids to logits, called as labkit calls a transformers model."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.place = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.function(input_ids))


def option_scores(
    model: Callable[[Tensor], Tensor],
    prompt: list[int],
    choices: list[list[int]],
    texts: list[str],
    neutral: list[int],
    normalise: str,
) -> list[float]:
    """Log-probability of each choice, normalised in one of four ways."""
    module = _AsModule(model)
    scores = continuation_log_probs(module, prompt, choices)
    if normalise == "prior":
        prior = continuation_log_probs(module, neutral, choices)
        return [score - before for score, before in zip(scores, prior, strict=True)]
    lengths = {
        "none": [1] * len(texts),
        "tokens": [len(choice) for choice in choices],
        "bytes": [len(text[1:].encode()) for text in texts],
    }[normalise]
    return [score / length for score, length in zip(scores, lengths, strict=True)]


class _Given(np.random.Generator):
    """A generator whose draws are given: labkit's bootstrap on the resamples of the exercise."""

    def __init__(self, resamples: Values) -> None:
        super().__init__(np.random.PCG64(0))
        self.resamples = resamples

    def integers(self, *_: Any, **__: Any) -> Any:
        return self.resamples


def paired_interval(
    first: Values, second: Values, groups: Values, resamples: Values, level: float
) -> tuple[float, float, float]:
    """labkit's interval over groups, of the statistic sum of differences over number of items."""
    sums = np.bincount(groups, weights=first - second)
    sizes = np.bincount(groups)

    def ratio(drawn: Values, axis: int) -> Values:
        index = drawn.astype(np.int64)
        return cast(Values, sums[index].sum(axis) / sizes[index].sum(axis))

    found = interval(
        np.arange(len(sums), dtype=np.float64),
        level=level,
        resamples=len(resamples),
        rng=_Given(resamples),
        statistic=ratio,
    )
    return found.low, found.estimate, found.high


def diagnose(report: dict[str, Any]) -> str:
    """Recompute every number of a report; name the fault of the one that differs."""
    asked = {_plain(question) for question in report["items"]}
    if any(_plain(example) in asked for example in report["few_shot"]):
        return "leak"
    tokens = np.concatenate(report["window_nats"])
    if not _close(report["perplexity"], float(np.exp(tokens.mean()))):
        return "mean_of_means"
    measured = report["samples_ms"][report["warmup"] :]
    if not _close(report["latency_ms"], float(np.median(measured))):
        return "warm_up"
    difference = report["first"] - report["second"]
    doubt = 1.96 * difference.std(ddof=1) / math.sqrt(len(difference))
    return "sound" if _close(report["margin"], float(doubt)) else "unpaired"


def _plain(question: str) -> str:
    return " ".join(question.casefold().split())


def _close(reported: float, right: float) -> bool:
    return math.isclose(reported, right, rel_tol=0.05)


def plan_items(
    first: Values, second: Values, effect: float, level: float, power: float
) -> tuple[float, int]:
    """Smallest effect that as many items as the pilot's show, and items for a wanted effect."""
    difference = first - second
    z = stats.norm.isf((1 - level) / 2) + stats.norm.ppf(power)
    doubt = z * difference.std(ddof=1)
    return float(doubt / math.sqrt(len(difference))), math.ceil((doubt / effect) ** 2)


IMPLEMENTATIONS: dict[str, Any] = {
    "plan_windows": plan_windows,
    "perplexity_of": perplexity_of,
    "option_scores": option_scores,
    "paired_interval": paired_interval,
    "diagnose": diagnose,
    "plan_items": plan_items,
}
