"""`labkit serve`: its options become the right configurations, keys come from safe places."""

import pytest

from labkit.cli import serve
from labkit.cli.main import main
from labkit.serving.backends.local import LocalBackend
from labkit.serving.backends.transformers_engine import TransformersEngine


@pytest.fixture
def served(monkeypatch):
    """What `serve` would be called with."""
    calls = []
    monkeypatch.setattr("labkit.serving.server.serve", lambda *a, **k: calls.append((a, k)))
    return calls


def test_options_reach_backend_and_gateway(served, byte_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "secret")
    argv = ["serve", byte_folder, "--port", 1234, "--max-batch", 5, "--token-budget", 50, "--pages"]
    argv += [77, "--max-adapters", 2, "--max-rank", 8, "--max-waiting", 3, "--request-timeout", 0]
    argv += ["--grace", 1.5, "--max-body-bytes", 999, "--api-key-env", "KEY", "--name", "mine"]
    argv += ["--adapters-root", tmp_path, "--no-prefix-cache"]
    assert main([str(word) for word in argv]) == 0
    [((backend, config), where)] = served
    assert isinstance(backend, LocalBackend)
    assert (backend.base_name, backend.max_batch, backend.load().pages) == ("mine", 5, 77)
    assert config.max_waiting == 3
    assert config.request_timeout_s is None
    assert (config.grace_s, config.max_body_bytes) == (1.5, 999)
    assert config.api_keys == ("secret",)
    assert config.adapters_root == tmp_path
    assert where == {"host": "127.0.0.1", "port": 1234}


def test_transformers_instead(served, byte_folder):
    assert main(["serve", str(byte_folder), "--backend", "transformers"]) == 0
    [((backend, _), _)] = served
    assert isinstance(backend.engine, TransformersEngine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-key-env", "NOT_SET"], "NOT_SET: the variable is not set"),
        (["--api-key-file", "EMPTY"], "holds no key"),
        (["--adapters-root", "nowhere"], "is no folder"),
        (["--max-waiting", "-1"], "max_waiting=-1"),
        (["--backend", "vllm", "--weights", "int8"], "--weights means nothing to --backend vllm"),
        (["--vllm-python", "x"], "--vllm-python means nothing to --backend engine"),
        (["--weights", "int8"], "native kernels do not run this model"),
    ],
)
def test_contradictions_are_told(served, refused, byte_folder, tmp_path, options, message):
    (tmp_path / "empty").write_text("\n\n")
    words = [str(tmp_path / "empty") if word == "EMPTY" else word for word in options]
    assert message in refused("serve", byte_folder, *words)
    assert not served


def test_keys_from_a_file(tmp_path):
    import argparse

    from labkit.cli.serve_options import api_keys

    (tmp_path / "keys").write_text(" first\n\nsecond \n")
    args = argparse.Namespace(api_key_env=None, api_key_file=tmp_path / "keys")
    assert api_keys(args) == ("first", "second")


def test_pairs():
    assert list(serve.parse_adapters(["a=b", "c=d=e"])) == ["a", "c"]
