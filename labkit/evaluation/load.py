"""Load on an OpenAI-compatible server, and what its users saw of it. Needs httpx (extra `serve`).

Open loop: requests come when they come, whether the server keeps up or not, and each one's clock
starts when it was due. A client that waits for an answer before it asks again (closed loop) slows
down with the server and so hides its worst latencies.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

Body = Mapping[str, Any]
NO_ANSWER = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        due_s: When it was due, in seconds from the load's begin.
        status: Of HTTP; 0 if no answer came.
        events_s: When each piece of text came, in seconds from the due time.
        tokens: New tokens, as the server counted them.
        end_s: When the answer was complete, or had failed, in seconds from the due time.
        error: What went wrong, or an empty string.
    """

    due_s: float
    status: int
    events_s: tuple[float, ...]
    tokens: int
    end_s: float
    error: str

    @property
    def ok(self) -> bool:
        """Whether a whole answer came."""
        return self.status == 200 and not self.error

    @property
    def first_token_s(self) -> float:
        """Time to the first text (TTFT), in seconds; of an answer without text, to its end."""
        return self.events_s[0] if self.events_s else self.end_s

    @property
    def per_token_s(self) -> float:
        """Seconds for each token after the first (TPOT); 0 of an answer of one token."""
        if self.tokens < 2 or not self.events_s:
            return 0.0
        return (self.events_s[-1] - self.events_s[0]) / (self.tokens - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a user puts up with, in seconds: until the first token, and for each one after it."""

    first_token_s: float
    per_token_s: float

    def met_by(self, outcome: Outcome) -> bool:
        """Whether a whole answer came in time."""
        in_time = outcome.first_token_s <= self.first_token_s
        return outcome.ok and in_time and outcome.per_token_s <= self.per_token_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A load in numbers. Quantiles are (50 %, 90 %, 99 %) over whole answers, in seconds.

    Attributes:
        requests: All that were sent.
        completed: Whole answers.
        refused: Answers 429 and 503.
        failed: All others.
        duration_s: From the load's begin to its last answer.
        tokens_per_s: New tokens of whole answers, over the duration.
        first_token_s: Time to the first token (TTFT).
        per_token_s: Time for each later token (TPOT).
        latency_s: Time to the whole answer.
        goodput_per_s: Answers a second that met the objective; None without one.
    """

    requests: int
    completed: int
    refused: int
    failed: int
    duration_s: float
    tokens_per_s: float
    first_token_s: tuple[float, float, float]
    per_token_s: tuple[float, float, float]
    latency_s: tuple[float, float, float]
    goodput_per_s: float | None


def poisson(rate_per_s: float, count: int, rng: np.random.Generator) -> list[float]:
    """When `count` requests of a Poisson process are due, in seconds; the first one after a gap.

    Raises:
        ValueError: The rate or the count is not above 0.
    """
    if not rate_per_s > 0 or count < 1:
        raise ValueError(f"rate_per_s={rate_per_s} and count={count} must be above 0")
    times: list[float] = rng.exponential(1 / rate_per_s, count).cumsum().tolist()
    return times


async def open_loop(
    url: str,
    bodies: Sequence[Body],
    due_s: Sequence[float],
    *,
    api_key: str | None = None,
    timeout_s: float = 600.0,
) -> list[Outcome]:
    """Send each request when it is due, as a stream; the outcomes in the requests' order.

    Args:
        url: The server, as http://127.0.0.1:8000.
        bodies: JSON of completions, or of chat completions where there are "messages".
        due_s: When, in seconds from now, in ascending order.
        api_key: Sent as a bearer token.
        timeout_s: Longest silence of the server.

    Raises:
        ValueError: The two sequences differ in length, or the times descend.
    """
    if len(bodies) != len(due_s) or any(a > b for a, b in itertools.pairwise(due_s)):
        raise ValueError(
            f"{len(bodies)} bodies and {len(due_s)} due times: expected as many, in ascending order"
        )
    async with _client(url, api_key, timeout_s) as http:
        begin = time.perf_counter()
        tasks = []
        for body, due in zip(bodies, due_s, strict=True):
            await asyncio.sleep(begin + due - time.perf_counter())
            tasks.append(asyncio.ensure_future(_ask(http, body, begin, due)))
        return await asyncio.gather(*tasks)


async def closed_loop(
    url: str,
    bodies: Sequence[Body],
    *,
    clients: int,
    api_key: str | None = None,
    timeout_s: float = 600.0,
) -> list[Outcome]:
    """Let each of some clients send the next request once its last one is answered.

    A request is due when its client is free. Args as `open_loop`.

    Raises:
        ValueError: There is no client.
    """
    if clients < 1:
        raise ValueError(f"clients={clients} must be at least 1")
    outcomes: dict[int, Outcome] = {}
    waiting = iter(enumerate(bodies))
    async with _client(url, api_key, timeout_s) as http:
        begin = time.perf_counter()

        async def client() -> None:
            for number, body in waiting:
                due = time.perf_counter() - begin
                outcomes[number] = await _ask(http, body, begin, due)

        await asyncio.gather(*(client() for _ in range(clients)))
    return [outcomes[number] for number in range(len(bodies))]


def summarize(outcomes: Sequence[Outcome], objective: Objective | None = None) -> Summary:
    """Throughput, latencies and goodput.

    Paper: goodput under two objectives as in DistServe, arXiv 2401.09670, section 2.

    Raises:
        ValueError: There is no outcome.
    """
    if not outcomes:
        raise ValueError("expected at least one outcome")
    whole = [outcome for outcome in outcomes if outcome.ok]
    refused = sum(outcome.status in (429, 503) for outcome in outcomes)
    duration_s = max(outcome.due_s + outcome.end_s for outcome in outcomes)
    good = None if objective is None else sum(map(objective.met_by, outcomes)) / duration_s
    return Summary(
        requests=len(outcomes),
        completed=len(whole),
        refused=refused,
        failed=len(outcomes) - len(whole) - refused,
        duration_s=duration_s,
        tokens_per_s=sum(outcome.tokens for outcome in whole) / duration_s,
        first_token_s=_quantiles([outcome.first_token_s for outcome in whole]),
        per_token_s=_quantiles([o.per_token_s for o in whole if o.tokens > 1]),
        latency_s=_quantiles([outcome.end_s for outcome in whole]),
        goodput_per_s=good,
    )


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    if not values:
        return float("nan"), float("nan"), float("nan")
    low, middle, high = np.quantile(values, (0.5, 0.9, 0.99)).tolist()
    return low, middle, high


def _client(url: str, api_key: str | None, timeout_s: float) -> httpx.AsyncClient:
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=timeout_s)


async def _ask(http: httpx.AsyncClient, body: Body, begin: float, due: float) -> Outcome:
    """One request as a stream. What goes wrong with it is its outcome; the others go on."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    came = _Answer(due_at=begin + due)
    try:
        async with http.stream("POST", path, json=asked) as answer:
            await came.read(answer)
    except (httpx.HTTPError, ValueError) as problem:
        came.error = f"{type(problem).__name__}: {problem}"
    return Outcome(
        due_s=due,
        status=came.status,
        events_s=tuple(came.events_s),
        tokens=came.tokens,
        end_s=time.perf_counter() - came.due_at,
        error=came.error,
    )


@dataclass(slots=True)
class _Answer:
    """What has come of one answer until now."""

    due_at: float  # on time.perf_counter's clock
    status: int = NO_ANSWER
    tokens: int = 0
    error: str = ""
    events_s: list[float] = field(default_factory=list)

    async def read(self, answer: httpx.Response) -> None:
        """Read the stream to its end, to an error in it, or until it breaks off."""
        self.status = answer.status_code
        if self.status != 200:
            self.error = (await answer.aread()).decode(errors="replace")
            return
        self.error = "the stream ended before [DONE]"
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                self.error = ""
                return
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    self.error = str(event["error"])
                    return
                self._note(event)

    def _note(self, event: Mapping[str, Any]) -> None:
        texts = (c.get("text") or c.get("delta", {}).get("content") for c in event["choices"])
        if any(texts):
            self.events_s.append(time.perf_counter() - self.due_at)
        if usage := event.get("usage"):
            self.tokens = usage["completion_tokens"]
