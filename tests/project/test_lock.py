"""constraints.txt pins all that is needed and nothing of one machine's."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = dict(line.split("==") for line in LINES if not line.startswith("#"))
OWN = "llm-engineering-lab"


@pytest.fixture
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lines_are_names_and_public_versions_in_order(lock: ModuleType) -> None:
    assert LINES[0] + "\n" == lock.HEADER
    assert [line for line in LINES[1:] if not re.fullmatch(r"[a-z0-9-]+==[\w.]+", line)] == []
    assert list(PINS) == sorted(PINS)


def test_every_requirement_is_pinned_to_a_version_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    apart = {"gpu", "distributed"}  # they want older packages, or a compiler
    texts = [t for name, found in extras.items() if name not in apart for t in found]
    for requirement in map(Requirement, [*project["dependencies"], *texts]):
        name = canonicalize_name(requirement.name)
        if name != OWN:
            assert name in PINS, f"{name} is not pinned: run `make lock`"
            assert requirement.specifier.contains(PINS[name]), name


def test_what_those_need_in_turn_is_pinned_too(lock: ModuleType) -> None:
    needed = {name for name in lock.versions() if not lock.SKIPPED.match(name)}
    assert {"torch", "kombu", lock.MODEL} <= needed
    assert needed - set(PINS) == set(), "run `make lock`"


def test_what_only_lies_about_is_left_out(
    lock: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = {
        OWN: ["torch>=2", "a[x]; extra == 'dev'", "b; extra == 'gpu'"],
        "torch": ["nvidia-cublas", "setuptools"],
        "a": ["c", "d; extra == 'x'", "e; extra == 'y'", "f; python_version < '3'"],
        lock.MODEL: ["llama-cpp-python"],
    }
    metadata = lock.importlib.metadata
    monkeypatch.setattr(metadata, "requires", asks.get)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0+cpu" if name == "torch" else "2")
    assert lock.pins() == ["a==2", "c==2", "d==2", f"{lock.MODEL}==2", "torch==1.0"]
