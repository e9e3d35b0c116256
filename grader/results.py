"""What grading one submission found, as data and as JSON."""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Status(StrEnum):
    """How a submission, or one graded cell of it, ended."""

    OK = "OK"
    PARTIAL = "PARTIAL"
    WRONG = "WRONG"
    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    CRASH = "CRASH"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    TAMPER = "TAMPER"
    BLOCKED = "BLOCKED"
    INVALID = "INVALID"


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """One graded cell: what it was worth, what it got, why, and the seeds that repeat it.

    Attributes:
        message: For the student; it holds no hidden value.
        detail: For the instructor: how the box ended, what it printed last.
    """

    cell: str
    check: str
    hidden: bool
    points: float
    score: float
    status: Status
    message: str
    seeds: tuple[int, ...]
    seconds: float
    detail: str = ""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "CellResult":
        """What `asdict` made, after a passage through JSON."""
        kinds = {"status": Status(fields["status"]), "seeds": tuple(fields["seeds"])}
        return cls(**fields | kinds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One submission's result. INVALID has no cells: it was returned, not scored."""

    student: str
    lab: str
    status: Status
    reason: str
    score: float
    max_score: float
    tier: str
    sha256: str
    received: str
    seconds: float
    cells: tuple[CellResult, ...] = ()
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


def summarise(cells: Sequence[CellResult]) -> tuple[Status, str]:
    """Status and one line of reasons for a submission's cells."""
    failed = [cell for cell in cells if cell.score < cell.points]
    if not failed:
        return Status.OK, ""
    by_check: dict[str, CellResult] = {}
    for cell in failed:
        by_check.setdefault(cell.check, cell)
    reason = "; ".join(f"{name}: {_short(cell)}" for name, cell in by_check.items())
    if any(cell.status is Status.TAMPER for cell in failed):
        return Status.TAMPER, reason
    if any(cell.score for cell in cells):
        return Status.PARTIAL, reason
    kinds = {cell.status for cell in failed}
    return (kinds.pop() if len(kinds) == 1 else Status.WRONG), reason


def _short(cell: CellResult) -> str:
    if cell.status is not Status.WRONG:
        return cell.status.value
    first = cell.message.split(" Hint:")[0].split(": replace the line")[0]
    return first if len(first) <= 90 else first[:89] + "…"


class NoRoomError(OSError):
    """A disk is full."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"no room is left on the disk for {path}: what was graded before is kept; make room, "
            "then run the command again"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end: all of it or nothing.

    Raises:
        NoRoomError: The disk is full.
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoomError(path) from None
        raise


def write_result(path: Path, result: Result) -> None:
    """Write one result as JSON."""
    fields = asdict(result) | {"versions": dict(result.versions)}
    with replacing(path) as part:
        text = json.dumps(fields, indent=1, ensure_ascii=False) + "\n"
        part.write_text(text, encoding="utf-8")


def read_result(path: Path) -> Result:
    """Read what `write_result` wrote; ValueError names the file."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        cells = tuple(CellResult.from_json(cell) for cell in fields.pop("cells"))
        versions = tuple(fields.pop("versions").items())
        fields |= {"status": Status(fields["status"]), "notes": tuple(fields["notes"])}
        return Result(**fields, cells=cells, versions=versions)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path.name} is not a result of this grader: {error}") from None


def read_results(folder: Path) -> list[Result]:
    """All results of a lab in the students' order."""
    return [read_result(path) for path in sorted(folder.glob("*.json"))]
