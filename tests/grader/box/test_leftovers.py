"""Temporary folders of graders that end well, that are killed, and that still run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader.box.leftovers import PREFIX, temporary_folder

HOLDS = """
import sys
from grader.box.leftovers import temporary_folder
with temporary_folder() as folder:
    (folder / "locked").mkdir(mode=0)
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def held_by_another(place: Path) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS],
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_gone_at_the_end_with_all_that_is_in_it(place: Path) -> None:
    with temporary_folder(mode=0o711) as folder:
        assert folder.stat().st_mode & 0o777 == 0o711
        (folder / "inside").mkdir(mode=0)
        (folder / "link").symlink_to(place)
    assert list(place.iterdir()) == []


def test_one_whose_grader_was_killed_is_removed_by_the_next(place: Path) -> None:
    process, folder = held_by_another(place)
    process.kill()
    process.communicate()
    assert folder.is_dir()
    with temporary_folder():
        assert not folder.exists()


def test_one_whose_grader_runs_is_left_alone(place: Path) -> None:
    process, folder = held_by_another(place)
    with temporary_folder():
        assert (folder / "locked").is_dir()
    process.communicate()
    assert process.returncode == 0
    assert list(place.iterdir()) == []


def test_what_only_looks_like_one_is_left_alone(place: Path) -> None:
    elsewhere = place / "elsewhere"
    (elsewhere / "work").mkdir(parents=True)
    (place / f"{PREFIX}abcdefgh").symlink_to(elsewhere)
    (place / f"{PREFIX}my-notes").mkdir()
    (place / f"{PREFIX}12345678").write_text("a file")
    with temporary_folder():
        pass
    assert len(list(place.iterdir())) == 4
    assert (elsewhere / "work").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make somebody else's folder")
def test_somebody_elses_is_left_alone(place: Path) -> None:
    folder = place / f"{PREFIX}abcdefgh"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with temporary_folder():
        pass
    assert folder.is_dir()
