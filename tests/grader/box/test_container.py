"""A box in a container: what it reaches, and that nothing of it stays."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grader.box import container
from grader.box.boxes import Boxes
from grader.box.session import BoxEnded, Trouble
from grader.box.tier import NoSandboxError, Tier
from grader.checks.core import load_lab

LAB = load_lab("lab03_lora")
REPOSITORY = Path(__file__).parents[3]
SOURCE = f"""
import os, socket
def lora_delta(*arguments, **options):
    try:
        socket.create_connection(("192.0.2.1", 80), 1)
    except OSError:
        network = "refused"
    solutions = os.path.exists("{REPOSITORY}/solutions")
    return [os.getuid(), network, solutions, os.environ.get("SECRET")]
"""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boxes]:
    """In a temporary folder whose path no socket's address could hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("long" * 30)))
        try:
            with Boxes(LAB, Tier.CONTAINER) as made:
                yield made
        except NoSandboxError as error:
            pytest.skip(str(error))


def answer(boxes: Boxes, source: str, limit_s: float = 10.0) -> Any:
    check = LAB.check("lora_delta")
    with boxes.start() as box:
        assert box.load(boxes.job([{"id": "lora_delta", "source": source}])) == {}
        inputs = check.inputs(np.random.default_rng(0))
        return box.ask(check.name, "lora_delta", inputs, limit_s)


def containers() -> str:
    command = [*container.program(), "ps", "--all", "--quiet", "--filter", "name=grader-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_container_reaches(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "secret")
    found = answer(boxes, SOURCE)
    assert found["error"] == ""
    assert found["outputs"]["delta"] == [65534, "refused", False, None]


def test_nothing_of_a_container_stays(boxes: Boxes) -> None:
    source = "def lora_delta(*arguments, **options):\n    while True:\n        pass\n"
    with pytest.raises(BoxEnded) as caught:
        answer(boxes, source, limit_s=1.0)
    assert caught.value.trouble is Trouble.TIMEOUT
    assert containers() == ""


def test_without_docker_or_podman_it_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(container.VARIABLE, raising=False)
    with (
        pytest.raises(NoSandboxError, match="neither docker nor podman"),
        Boxes(LAB, Tier.CONTAINER),
    ):
        pass
