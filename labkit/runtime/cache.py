"""Where computed files are kept, and how a file is written so that no half of it is ever seen."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """`$LABKIT_CACHE`, else `$XDG_CACHE_HOME/labkit`, else `~/.cache/labkit`; made if absent."""
    if own := os.environ.get("LABKIT_CACHE"):
        folder = Path(own)
    else:
        shared = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(shared) if shared else Path.home() / ".cache") / "labkit"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """A temporary sibling of `final` (a file or a folder to write), renamed onto it on success.

    On an error, or if the process dies, `final` is what it was before. An existing folder is moved
    aside first, since a rename cannot replace a folder that has content.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        _replace(temporary, final)
    finally:
        _remove(temporary)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`; other processes that want it wait. Released even by a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(temporary: Path, final: Path) -> None:
    if not final.is_dir():
        os.replace(temporary, final)
        return
    aside = final.with_name(f".{final.name}.{uuid.uuid4().hex}.old")
    os.replace(final, aside)
    try:
        os.replace(temporary, final)
    except OSError:
        os.replace(aside, final)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
