"""Graded answers kept by what they depend on, so that grading them again costs nothing."""

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import grader
import labkit
from grader.results import CellResult, Status, replacing

# A slow machine can be the reason for these: they are tried again.
NOT_KEPT = (Status.TIMEOUT, Status.BLOCKED)
CODE = ("grading/attempt.py", "grading/questions.py", "box/*.py", "checks/*.py")


def environment(lab: str, release: Path, *facts: object) -> str:
    """Hash of everything but the answers that a result depends on.

    Args:
        lab: Its checks and its reference in labkit count.
        release: The released notebook.
        facts: More of it: tier, limits, versions, the key of the hidden seeds.
    """
    own, reference = Path(grader.__file__).parent, Path(labkit.__file__).parent
    patterns = (*CODE, f"labs/{lab}/*.py")
    files = [path for pattern in patterns for path in sorted(own.glob(pattern))]
    files += [*sorted(reference.rglob("*.py")), release]
    digest = hashlib.sha256(repr(facts).encode())
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One writer at a time, of all threads and graders; one that is killed lets go."""
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Cache:
    """Results of answers in one environment, a file each."""

    def __init__(self, folder: Path, environment: str) -> None:
        """Remove what a grader was writing when it was killed."""
        self._folder, self._environment = folder, environment
        if folder.is_dir():
            with _alone_in(folder):
                for part in folder.glob("*.part"):
                    part.unlink()

    def _path(self, answers: str) -> Path:
        key = hashlib.sha256(f"{self._environment}:{answers}".encode()).hexdigest()
        return self._folder / f"{key}.json"

    def get(self, answers: str) -> tuple[CellResult, ...] | None:
        """The results of answers with this hash; None if there are none that can be read."""
        try:
            cells = json.loads(self._path(answers).read_text(encoding="utf-8"))
            return tuple(CellResult.from_json(cell) for cell in cells)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, answers: str, cells: Iterable[CellResult]) -> None:
        """Keep results, unless another run could end otherwise."""
        kept = [asdict(cell) for cell in cells]
        if any(cell["status"] in NOT_KEPT for cell in kept):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(self._folder), replacing(self._path(answers)) as part:
            part.write_text(json.dumps(kept), encoding="utf-8")
