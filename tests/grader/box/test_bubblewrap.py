"""The order of mounts, which decides what hides what."""

from pathlib import Path

import pytest

from grader.box import bubblewrap
from grader.box.tier import Limits


def test_an_interpreter_below_tmp_is_bound_into_the_private_tmp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bubblewrap, "interpreter", lambda: ["/tmp/clone/.venv"])
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda _: "/usr/bin/bwrap")
    limits = Limits(memory_bytes=2**30, wall_s=60.0, question_s=5.0)
    _, options = bubblewrap.arguments(tmp_path, (), limits, {}, root=False)
    mounted = [options[i + 1] for i, option in enumerate(options) if option == "--tmpfs"]
    assert mounted == ["/tmp", "/dev/shm"]
    assert options.index("--tmpfs") < options.index("/tmp/clone/.venv")
    assert options.index("--remount-ro") > len(options) - 1 - options[::-1].index("/dev/shm")
