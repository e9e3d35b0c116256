"""What each student wrote themselves: their answers less what was released or is everybody's."""

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from grader.course import Course, is_safe_name
from grader.notebooks import (
    InvalidNotebookError,
    Notebook,
    grade_id,
    is_solution,
    read_notebook,
    source,
)
from grader.python_tokens import Token, normalised
from grader.similarity.winnowing import NOISE, Fingerprinted, fingerprint, kgrams
from grader.transplant import find_submission, transplant

Answers = dict[str, dict[str, str]]  # student -> grade_id -> source
MAX_CELL_CHARACTERS = 20_000
BETWEEN_CELLS = "\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """Hashes of code that says nothing about two students: released, or the reference's."""

    released: frozenset[int]
    reference: frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A student's answered cells as one text of tokens.

    Attributes:
        starts: Where in the text each cell begins; before it stands a word nobody else has.
        own: For each token, whether it was neither released nor the reference's nor everybody's.
        reference_share: Of the tokens that were not released, how many the reference has too.
    """

    student: str
    cells: dict[str, str]
    tokens: list[Token]
    starts: list[int]
    own: list[bool]
    reference_share: float
    fingerprinted: Fingerprinted

    @property
    def own_tokens(self) -> int:
        return sum(self.own)


def read_answers(course: Course, lab: str, release: Notebook) -> tuple[Answers, list[str]]:
    """Each student's answered code cells, and a sentence for whatever was not compared."""
    graded = {path.parent.name for path in (course.root / "autograded").glob(f"*/{lab}")}
    answers: Answers = {}
    notes = []
    for student in sorted(graded | set(course.students(lab))):
        if not is_safe_name(student):
            notes.append(f"{ascii(student)[:60]} cannot be a student's name; not compared.")
            continue
        try:
            cells = _answered(course, lab, student, release)
        except (InvalidNotebookError, OSError) as error:
            notes.append(f"{student} was not compared: {error}")
            continue
        answers[student] = {name: text[:MAX_CELL_CHARACTERS] for name, text in cells.items()}
        notes += [
            f"{student}: of {name} the first {MAX_CELL_CHARACTERS} characters were compared."
            for name, text in cells.items()
            if len(text) > MAX_CELL_CHARACTERS
        ]
    return answers, notes


def _answered(course: Course, lab: str, student: str, release: Notebook) -> dict[str, str]:
    path = course.autograded(lab, student)
    if not path.is_file():
        path, _ = find_submission(course.submitted(lab, student).parent, lab, release)
    made = transplant(release, read_notebook(path))
    return {
        grade_id(cell): source(cell).replace(BETWEEN_CELLS, "?")
        for cell in made.notebook["cells"]
        if cell["cell_type"] == "code" and is_solution(cell) and grade_id(cell) in made.answered
    }


def read_given(course: Course, lab: str, release: Notebook) -> Given:
    """What every learner has (this lab's release, the lectures), and the reference solution."""
    lectures = [read_notebook(path) for path in sorted(course.root.glob("chapters/*/*.ipynb"))]
    released = [cell for notebook in (release, *lectures) for cell in notebook["cells"]]
    solved = read_notebook(course.source(lab))["cells"] if course.source(lab).is_file() else []
    return Given(
        released=_hashes([source(cell) for cell in released if cell["cell_type"] == "code"]),
        reference=_hashes([source(cell) for cell in solved if is_solution(cell)]),
    )


def _hashes(sources: list[str]) -> frozenset[int]:
    return frozenset(value for text in sources for value in kgrams(_words(normalised(text))))


def own_code(answers: Answers, given: Given, limit: int) -> list[Submission]:
    """Fingerprint each student's own code.

    Args:
        answers: The class.
        given: Code to leave out.
        limit: What more submissions than this have in common is left out too.
    """
    texts = {student: _joined(student, cells) for student, cells in answers.items()}
    hashes = {student: kgrams(_words(tokens)) for student, (tokens, _) in texts.items()}
    holders = Counter(value for values in hashes.values() for value in set(values))
    common = {value for value, count in holders.items() if count > limit}
    ignored = common | given.released | given.reference
    return [
        Submission(
            student=student,
            cells=answers[student],
            tokens=tokens,
            starts=starts,
            own=_outside(hashes[student], ignored, tokens),
            reference_share=_share_of_reference(hashes[student], given, tokens),
            fingerprinted=fingerprint(_words(tokens), hashes[student], ignored),
        )
        for student, (tokens, starts) in texts.items()
    ]


def _joined(student: str, cells: dict[str, str]) -> tuple[list[Token], list[int]]:
    tokens: list[Token] = []
    starts = []
    for cell, text in cells.items():
        tokens.append(Token(f"{BETWEEN_CELLS}{student}/{cell}", 0, 0))
        starts.append(len(tokens))
        tokens += normalised(text)
    return tokens, starts


def _words(tokens: list[Token]) -> list[str]:
    return [token.text for token in tokens]


def _outside(hashes: list[int], known: AbstractSet[int], tokens: list[Token]) -> list[bool]:
    """For each token, whether no known run of NOISE tokens goes over it."""
    outside = [not token.text.startswith(BETWEEN_CELLS) for token in tokens]
    for at, value in enumerate(hashes):
        if value in known:
            outside[at : at + NOISE] = [False] * NOISE
    return outside


def _share_of_reference(hashes: list[int], given: Given, tokens: list[Token]) -> float:
    written = sum(_outside(hashes, given.released, tokens))
    differing = sum(_outside(hashes, given.released | given.reference, tokens))
    return (written - differing) / max(1, written)
