"""Graded answers kept by what they depend on, so that grading them again costs nothing."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile

import grader
import labkit
from grader.results import CellResult, Status

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


class Cache:
    """Results of answers in one environment, a file each."""

    def __init__(self, folder: Path, environment: str) -> None:
        self._folder, self._environment = folder, environment

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
        with NamedTemporaryFile("w", dir=self._folder, encoding="utf-8", delete=False) as file:
            json.dump(kept, file)
        os.replace(file.name, self._path(answers))
