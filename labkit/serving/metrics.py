"""What a server tells Prometheus: latencies, the queue, pages, tokens, adapters."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from labkit.serving.step_engine import Load

TTFT_S = (
    1e-3,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    10.0,
    40.0,
)
ITL_S = (1e-3, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
TOTAL_S = (0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 600.0)


@runtime_checkable
class HasLoad(Protocol):
    """A backend that can be asked how busy it is."""

    def load(self) -> Load: ...


class Metrics:
    """One server's counters and histograms; what is seen at scrape time comes from `load`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ["model"]
        self.requests = Counter(
            "labkit_requests", "Requests answered, by HTTP status.",
            ["route", "status"], registry=self.registry,
        )  # fmt: skip
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens taken in.", model)
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.", model)
        self.cancelled = self._counter("cancelled_requests", "Requests whose client left.", [])
        self.refused = self._counter("refused_requests", "Requests refused by a full queue.", [])
        self.ttft = self._histogram(
            "time_to_first_token", "From a request's arrival to its first token.", TTFT_S
        )
        self.queue_time = self._histogram(
            "request_queue_time", "From a request's arrival to its first step.", TTFT_S
        )
        self.itl = self._histogram("inter_token_latency", "Between a text's tokens.", ITL_S)
        self.total = self._histogram("request_duration", "From arrival to the end.", TOTAL_S)
        self.in_flight = Gauge(
            "labkit_texts_in_flight", "Texts that wait or run.", registry=self.registry
        )

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def watch(self, source: "LoadCollector") -> None:
        """Ask a backend how busy it is, at every scrape."""
        self.registry.register(source)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"labkit_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        full = f"labkit_{name}_seconds"
        return Histogram(full, text, ["model"], registry=self.registry, buckets=buckets)


class LoadCollector(Collector):
    """Turns a backend's load into metrics when they are asked for."""

    def __init__(self, source: HasLoad) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        load = self._source.load()
        yield from _gauges(load)
        yield CounterMetricFamily(
            "labkit_preemptions", "Texts that gave their pages back.", value=load.preemptions
        )
        yield CounterMetricFamily(
            "labkit_cached_prompt_tokens",
            "Prompt tokens found in the prefix cache.",
            value=load.cached_tokens,
        )
        adapters = GaugeMetricFamily(
            "labkit_adapter_texts", "Texts under way by mounted adapter.", labels=["adapter"]
        )
        for name, count in load.adapters.items():
            adapters.add_metric([name], count)
        yield adapters


def _gauges(load: Load) -> Iterator[Metric]:
    for name, text, value in (
        ("running_texts", "Texts in the batch.", load.running),
        ("waiting_texts", "Texts that wait for room in the batch.", load.waiting),
        ("kv_pages_used", "Pages of the KV cache that texts hold.", load.pages_used),
        ("kv_pages", "Pages of the KV cache.", load.pages),
        ("mounted_adapters", "Adapters mounted or draining.", len(load.adapters)),
    ):
        yield GaugeMetricFamily(f"labkit_{name}", text, value=value)
