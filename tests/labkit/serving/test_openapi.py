"""The OpenAPI document as a source of requests: whatever is sent, no answer is a 500."""

import pytest
from hypothesis import HealthCheck, given, settings

from labkit.serving.backends.build import engine_backend
from labkit.serving.config import ServingConfig
from tests.labkit.serving.running import save_adapter, serving

schemathesis = pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def schema(byte_loaded, tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzzed")
    save_adapter(byte_loaded, root / "one", 1)
    with serving(engine_backend(byte_loaded), ServingConfig(adapters_root=root)) as served:
        yield schemathesis.openapi.from_url(f"{served.url}/openapi.json")


FEW = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize(
    "path", ["completions", "chat", "embeddings", "lora", "generate", "models"]
)
def test_no_request_is_a_server_error(schema, path):
    operations = [result.ok() for result in schema.get_all_operations()]
    chosen = [operation for operation in operations if path in operation.path]
    assert chosen
    for operation in chosen:

        @FEW
        @given(case=operation.as_strategy())
        def check(case):
            response = case.call(timeout=60)
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}

        check()
