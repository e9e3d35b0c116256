"""What a learner asks in a terminal: do the checks of my notebook pass?"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from grader.box.boxes import Boxes
from grader.box.tier import NoSandboxError, Tier
from grader.checks.core import PUBLIC_SEED, Lab, load_lab
from grader.course import Course, safe_name
from grader.grading.attempt import Attempt
from grader.notebooks import InvalidNotebookError, Notebook, read_notebook, source
from grader.results import Status
from grader.transplant import transplant

OWN_CODE_TIERS = (Tier.BUBBLEWRAP, Tier.NAMESPACES, Tier.RLIMITS)
LOADS_CHECKS = re.compile(r"""^check = lab\(["']([A-Za-z0-9_]+)["']\)""", re.MULTILINE)
NOT_WRITTEN = "is not written yet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exercise:
    """How one exercise did on its check cell's inputs; `message` is what that cell would say."""

    name: str
    points: int
    status: Status
    message: str = ""

    @property
    def passes(self) -> bool:
        return self.status is Status.OK

    @property
    def is_written(self) -> bool:
        return NOT_WRITTEN not in self.message


def own_notebook(course: Course, lab: str, path: Path | None = None) -> tuple[Path, Notebook]:
    """Read a learner's notebook of a lab, by default the one in `labs/`.

    Raises:
        ValueError: No such lab or file, no notebook, or a notebook of another lab.
    """
    path = path or course.release(lab)
    if not path.exists():
        there = ", ".join(labs_in(course)) or "nothing"
        raise ValueError(f"there is no notebook {path}; in labs/ there is: {there}")
    notebook = read_notebook(path)
    if (found := _lab_named_in(notebook, path)) != lab:
        raise ValueError(f"{path.name} is a notebook of {found}, not of {lab}")
    return path, notebook


def labs_in(course: Course) -> list[str]:
    """The labs a learner has a notebook of; a repository for learners has no solved ones."""
    paths = (course.root / "labs").glob("*/*.ipynb")
    return sorted(path.stem for path in paths if path.stem == path.parent.name)


def asked_for(target: str | None) -> tuple[str, Path | None]:
    """The lab that a learner means, and its notebook unless that is the one in `labs/`.

    Args:
        target: A lab's name, the path of its folder or of its notebook; None is this folder.

    Raises:
        ValueError: There is no lab's notebook, or it is not clear which.
    """
    place = Path(target or ".")
    if place.suffix == ".ipynb":
        return _lab_named_in(read_notebook(place), place), place
    if target is None or place.name != target:
        return notebook_in(place.resolve())
    return safe_name(target, "lab"), None


def notebook_in(folder: Path) -> tuple[str, Path]:
    """The lab whose notebook lies in a folder, and that notebook.

    Of several notebooks of one lab it is the one that is called like the lab.

    Raises:
        ValueError: There is none, or it is not clear which.
    """
    found = [(lab, path) for path in sorted(folder.glob("*.ipynb")) if (lab := _lab_in(path))]
    named = [(lab, path) for lab, path in found if path.stem == lab]
    if len(chosen := named if len(named) == 1 else found) == 1:
        return chosen[0]
    if not found:
        raise ValueError(
            f"there is no lab's notebook in {folder}: go to the lab's folder, or name the lab "
            "as in `grader check lab03_lora`"
        )
    names = ", ".join(path.name for _, path in found)
    raise ValueError(
        f"there are several labs' notebooks in {folder} ({names}): name one as in "
        f"`grader check {found[0][0]} {found[0][1].name}`"
    )


def lab_of(notebook: Notebook) -> str | None:
    """The lab whose checks a notebook's setup cell loads."""
    for cell in notebook["cells"]:
        if isinstance(cell, dict) and (match := LOADS_CHECKS.search(source(cell))):
            return match[1]
    return None


def _lab_named_in(notebook: Notebook, path: Path) -> str:
    if (lab := lab_of(notebook)) is None:
        raise ValueError(
            f"{path.name} is no lab's notebook: the setup cell with `check = lab(…)` is missing; "
            "begin with a fresh copy of the lab and paste your answers into its cells"
        )
    return lab


def _lab_in(path: Path) -> str | None:
    try:
        return lab_of(read_notebook(path))
    except InvalidNotebookError:
        return path.stem if path.stem == path.parent.name else None


@contextmanager
def strongest_boxes(lab: str) -> Iterator[Boxes]:
    """Boxes of the strongest tier there is; a learner trusts their own code, so any will do."""
    with ExitStack() as stack:
        yield _entered(stack, load_lab(lab))


def _entered(stack: ExitStack, lab: Lab) -> Boxes:
    *stronger, last = OWN_CODE_TIERS
    for tier in stronger:
        with suppress(NoSandboxError):
            return stack.enter_context(Boxes(lab, tier))
    return stack.enter_context(Boxes(lab, last))


def check(boxes: Boxes, notebook: Notebook) -> Iterator[Exercise]:
    """Run the notebook's setup and solution cells and yield how each exercise did."""
    own = _whole_cells(notebook)
    attempt = Attempt(boxes, transplant(own, own).cells_to_run())
    try:
        for item in boxes.lab.checks:
            outcome = attempt.outcome(item, PUBLIC_SEED)
            yield Exercise(
                name=item.name,
                points=item.points,
                status=outcome.status,
                message=outcome.message,
            )
    finally:
        attempt.close()


def _whole_cells(notebook: Notebook) -> Notebook:
    """The notebook without entries that are no cells, which its owner's edits may have left."""
    cells = [cell for cell in notebook["cells"] if isinstance(cell, dict) and "cell_type" in cell]
    return {**notebook, "cells": cells}
