"""Requests through an engine that is driven step by step: arrivals, first tokens, ends."""

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Stepper(Protocol):
    """An engine with continuous batching."""

    def add(self, prompt: list[int], new_tokens: int) -> int:
        """Queue a request and name it."""
        ...

    def step(self) -> Iterable[tuple[int, int]]:
        """Run one step; the requests that it reached, and the token each of them got."""
        ...


def run_together(engine: Stepper, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
    """All prompts at once.

    Returns:
        `first_s`: until every row had its first token; `total_s`; `decode_tokens` that came after
        `first_s`; the `tokens` of each row.
    """
    began = time.perf_counter()
    tokens: dict[int, list[int]] = {engine.add(prompt, new_tokens): [] for prompt in prompts}
    first_s, before = 0.0, 0
    while any(len(row) < new_tokens for row in tokens.values()):
        for key, token in engine.step():
            tokens[key].append(token)
        if not first_s and all(tokens.values()):
            first_s = time.perf_counter() - began
            before = sum(map(len, tokens.values()))
    return {
        "first_s": first_s,
        "total_s": time.perf_counter() - began,
        "decode_tokens": len(prompts) * new_tokens - before,
        "tokens": list(tokens.values()),
    }


def run_load(engine: Stepper, requests: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Requests {"prompt", "new_tokens", "at"} as they arrive, `at` seconds after the start.

    Returns:
        Of each request, in seconds after the start: its `first` token and its `end`.
    """
    clock = _Clock()
    first, end = [0.0] * len(requests), [0.0] * len(requests)
    waiting, left = list(enumerate(requests)), {}
    while waiting or left:
        if not left:
            clock.wait_until(waiting[0][1]["at"])
        while waiting and waiting[0][1]["at"] <= clock.now():
            index, request = waiting.pop(0)
            key = engine.add(request["prompt"], request["new_tokens"])
            left[key] = [index, request["new_tokens"]]
        for key, _ in engine.step():
            index = left[key][0]
            first[index] = first[index] or clock.now()
            left[key][1] -= 1
            if not left[key][1]:
                end[index] = clock.now()
                del left[key]
    return {"first": first, "end": end}


def run_padded(
    generate: Callable[[list[list[int]], int], object],
    requests: list[dict[str, Any]],
    max_batch: int,
) -> dict[str, list[float]]:
    """The same load in static batches: whoever has arrived, all as long as the longest answer.

    `generate` hands the batch's tokens over at its end, so `first` and `end` are the same.
    """
    clock = _Clock()
    end = [0.0] * len(requests)
    waiting = list(enumerate(requests))
    while waiting:
        clock.wait_until(waiting[0][1]["at"])
        now = clock.now()
        batch = [row for row in waiting if row[1]["at"] <= now][:max_batch]
        waiting = waiting[len(batch) :]
        generate([row["prompt"] for _, row in batch], max(row["new_tokens"] for _, row in batch))
        ended = clock.now()
        for index, _ in batch:
            end[index] = ended
    return {"first": end, "end": end}


class _Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._began

    def wait_until(self, moment: float) -> None:
        if (left := moment - self.now()) > 0:
            time.sleep(left)
