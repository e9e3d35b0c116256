"""How each exercise of lab 20 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, Any]


def plan_windows(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Plan several texts and report what the plans do, so that any plan that does it passes."""
    results: Arrays = {}
    for num_tokens, window, min_context in inputs["texts"]:
        case = f"{num_tokens} tokens, window={window}, min_context={min_context}"
        plan = [tuple(int(n) for n in entry) for entry in impl(num_tokens, window, min_context)]
        results[f"number of windows ({case})"] = len(plan)
        inside = all(0 <= begin < end <= num_tokens for begin, end, _ in plan)
        results[f"windows lie in the text ({case})"] = inside
        fits = all(end - begin <= window for begin, end, _ in plan)
        results[f"windows are no longer than allowed ({case})"] = fits
        scored = [(t, begin) for begin, end, first in plan for t in range(first, end)]
        times = np.zeros(num_tokens, dtype=np.int64)
        for token, _ in scored:
            times[token] += 1
        results[f"times each token is scored ({case})"] = times
        enough = all(token - begin >= min(token, min_context) for token, begin in scored)
        results[f"every scored token has its context ({case})"] = enough
    for window, min_context in inputs["impossible"]:
        case = f"window={window}, min_context={min_context}"
        results[f"{case} raises ValueError"] = _refuses(impl, window, min_context)
    return results


def _refuses(impl: Callable[..., Any], window: int, min_context: int) -> bool:
    try:
        impl(5 * window, window, min_context)
    except ValueError:
        return True
    return False


def perplexity_of(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Score all batches, then the same batches in another order."""
    batches = list(zip(inputs["logits"], inputs["labels"], strict=True))
    perplexity, bits = impl(batches, inputs["num_bytes"])
    again, _ = impl(batches[::-1], inputs["num_bytes"])
    return {
        "perplexity": float(perplexity),
        "bits per byte": float(bits),
        "perplexity with the batches reversed": float(again),
    }


class CausalModel:
    """Logits from the mean of all embeddings so far and the last one: order and context count."""

    def __init__(self, embedding: Tensor, head: Tensor) -> None:
        self.embedding, self.head = embedding, head

    def __call__(self, ids: Tensor) -> Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        vectors = self.embedding[ids]
        lengths = torch.arange(1, ids.shape[1] + 1)[:, None]
        return (2 * vectors.cumsum(1) / lengths + vectors) @ self.head.T


def option_scores(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Score the choices of several items in each of the four ways."""
    model = CausalModel(inputs["embedding"], inputs["head"])
    results: Arrays = {}
    for index, item in enumerate(inputs["items"]):
        arguments = item["prompt"], item["choices"], item["texts"], inputs["neutral"]
        for normalise in ("none", "tokens", "bytes", "prior"):
            scores = impl(model, *arguments, normalise)
            name = f"scores of item {index}, normalise={normalise!r}"
            results[name] = np.array([float(score) for score in scores])
    return results


def paired_interval(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Intervals of grouped items, and of items that stand alone."""
    first, second, N = inputs["first"], inputs["second"], len(inputs["first"])
    grouped = impl(first, second, inputs["groups"], inputs["resamples"], inputs["level"])
    alone = impl(first, second, np.arange(N), inputs["item_resamples"], inputs["level"])
    names = ("low", "estimate", "high")
    results = {f"{n}, groups": float(v) for n, v in zip(names, grouped, strict=True)}
    return results | {
        f"{n}, every item its own group": float(v) for n, v in zip(names, alone, strict=True)
    }


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask what is wrong with each report."""
    return {f"report {index}": impl(report) for index, report in enumerate(inputs["reports"])}


def plan_items(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Plan two experiments after one pilot, the second with other demands."""
    results: Arrays = {}
    for index, (effect, level, power) in enumerate(inputs["demands"]):
        smallest, items = impl(inputs["first"], inputs["second"], effect, level, power)
        results[f"smallest effect, demand {index}"] = float(smallest)
        whole = float(items).is_integer()
        results[f"items needed, demand {index}"] = int(items) if whole else float(items)
    return results


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "plan_windows": plan_windows,
    "perplexity_of": perplexity_of,
    "option_scores": option_scores,
    "paired_interval": paired_interval,
    "diagnose": diagnose,
    "plan_items": plan_items,
}
