"""Make the learners' notebook from the solved one with nbgrader's own converter, then scan it."""

import shutil
import tempfile
from pathlib import Path

from grader.checks.core import load_lab
from grader.course import Course, add_tools_to_path
from grader.leaks import scan
from grader.notebooks import read_notebook


class LeakError(ValueError):
    """A release that would give something away; the message lists what."""


def generate(course: Course, lab: str, release_directory: Path) -> Path:
    """Run nbgrader's GenerateAssignment and record the lab's cells in the gradebook.

    Returns:
        The notebook written below `release_directory`.
    """
    from nbgrader.apps import NbGraderAPI

    add_tools_to_path()
    config = course.nbgrader_config()
    config.CourseDirectory.release_directory = str(release_directory)
    result = NbGraderAPI(config=config).generate_assignment(lab, force=True, create=True)
    if not result["success"]:
        reason = result.get("error") or result.get("log") or "no reason given"
        raise ValueError(f"nbgrader could not generate {lab}: {reason.strip().splitlines()[-1]}")
    return release_directory / lab / f"{lab}.ipynb"


def generate_elsewhere(course: Course, lab: str, folder: Path) -> Path:
    """Generate below another folder with a gradebook of its own; the course is not touched."""
    if not course.source(lab).is_file():
        raise ValueError(f"{course.source(lab)} is missing; there are: {', '.join(course.labs())}")
    aside = Course(root=folder)
    shutil.copytree(course.source(lab).parent, aside.source(lab).parent)
    return generate(aside, lab, folder / "labs")


def leaks(course: Course, lab: str, released: Path) -> list[str]:
    """Scan a released notebook and its folder against the solved one."""
    solution, release = read_notebook(course.source(lab)), read_notebook(released)
    return scan(solution, release, released.parent, load_lab(lab).files)


def release(course: Course, lab: str) -> Path:
    """Generate, scan, and only then put the lab into `labs/` and the gradebook.

    Raises:
        LeakError: Something of the solution would be given away; nothing was released.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = leaks(course, lab, generate_elsewhere(course, lab, Path(folder)))
    if found:
        raise LeakError(f"{lab} is not released:\n  " + "\n  ".join(found))
    return generate(course, lab, course.root / "labs")


def is_fresh(course: Course, lab: str) -> bool:
    """Whether `labs/` holds byte for byte what generating it now would give."""
    with tempfile.TemporaryDirectory() as folder:
        made = generate_elsewhere(course, lab, Path(folder))
        old = course.release(lab)
        return old.is_file() and made.read_bytes() == old.read_bytes()
