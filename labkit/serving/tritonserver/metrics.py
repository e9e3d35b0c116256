"""Metrics beside Triton's own, at its `/metrics`; each change costs a message to the server."""

from typing import Any

import triton_python_backend_utils as pb_utils


class TokenCounter:
    """`labkit_generated_tokens_total`: by model and adapter."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._family = pb_utils.MetricFamily(
            name="labkit_generated_tokens_total",
            description="Tokens of the texts that have ended",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._counters: dict[str, Any] = {}

    def add(self, adapter: str, tokens: int) -> None:
        """Count the tokens of a text that this adapter ("" is the base) has generated."""
        if adapter not in self._counters:
            labels = {"model": self._model, "adapter": adapter or "base"}
            self._counters[adapter] = self._family.Metric(labels=labels)
        self._counters[adapter].increment(tokens)


class StreamGauge:
    """`labkit_open_streams`: by model."""

    def __init__(self, model: str) -> None:
        self._family = pb_utils.MetricFamily(
            name="labkit_open_streams",
            description="Streams under way",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._gauge = self._family.Metric(labels={"model": model})
        self._shown = 0

    def show(self, count: int) -> None:
        """Set the number of streams."""
        if count != self._shown:
            self._gauge.set(count)
            self._shown = count
