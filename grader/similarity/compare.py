"""Which submissions of a lab share code that was neither released nor everybody's.

A signal for a person to look at, never a score: nothing from here reaches the gradebook or the
feedback. What was graded is compared: a student's solution cells as `autograded/` holds them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from grader.course import Course
from grader.notebooks import Notebook, grade_id, is_solution, read_notebook, source
from grader.similarity.own_code import Answers, Submission, own_code, read_answers, read_given
from grader.similarity.pairs import Pair, find_pairs
from grader.similarity.review_flags import Flag, flags
from grader.similarity.winnowing import GUARANTEE

SIGNAL = (
    "Similar code is a reason to look, never a score: two people may well write the same lines "
    "on their own, and nothing of this enters the gradebook or the feedback."
)
COMMON_AT_LEAST = 10
GROUP_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """When a pair is listed.

    Attributes:
        least: Tokens that two submissions share, over all runs of at least GUARANTEE.
        common: A run of NOISE tokens is everybody's if more than this share of the class has it,
            and more than COMMON_AT_LEAST submissions.
    """

    least: int = 60
    common: float = 0.1

    def __post_init__(self) -> None:
        if self.least < GUARANTEE:
            raise ValueError(f"--least {self.least} must be at least {GUARANTEE} tokens")
        if not 0 < self.common <= 1:
            raise ValueError(f"--common {self.common:g} must be a share: above 0, at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """What was found among the submissions of one lab."""

    lab: str
    settings: Settings
    submissions: tuple[Submission, ...]
    pairs: tuple[Pair, ...]
    groups: tuple[tuple[str, ...], ...]
    flags: tuple[Flag, ...]
    common_limit: int
    notes: tuple[str, ...]


def compare(course: Course, lab: str, settings: Settings) -> Similarity:
    """Compare the submissions of a lab.

    Raises:
        ValueError: The lab is not released, or nobody has submitted it.
    """
    if not course.release(lab).is_file():
        raise ValueError(f"{lab} is not released: run `grader release {lab}` first")
    release = read_notebook(course.release(lab))
    answers, notes = read_answers(course, lab, release)
    if not answers:
        raise ValueError(" ".join([f"there is no submission of {lab} to compare.", *notes[:1]]))
    given = read_given(course, lab, release)
    if not given.reference:
        notes.append("There is no solved notebook: its idioms were not left out.")
    limit = max(COMMON_AT_LEAST, int(settings.common * len(answers)))
    submissions = own_code(answers, given, limit)
    pairs, skipped = find_pairs(submissions, settings.least)
    if skipped:
        notes.append(f"{skipped} pairs share only what many have; they were not compared in full.")
    return Similarity(
        lab=lab,
        settings=settings,
        submissions=tuple(submissions),
        pairs=tuple(pairs),
        groups=tuple(_groups(pairs)),
        flags=tuple(_flags(answers, release)),
        common_limit=limit,
        notes=tuple(notes),
    )


def _groups(pairs: list[Pair]) -> list[tuple[str, ...]]:
    """Three or more whom pairs that share at least GROUP_SHARE connect, largest group first."""
    close = [pair.students for pair in pairs if pair.share >= GROUP_SHARE]
    names = sorted({name for students in close for name in students})
    if not names:
        return []
    number = {name: at for at, name in enumerate(names)}
    edges = np.array([[number[name] for name in students] for students in close]).T
    graph = csr_matrix((np.ones(len(close)), (edges[0], edges[1])), shape=(len(names),) * 2)
    count, component = connected_components(graph, directed=False)
    groups = [
        tuple(name for name, part in zip(names, component, strict=True) if part == group)
        for group in range(count)
    ]
    return sorted((g for g in groups if len(g) > 2), key=lambda group: (-len(group), group))


def _flags(answers: Answers, release: Notebook) -> Iterator[Flag]:
    stubs = {grade_id(cell): source(cell) for cell in release["cells"] if is_solution(cell)}
    for student, cells in answers.items():
        for cell, text in cells.items():
            yield from flags(student, cell, text, stubs[cell])
