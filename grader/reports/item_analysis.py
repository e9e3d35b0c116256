"""How the questions of a lab did: pass rates, discrimination, time, common failures."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from grader.reports.findings import kind
from grader.results import CellResult, Result, Status

LEAST_SUBMISSIONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One exercise over a class; shares are of the submissions it was checked in.

    Attributes:
        checked: Submissions in which all its cells were checked: BLOCKED ones are left out.
        solved: How many of them got all its points.
        public_rate: Share that passes with the notebook's inputs.
        hidden_rate: Share that passes with hidden inputs.
        discrimination: Correlation of solving it with the points of the other exercises; None
            where that is not defined.
        median_seconds: Time its checks took; 0 where nobody's was checked.
        timeouts: Submissions in which it ran out of time.
    """

    check: str
    points: float
    checked: int
    solved: int
    public_rate: float | None
    hidden_rate: float | None
    discrimination: float | None
    median_seconds: float
    timeouts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Submissions that failed an exercise in the same way.

    Attributes:
        kind: The message without the values in which theirs differ.
        example: The message of one of them.
        students: Whose, in the results' order.
    """

    check: str
    status: Status
    kind: str
    example: str
    students: tuple[str, ...]


def items(results: Sequence[Result]) -> list[Item]:
    """The exercises in the order of the lab; `results` may hold submissions without cells."""
    answers: dict[str, list[tuple[Result, list[CellResult]]]] = defaultdict(list)
    for result in results:
        for check, cells in by_check(result.cells).items():
            answers[check].append((result, cells))
    return [_item(check, found) for check, found in answers.items()]


def by_check(cells: Iterable[CellResult]) -> dict[str, list[CellResult]]:
    """Graded cells by their exercise, in the lab's order."""
    found: dict[str, list[CellResult]] = {}
    for cell in cells:
        found.setdefault(cell.check, []).append(cell)
    return found


def _item(check: str, answers: list[tuple[Result, list[CellResult]]]) -> Item:
    checked = [(r, cells) for r, cells in answers if not _any(cells, Status.BLOCKED)]
    solved = [all(cell.score == cell.points for cell in cells) for _, cells in checked]
    rest = [r.score - sum(cell.score for cell in cells) for r, cells in checked]
    seconds = [sum(cell.seconds for cell in cells) for _, cells in checked]
    return Item(
        check=check,
        points=sum(cell.points for cell in answers[0][1]),
        checked=len(checked),
        solved=sum(solved),
        public_rate=_rate([cell for _, cells in checked for cell in cells if not cell.hidden]),
        hidden_rate=_rate([cell for _, cells in checked for cell in cells if cell.hidden]),
        discrimination=point_biserial(solved, rest),
        median_seconds=statistics.median(seconds or [0.0]),
        timeouts=sum(_any(cells, Status.TIMEOUT) for _, cells in answers),
    )


def _any(cells: list[CellResult], status: Status) -> bool:
    return any(cell.status is status for cell in cells)


def _rate(cells: list[CellResult]) -> float | None:
    return sum(cell.score == cell.points for cell in cells) / len(cells) if cells else None


def point_biserial(solved: Sequence[bool], rest: Sequence[float]) -> float | None:
    """r = (mean rest of solvers - mean rest of the others) sqrt(p (1 - p)) / sd(rest).

    Corrected: `rest` is the score without the exercise itself, which would correlate with itself.

    Returns:
        A number from -1 to 1, or None where r is not defined: nobody or everybody solved it, the
        rest is the same for all, or there are fewer than `LEAST_SUBMISSIONS`.
    """
    if len(solved) < LEAST_SUBMISSIONS:
        return None
    right, others = np.asarray(solved, dtype=bool), np.asarray(rest, dtype=np.float64)
    share, spread = float(right.mean()), float(others.std())
    if share in (0.0, 1.0) or spread <= 1e-12 * max(1.0, float(np.abs(others).max())):
        return None
    gap = float(others[right].mean() - others[~right].mean())
    return max(-1.0, min(1.0, gap * math.sqrt(share * (1 - share)) / spread))


def failures(results: Sequence[Result]) -> list[Failure]:
    """What students failed at, the most common first; each counts once for an exercise."""
    found: dict[tuple[str, Status, str], list[tuple[str, str]]] = defaultdict(list)
    for result in results:
        for check, cells in by_check(result.cells).items():
            failed = next((cell for cell in cells if cell.score < cell.points), None)
            if failed is not None:
                key = (check, failed.status, kind(failed.message))
                found[key].append((result.student, failed.message))
    most_first = sorted(found.items(), key=lambda item: -len(item[1]))
    return [
        Failure(
            check=check,
            status=status,
            kind=said,
            example=members[0][1],
            students=tuple(student for student, _ in members),
        )
        for (check, status, said), members in most_first
    ]
