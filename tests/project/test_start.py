"""`make start` refuses in one sentence, falls back without CUDA, and skips what is done."""

import importlib.util
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/start.py with its folders moved to a temporary root."""
    spec = importlib.util.spec_from_file_location("start", ROOT / "scripts" / "start.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, path in {
        "ROOT": tmp_path,
        "STAMPS": tmp_path / ".start",
        "VENV": tmp_path / ".venv",
        "PYTHON": tmp_path / ".venv" / "bin" / "python",
    }.items():
        monkeypatch.setattr(module, name, path)
    (tmp_path / ".start").mkdir()
    return module


def test_little_disk_is_said_with_figures(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**10, 9 * 10**9, 10**9))
    with pytest.raises(start.SetupError, match=r"^1\.0 GB are free .* needs 6: free some space"):
        start.check_machine()


def test_old_python_is_said_with_both_versions(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(start.SetupError, match=r"Python 3\.9 is too old: .* 3\.11 or newer"):
        start.check_machine()


def test_missing_python_is_one_sentence_from_make() -> None:
    done = subprocess.run(
        ["make", "start", "PYTHON=no-such-python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("make: no 'no-such-python' found: install Python")
    assert "Traceback" not in done.stderr


def test_failed_pip_names_log_and_way_out(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "run", lambda *_, **__: 1)
    with pytest.raises(start.SetupError, match=r"pip could not install torch==2\.13\.0: check the"):
        start.pip("torch==2.13.0")


@pytest.mark.parametrize(
    ("driver", "index_away", "expected"),
    [
        (True, False, [["torch==2.13.0"]]),
        (False, False, [["torch==2.13.0", "--extra-index-url"]]),
        (False, True, [["torch==2.13.0", "--extra-index-url"], ["torch==2.13.0"]]),
    ],
)
def test_torch_without_cuda_first_then_the_plain_release(
    start: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    driver: bool,
    index_away: bool,
    expected: list[list[str]],
) -> None:
    calls: list[list[str]] = []

    def pip(*arguments: str, venv: Path, optional: bool = False) -> bool:
        calls.append(
            [word for word in arguments if not word.startswith(("https", "--retries", "0"))]
        )
        return not (optional and index_away)

    monkeypatch.setattr(start, "pip", pip)
    monkeypatch.setattr(start, "has_nvidia_driver", lambda: driver)
    monkeypatch.setattr(sys, "platform", "linux")
    start.install_torch("torch==2.13.0")
    assert calls == expected


def test_a_step_runs_once_and_again_when_its_input_changes(
    start: ModuleType, tmp_path: Path
) -> None:
    source, runs = tmp_path / "input", []
    source.write_text("one")
    step = start.Step("s", "A step", lambda: [source], lambda: runs.append(1))
    step()
    step()
    assert len(runs) == 1
    source.write_text("two")
    step()
    assert len(runs) == 2


def test_a_failed_step_leaves_no_stamp(start: ModuleType, tmp_path: Path) -> None:
    def fail() -> None:
        raise start.SetupError("no")

    with pytest.raises(start.SetupError):
        start.Step("s", "A step", list, fail)()
    assert not (tmp_path / ".start" / "s").exists()
