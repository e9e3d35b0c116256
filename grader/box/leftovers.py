"""Temporary folders that do not outlive their grader, even one that was killed.

A folder stays locked for as long as its grader lives: the kernel lets go of the lock when the
process ends, however it ends. Whoever makes the next folder removes those that nobody holds.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "grader-run-"
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")


@contextmanager
def temporary_folder(mode: int = 0o700) -> Iterator[Path]:
    """A folder that is removed at the end, and by the next grader if this one is killed."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder, fd = _locked_folder()
    try:
        folder.chmod(mode)
        yield folder
    finally:
        _remove(folder)
        os.close(fd)


def _locked_folder() -> tuple[Path, int]:
    """A new folder and the descriptor that locks it; another if one was taken for abandoned."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            fd = os.open(folder, DIRECTORY)
            with suppress(OSError):  # no locks on this file system: then nobody removes it either
                fcntl.flock(fd, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, fd
            os.close(fd)


def _remove_abandoned(place: Path) -> None:
    """Remove folders of this user's graders that have ended without doing so."""
    for path in place.glob(f"{PREFIX}*"):
        if NAME.fullmatch(path.name):
            with suppress(OSError):
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    fd = os.open(path, DIRECTORY)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
    finally:
        os.close(fd)


def _remove(folder: Path) -> None:
    """Remove a folder with what boxes left in it, also where they forbade it."""
    with suppress(OSError):
        for parent, names, _ in os.walk(folder):
            for name in names:
                inside = Path(parent, name)
                if not inside.is_symlink():
                    inside.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
