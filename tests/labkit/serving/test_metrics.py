"""Figures that Prometheus reads, and the line that each request leaves in the log."""

import logging
import re
import shutil
import subprocess

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from labkit.serving.backends.build import engine_backend
from labkit.serving.metrics import Metrics
from labkit.serving.trace import CLIENT_LEFT, Trace
from tests.labkit.serving.running import serving


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_are_those_of_the_requests(byte_loaded, adapters, small, caplog):
    caplog.set_level(logging.INFO, "labkit.serving.requests")
    with serving(engine_backend(byte_loaded, adapters, engine=small)) as served:
        with served.client() as client:
            client.completions.create(model="red", prompt=["Hello", "Hi"], max_tokens=4, seed=1)
            request = {"model": "byte", "prompt": "a" * 20, "max_tokens": 3, "temperature": 0}
            list(client.completions.create(**request, stream=True))
            list(client.completions.create(**request, stream=True))
            with pytest.raises(openai.NotFoundError):
                client.completions.create(model="green\nforged=1", prompt="a")
        found = samples(httpx.get(f"{served.url}/metrics").text)
    assert found["labkit_prompt_tokens_total", "red"] == 7
    assert found["labkit_generation_tokens_total", "byte"] == 6
    assert found["labkit_time_to_first_token_seconds_count", "byte"] == 2
    assert found["labkit_inter_token_latency_seconds_count", "byte"] == 4
    assert found["labkit_request_queue_time_seconds_count", "byte"] == 2
    assert found["labkit_requests_total", "/v1/completions", "200"] == 3
    assert found["labkit_requests_total", "/v1/completions", "404"] == 1
    assert found["labkit_cached_prompt_tokens_total",] == 16  # two pages of eight
    assert found["labkit_kv_pages",] == 60
    assert found["labkit_kv_pages_used",] == 0
    assert found["labkit_mounted_adapters",] == 2
    assert found["labkit_adapter_texts", "red@v1"] == 0
    assert not any("green" in label for name in found for label in name)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    pattern = r"id=req-\w+ route=/v1/completions model=red adapter=red prompt_tokens=7 "
    pattern += r"completion_tokens=\d+ ttft_ms=[\d.]+ total_ms=[\d.]+ status=200"
    assert re.fullmatch(pattern, lines[0])
    assert "\n" not in "".join(lines)


def test_a_trace_measures_by_its_clock():
    metrics, now = Metrics(), [10.0]
    trace = Trace(metrics, "/test", clock=lambda: now[0])
    trace.of("m", None)
    for at in (10.5, 11.5, 12.0):
        now[0] = at
        trace.token()
    trace.finish(200)
    trace.finish(CLIENT_LEFT)  # the first one counts
    found = samples(metrics.render().decode())
    assert found["labkit_time_to_first_token_seconds_sum", "m"] == 0.5
    assert found["labkit_inter_token_latency_seconds_sum", "m"] == 1.5
    assert found["labkit_request_duration_seconds_sum", "m"] == 2.0
    assert found["labkit_cancelled_requests_total",] == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say(client, url):
    client.completions.create(model="red", prompt="a", max_tokens=2)
    text = httpx.get(f"{url}/metrics").content
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
