"""Wrong implementations of lab 20 that a check must tell from a right one."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from torch import nn

from grader.labs.lab20_evaluation import reference

Plan = list[tuple[int, int, int]]


def _context_for_stride(num_tokens: int, window: int, min_context: int) -> Plan:
    return reference.plan_windows(num_tokens, window, window - min_context)


def _counts_overlap_twice(num_tokens: int, window: int, min_context: int) -> Plan:
    plan = reference.plan_windows(num_tokens, window, min_context)
    return [(begin, end, begin + 1) for begin, end, _ in plan]


def _drops_the_ragged_end(num_tokens: int, window: int, min_context: int) -> Plan:
    plan = reference.plan_windows(num_tokens, window, min_context)
    return [entry for entry in plan if entry[1] - entry[0] == window]


def _scores_the_first_token(num_tokens: int, window: int, min_context: int) -> Plan:
    (begin, end, _), *rest = reference.plan_windows(num_tokens, window, min_context)
    return [(begin, end, 0), *rest]


def _one_token_at_a_time(num_tokens: int, window: int, min_context: int) -> Plan:
    reference.plan_windows(num_tokens, window, min_context)
    return reference.plan_windows(num_tokens, window, window - 1)


def _perplexity(
    *, shift: int = 1, by_batch: bool = False, masked: bool = False, unit: float = math.log(2)
) -> Callable[..., tuple[float, float]]:
    """Make a perplexity with one of four faults."""

    def perplexity_of(batches: Any, num_bytes: int) -> tuple[float, float]:
        sums, counts = [], []
        for logits, labels in batches:
            targets = labels[:, shift:]
            scores = logits[:, : logits.shape[1] - shift].transpose(1, 2)
            sums.append(float(nn.functional.cross_entropy(scores, targets, reduction="sum")))
            counts.append(targets.numel() if masked else int((targets != -100).sum()))
        mean = sum(sums) / sum(counts)
        if by_batch:
            means = [nats / n for nats, n in zip(sums, counts, strict=True) if n]
            mean = sum(means) / len(means)
        return math.exp(mean), sum(sums) / unit / num_bytes

    return perplexity_of


def _naive_softmax(batches: Any, num_bytes: int) -> tuple[float, float]:
    nats, tokens = 0.0, 0
    for logits, labels in batches:
        targets = labels[:, 1:]
        keep = targets != -100
        chances = logits[:, :-1].exp() / logits[:, :-1].exp().sum(-1, keepdim=True)
        chosen = chances.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        nats, tokens = nats - float(chosen[keep].log().sum()), tokens + int(keep.sum())
    return math.exp(nats / tokens), nats / math.log(2) / num_bytes


def _one_position_late(model: Any, prompt: Any, *rest: Any) -> list[float]:
    choices, texts, neutral, normalise = rest
    late = [[0, *choice[:-1]] for choice in choices]
    return reference.option_scores(model, prompt, late, texts, neutral, normalise)


def _scores_the_padding(model: Any, prompt: Any, *rest: Any) -> list[float]:
    choices, texts, neutral, normalise = rest
    width = max(len(choice) for choice in choices)
    padded = [choice + [0] * (width - len(choice)) for choice in choices]
    return reference.option_scores(model, prompt, padded, texts, neutral, normalise)


def _characters(model: Any, prompt: Any, *rest: Any) -> list[float]:
    choices, texts, neutral, normalise = rest
    ascii_texts = ["x" * len(text) for text in texts]
    return reference.option_scores(model, prompt, choices, ascii_texts, neutral, normalise)


def _counts_the_space(model: Any, prompt: Any, *rest: Any) -> list[float]:
    choices, texts, neutral, normalise = rest
    longer = [f" {text}" for text in texts]
    return reference.option_scores(model, prompt, choices, longer, neutral, normalise)


def _no_prior(model: Any, prompt: Any, *rest: Any) -> list[float]:
    choices, texts, neutral, normalise = rest
    way = "none" if normalise == "prior" else normalise
    return reference.option_scores(model, prompt, choices, texts, neutral, way)


def _mean_of_group_means(
    first: Any, second: Any, groups: Any, resamples: Any, level: float
) -> tuple[float, float, float]:
    means = np.bincount(groups, weights=first - second) / np.bincount(groups)
    tail = (1 - level) / 2
    low, high = np.quantile(means[resamples].mean(1), [tail, 1 - tail])
    return float(low), float(means.mean()), float(high)


def _unpaired(
    first: Any, second: Any, groups: Any, resamples: Any, level: float
) -> tuple[float, float, float]:
    sizes = np.bincount(groups)
    a, b = (np.bincount(groups, weights=values) for values in (first, second))
    other = np.roll(resamples, 1, axis=0)
    draws = a[resamples].sum(1) / sizes[resamples].sum(1) - b[other].sum(1) / sizes[other].sum(1)
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float((first - second).mean()), float(high)


def _whole_level_in_each_tail(
    first: Any, second: Any, groups: Any, resamples: Any, level: float
) -> tuple[float, float, float]:
    return reference.paired_interval(first, second, groups, resamples, 2 * level - 1)


def _sign_turned(
    first: Any, second: Any, groups: Any, resamples: Any, level: float
) -> tuple[float, float, float]:
    return reference.paired_interval(second, first, groups, resamples, level)


def _items_for_groups(
    first: Any, second: Any, groups: Any, resamples: Any, level: float
) -> tuple[float, float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile((first - second)[resamples].mean(1), [tail, 1 - tail])
    return float(low), float((first - second).mean()), float(high)


def _never_says(fault: str) -> Callable[[dict[str, Any]], str]:
    def diagnose(report: dict[str, Any]) -> str:
        answer = reference.diagnose(report)
        return "sound" if answer == fault else answer

    return diagnose


def _compares_questions_exactly(report: dict[str, Any]) -> str:
    leaked = set(report["items"]) & set(report["few_shot"])
    return "leak" if leaked else reference.diagnose(report | {"few_shot": []})


def _suspects_all(report: dict[str, Any]) -> str:
    answer = reference.diagnose(report)
    return "unpaired" if answer == "sound" else answer


def _items(
    *, one_sided: bool = False, power_counts: bool = True, paired: bool = True, up: bool = True
) -> Callable[..., tuple[float, int]]:
    """Make a plan with one of four faults."""

    def plan_items(
        first: Any, second: Any, effect: float, level: float, power: float
    ) -> tuple[float, int]:
        z = stats.norm.ppf(level if one_sided else (1 + level) / 2)
        z += stats.norm.ppf(power) if power_counts else 0.0
        spread = (first - second).std(ddof=1)
        if not paired:
            spread = math.sqrt(first.var(ddof=1) + second.var(ddof=1))
        needed = (z * spread / effect) ** 2
        items = math.ceil(needed) if up else math.floor(needed)
        return float(z * spread / math.sqrt(len(first))), items

    return plan_items


MUTANTS: dict[str, dict[str, Any]] = {
    "plan_windows": {
        "takes the context for the stride": _context_for_stride,
        "counts the overlap twice": _counts_overlap_twice,
        "drops the ragged end": _drops_the_ragged_end,
        "scores the very first token": _scores_the_first_token,
        "more windows than needed": _one_token_at_a_time,
    },
    "perplexity_of": {
        "no shift": _perplexity(shift=0),
        "mean of means": _perplexity(by_batch=True),
        "counts masked tokens": _perplexity(masked=True),
        "nats for bits": _perplexity(unit=1.0),
        "softmax without the largest logit taken out": _naive_softmax,
    },
    "option_scores": {
        "one position late": _one_position_late,
        "scores the padding": _scores_the_padding,
        "characters for bytes": _characters,
        "counts the leading space": _counts_the_space,
        "ignores the prior": _no_prior,
    },
    "paired_interval": {
        "mean of the groups' means": _mean_of_group_means,
        "unpaired": _unpaired,
        "the whole level in each tail": _whole_level_in_each_tail,
        "sign turned": _sign_turned,
        "takes groups for items": _items_for_groups,
    },
    "diagnose": {
        "compares questions exactly": _compares_questions_exactly,
        "trusts the warm-up": _never_says("warm_up"),
        "trusts the margin": _never_says("unpaired"),
        "trusts the perplexity": _never_says("mean_of_means"),
        "finds a fault in everything": _suspects_all,
    },
    "plan_items": {
        "one-sided": _items(one_sided=True),
        "forgets the power": _items(power_counts=False),
        "unpaired spread": _items(paired=False),
        "rounds down": _items(up=False),
    },
}
