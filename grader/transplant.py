"""Rebuild a submission from the release notebook: only its solution cells are taken.

Of the cells a person grades, outputs are taken too, as far as `grader.manual` lets them
through.
"""

import copy
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from grader.manual import carry, is_manual
from grader.notebooks import (
    Cell,
    InvalidNotebookError,
    Notebook,
    grade_id,
    is_grade,
    is_solution,
    nbgrader,
    read_notebook,
    source,
    tags,
)

MAX_ANSWER_CHARACTERS = 200_000
MAX_NOTEBOOKS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Transplanted:
    """A submission in the release notebook's frame.

    Attributes:
        notebook: The release notebook with the student's solution cells, and of cells a person
            grades also what `grader.manual` lets through.
        answered: grade_ids whose source differs from the release's.
        notes: What was changed, missing or ignored, one sentence each.
        sha256: Of the solution cells alone: the same answers have the same hash.
    """

    notebook: Notebook
    answered: frozenset[str]
    notes: tuple[str, ...] = field(default=())

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for cell in self.notebook["cells"]:
            if is_solution(cell):
                text = source(cell).encode("utf-8", "backslashreplace")
                digest.update(f"{grade_id(cell)}:{len(text)}:".encode() + text)
        return digest.hexdigest()

    def cells_to_run(self) -> list[dict[str, str]]:
        """Setup, parameters and solution cells in order; nothing that is graded, nothing else."""
        return [
            {"id": grade_id(cell) or "parameters", "source": source(cell)}
            for cell in self.notebook["cells"]
            if cell["cell_type"] == "code" and _runs(cell)
        ]


def _runs(cell: Cell) -> bool:
    if is_grade(cell):
        return False
    return is_solution(cell) or nbgrader(cell).get("locked") is True or "parameters" in tags(cell)


def find_submission(folder: Path, lab: str, release: Notebook) -> tuple[Path, list[str]]:
    """Find the notebook in a submission's folder, by name or else by its grade_ids.

    Links of either kind are refused: what they lead to may be somebody else's work.

    Raises:
        InvalidNotebookError: There is none that belongs to this lab, or it is a link.
    """
    if folder.is_symlink() or folder.parent.is_symlink():
        raise InvalidNotebookError("the submission's folder is a link: hand in a folder of files")
    named = folder / f"{lab}.ipynb"
    if os.path.lexists(named):
        return _no_link(named), []
    wanted = {grade_id(cell) for cell in release["cells"] if is_solution(cell)}
    found: list[tuple[int, Path]] = []
    for path in sorted(_notebooks_below(folder))[:MAX_NOTEBOOKS]:
        try:
            cells = read_notebook(_no_link(path))["cells"]
        except InvalidNotebookError:
            continue
        matches = sum(grade_id(cell) in wanted for cell in cells)
        found += [(matches, path)] if matches else []
    if not found:
        raise InvalidNotebookError(f"there is no notebook of {lab} in the submission")
    best = max(found, key=lambda item: item[0])[1]
    return best, [f"The notebook was called {best.name!r}; it was matched by its cells."]


def _notebooks_below(folder: Path) -> Iterator[Path]:
    """Notebooks in a folder and below; what cannot be opened is passed over.

    Raises:
        InvalidNotebookError: Folders lie in each other deeper than `os.walk` can follow.
    """
    try:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, name) for name in names if name.endswith(".ipynb"))
    except RecursionError:  # before Python 3.12
        raise InvalidNotebookError(
            "the submission's folders are nested too deep: hand in the notebook itself"
        ) from None


def _no_link(path: Path) -> Path:
    """Refuse a file that is or has another name; one that cannot be looked at, reading refuses."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return path
    if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
        raise InvalidNotebookError(f"{path.name[:40]!r} is a link: hand in the file itself")
    return path


def transplant(release: Notebook, submitted: Notebook) -> Transplanted:
    """Copy the submission's solution cells into the release notebook by grade_id.

    Of duplicated cells the last counts, as in nbgrader, and one that is still marked as an answer
    before one that is not. Everything else the student changed, added or deleted is ignored; what
    matters to a reader is noted.
    """
    answers, notes = _answers(release, submitted)
    notebook = copy.deepcopy(release)
    answered = set()
    for cell in notebook["cells"]:
        name = grade_id(cell)
        if not is_solution(cell):
            continue
        if name not in answers:
            notes.append(f"The solution cell {name!r} is missing.")
        elif answers[name] != source(cell):
            answered.add(name)
            cell["source"] = answers[name]
    carry(notebook, submitted)
    notes += _changed_grade_cells(release, submitted)
    return Transplanted(notebook=notebook, answered=frozenset(answered), notes=tuple(notes))


def _answers(release: Notebook, submitted: Notebook) -> tuple[dict[str, str], list[str]]:
    wanted = {grade_id(cell): cell for cell in release["cells"] if is_solution(cell)}
    found: dict[str, list[Cell]] = {}
    for cell in submitted["cells"]:
        if grade_id(cell) in wanted:
            found.setdefault(grade_id(cell), []).append(cell)
    answers: dict[str, str] = {}
    notes: list[str] = []
    for name, cells in found.items():
        counts = ([cell for cell in cells if is_solution(cell)] or cells)[-1]
        answers[name] = source(counts)
        if len(cells) > 1:
            notes.append(f"The solution cell {name!r} is there more than once; the last counts.")
        if counts.get("cell_type") != wanted[name]["cell_type"]:
            notes.append(f"The solution cell {name!r} had its type changed.")
        if (length := len(answers[name])) > MAX_ANSWER_CHARACTERS:
            answers[name] = source(wanted[name])
            notes.append(
                f"The solution cell {name!r} has {length} characters, more than "
                f"{MAX_ANSWER_CHARACTERS}: it was left out."
            )
    return answers, notes


def _changed_grade_cells(release: Notebook, submitted: Notebook) -> list[str]:
    """Note check cells that were deleted, duplicated or edited; they are graded as released."""
    found: dict[str, list[str]] = {}
    for cell in submitted["cells"]:
        if name := grade_id(cell):
            found.setdefault(name, []).append(source(cell))
    notes = []
    for cell in release["cells"]:
        locked = is_grade(cell) and not is_manual(cell)
        if locked and found.get(grade_id(cell)) != [source(cell)]:
            what = "changed" if grade_id(cell) in found else "deleted"
            notes.append(
                f"The check cell {grade_id(cell)!r} was {what}; it was graded as released."
            )
    return notes
