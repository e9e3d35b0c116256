"""A submission's receipt survives a grader that is killed while it writes into the folder."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grader.gradebook.attempts import TIMESTAMP
from grader.grading.receipts import receipt, restore, stamp

RECEIVED = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
KILLED = """
import os, signal, sys
from pathlib import Path
from grader.grading.receipts import stamp
os.utime = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
stamp(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (made := tmp_path / "submitted").mkdir()
    (made / "lab.ipynb").write_text("work")
    (made / TIMESTAMP).write_text("1999-01-01 00:00:00 UTC\n")
    os.utime(made, (RECEIVED.timestamp(), RECEIVED.timestamp()))
    return made


@pytest.fixture
def aside(folder: Path) -> Path:
    return folder.with_name("ada.receipt")


@pytest.fixture
def killed(folder: Path, aside: Path) -> None:
    """A grader was killed after it had written the stamp."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(aside)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert receipt(folder) != RECEIVED


def test_the_folder_keeps_its_time_and_says_it(folder: Path, aside: Path) -> None:
    stamp(folder, aside)
    assert receipt(folder) == RECEIVED
    assert (folder / TIMESTAMP).read_text() == "2026-03-01 12:30:15 UTC\n"
    assert not aside.exists()


@pytest.mark.usefixtures("killed")
def test_after_a_kill_the_folder_gets_its_time_back(folder: Path, aside: Path) -> None:
    restore(folder, aside)
    assert receipt(folder) == RECEIVED
    assert not aside.exists()


@pytest.mark.usefixtures("killed")
@pytest.mark.parametrize("in_place", [True, False])
def test_what_was_handed_in_since_counts_as_new(folder: Path, aside: Path, in_place: bool) -> None:
    since = time.time()
    if in_place:
        (folder / "lab.ipynb").write_text("other work")
    else:
        folder.rename(folder.with_name("old"))
        folder.mkdir()
    os.utime(folder)
    restore(folder, aside)
    assert receipt(folder).timestamp() >= int(since)
    assert not aside.exists()


def test_without_a_kill_nothing_is_restored(folder: Path, aside: Path) -> None:
    os.utime(folder, (1, 1))
    restore(folder, aside)
    assert receipt(folder).timestamp() == 1
