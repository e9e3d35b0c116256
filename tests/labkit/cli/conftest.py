"""Small files for the commands, and a way to run them in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.cli.main import main
from labkit.data import pydoc_corpus


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress bars, whatever the terminal."""
    monkeypatch.setenv("CI", "1")


@pytest.fixture
def small_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documentation of two modules in place of the whole standard library's."""
    few = pydoc_corpus.functions(("argparse", "logging"))
    monkeypatch.setattr(pydoc_corpus, "functions", lambda: few)


@pytest.fixture(scope="session")
def long_folder(byte_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The byte model with room for whole questions."""
    folder = tmp_path_factory.mktemp("models") / "long"
    shutil.copytree(byte_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 1900
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 30)
    return path


@pytest.fixture
def alpaca_file(tmp_path: Path) -> Path:
    rows = [{"instruction": f"Say {word}.", "output": word * 2} for word in ("ab", "cd", "ef")]
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run a command that must succeed; its stdout and stderr."""

    def run(*argv: object) -> tuple[str, str]:
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, err

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; its one sentence."""

    def refused(*argv: object) -> str:
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.startswith("labkit")
        assert len(err.splitlines()) == 1, err
        return err

    return refused
