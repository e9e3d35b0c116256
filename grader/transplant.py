"""Rebuild a submission from the release notebook: only its solution cells are taken.

Of the cells a person grades, outputs are taken too, as far as `grader.manual` lets them
through.
"""

import copy
import hashlib
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

    Raises:
        InvalidNotebookError: There is none that belongs to this lab.
    """
    named = folder / f"{lab}.ipynb"
    if named.exists() or named.is_symlink():
        return named, []
    wanted = {grade_id(cell) for cell in release["cells"] if is_solution(cell)}
    found: list[tuple[int, Path]] = []
    for path in sorted(folder.rglob("*.ipynb")):
        try:
            cells = read_notebook(path)["cells"]
        except InvalidNotebookError:
            continue
        matches = sum(grade_id(cell) in wanted for cell in cells if isinstance(cell, dict))
        found += [(matches, path)] if matches else []
    if not found:
        raise InvalidNotebookError(f"there is no notebook of {lab} in the submission")
    best = max(found, key=lambda item: item[0])[1]
    return best, [f"The notebook was called {best.name!r}; it was matched by its cells."]


def transplant(release: Notebook, submitted: Notebook) -> Transplanted:
    """Copy the submission's solution cells into the release notebook by grade_id.

    Of duplicated cells the last counts, as in nbgrader. Everything else the student changed,
    added or deleted is ignored; what matters to a reader is noted.
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
    answers: dict[str, str] = {}
    notes: list[str] = []
    for cell in submitted["cells"]:
        if not isinstance(cell, dict) or grade_id(cell) not in wanted:
            continue
        name = grade_id(cell)
        if name in answers:
            notes.append(f"The solution cell {name!r} is there more than once; the last counts.")
        if cell.get("cell_type") != wanted[name]["cell_type"]:
            notes.append(f"The solution cell {name!r} had its type changed.")
        answers[name] = source(cell)
    return answers, notes


def _changed_grade_cells(release: Notebook, submitted: Notebook) -> list[str]:
    """Note check cells that were deleted, duplicated or edited; they are graded as released."""
    found: dict[str, list[str]] = {}
    for cell in submitted["cells"]:
        if isinstance(cell, dict) and (name := grade_id(cell)):
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
