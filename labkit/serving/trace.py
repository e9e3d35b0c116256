"""One request's times and counts: into the metrics while it runs, into one log line at its end."""

import json
import logging
import re
import secrets
import time
from collections.abc import Callable

from labkit.serving.metrics import Metrics

log = logging.getLogger("labkit.serving.requests")
CLIENT_LEFT = 499  # nginx's status for a client that closed the connection
_PLAIN = re.compile(r"[\w./:@-]+", re.ASCII)


class Trace:
    """Follows a request from its arrival to its end.

    Args:
        metrics: Where the figures go.
        route: As in the API's document.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, metrics: Metrics, route: str, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.id = f"req-{secrets.token_hex(8)}"
        self.model, self.adapter = "", ""
        self.prompt_tokens = self.completion_tokens = 0
        self._metrics, self._route, self._clock = metrics, route, clock
        self._began = clock()
        self._first: float | None = None
        self._last: dict[int, float] = {}
        self._done = False

    @property
    def age_s(self) -> float:
        """Since the arrival."""
        return self._clock() - self._began

    def of(self, model: str, adapter: str | None) -> None:
        """The model is known by now to be served, so its name may become a label."""
        self.model, self.adapter = model, adapter or ""

    def accepted(self, prompt_tokens: int) -> None:
        """The backend has taken a text."""
        self.prompt_tokens += prompt_tokens
        self._metrics.prompt_tokens.labels(self.model).inc(prompt_tokens)

    def begun(self, at_s: float) -> None:
        """A text of it left the queue, at a time of the same clock."""
        self._metrics.queue_time.labels(self.model).observe(at_s - self._began)

    def token(self, text: int = 0, count: int = 1) -> None:
        """Tokens of the request's k-th text have arrived."""
        now = self._clock()
        if self._first is None:
            self._first = now
            self._metrics.ttft.labels(self.model).observe(now - self._began)
        elif text in self._last:
            self._metrics.itl.labels(self.model).observe(now - self._last[text])
        self._last[text] = now
        self.completion_tokens += count
        self._metrics.generation_tokens.labels(self.model).inc(count)

    def finish(self, status: int) -> None:
        """Count the request and write its line; later calls do nothing."""
        if self._done:
            return
        self._done = True
        total_s = self.age_s
        self._metrics.requests.labels(self._route, str(status)).inc()
        if status == CLIENT_LEFT:
            self._metrics.cancelled.inc()
        if self.model:
            self._metrics.total.labels(self.model).observe(total_s)
        log.info("%s", self._line(status, total_s))

    def _line(self, status: int, total_s: float) -> str:
        ttft_ms = "" if self._first is None else f"{1e3 * (self._first - self._began):.1f}"
        fields = {
            "id": self.id,
            "route": self._route,
            "model": self.model,
            "adapter": self.adapter,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "ttft_ms": ttft_ms,
            "total_ms": f"{1e3 * total_s:.1f}",
            "status": status,
        }
        return " ".join(f"{name}={_quoted(str(value))}" for name, value in fields.items())


def _quoted(value: str) -> str:
    """As it is, if no reader could mistake it; no line break survives."""
    return value if value == "" or _PLAIN.fullmatch(value) else json.dumps(value)
