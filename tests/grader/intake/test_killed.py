"""A collecting that is killed, anywhere, and run again ends as one that nobody disturbed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kit" / "killed_collect.py"
STEPS = 60


@pytest.mark.parametrize(("arguments", "least"), [((), STEPS), (("--random", "20"), 20)])
def test_killed_and_run_again(tmp_path: Path, arguments: tuple[str, ...], least: int) -> None:
    """Before each change of the file system, then at random, by a signal that cannot be caught."""
    command = [sys.executable, str(SCRIPT), str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"killed (\d+) times, the same each time\n", done.stdout)
    assert found, done.stdout
    assert int(found[1]) >= least
