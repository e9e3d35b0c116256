"""Make the learners' notebook from the solved one with nbgrader's own converter, then prove it.

A lab goes out only if the scan finds no leak, every check fails on the released stub and every
check passes on the solution.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, load_lab, verdicts
from grader.checks.explain import explain
from grader.course import Course, add_tools_to_path
from grader.notebooks import Notebook, read_notebook
from grader.release.leaks import answers_of, scan
from grader.release.overlap import Answers
from grader.solved import without_markers
from grader.transplant import transplant


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


def stale_or_leaking(course: Course, labs: Sequence[str]) -> list[str]:
    """One line for everything that keeps the labs in `labs/` from being published as they are."""
    answers = all_answers(course)
    found = differing_files(course, *labs)
    for lab in labs:
        if (path := course.release(lab)).is_file():
            found += [f"{lab}: {leak}" for leak in leaks(course, lab, path, answers)]
    return found


def all_answers(course: Course) -> Answers:
    """The solutions of every lab of the course."""
    return answers_of({lab: read_notebook(course.source(lab)) for lab in course.labs()})


def leaks(course: Course, lab: str, released: Path, answers: Answers) -> list[str]:
    """Scan a released notebook and its folder; `answers` are the solutions of all labs."""
    solution, release = read_notebook(course.source(lab)), read_notebook(released)
    return scan(solution, release, released.parent, load_lab(lab).files, answers)


def unproven(course: Course, lab: str, released: Path) -> list[str]:
    """One sentence for each check that passes on the released stub or fails on the solution.

    Runs the instructor's own notebook in this process.
    """
    release = read_notebook(released)
    try:
        solved = _namespace(release, without_markers(read_notebook(course.source(lab))))
        stub = _namespace(release, release)
    except Exception as error:
        return [f"the notebook does not run: {explain('a cell', error)}"]
    return list(_wrongly_judged(lab, solved, stub))


def _wrongly_judged(lab: str, solved: dict[str, Any], stub: dict[str, Any]) -> Iterator[str]:
    for check in load_lab(lab).checks:
        name = check.implementation
        verdict = verdicts(check, solved.get(name), (PUBLIC_SEED, *HIDDEN_SEEDS))
        if not verdict.ok:
            yield f"check {check.name} fails on the solution: {verdict.message}"
        if verdicts(check, stub.get(name), (PUBLIC_SEED,)).ok:
            yield f"check {check.name} passes on the released stub"


def _namespace(release: Notebook, notebook: Notebook) -> dict[str, Any]:
    """What a notebook's setup and solution cells define."""
    found: dict[str, Any] = {"__name__": "notebook"}
    for cell in transplant(release, notebook).cells_to_run():
        exec(compile(cell["source"], f"<cell {cell['id']}>", "exec", dont_inherit=True), found)
    return found


def release(course: Course, lab: str) -> Path:
    """Generate, scan, try the checks, and only then put the lab into `labs/` and the gradebook.

    Raises:
        LeakError: Something of the solution would be given away, or a check judges wrongly; nothing
            was released.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = generate_elsewhere(course, lab, Path(folder))
        found = leaks(course, lab, made, all_answers(course)) or unproven(course, lab, made)
    if found:
        raise LeakError(f"{lab} is not released:\n  " + "\n  ".join(found))
    return generate(course, lab, course.root / "labs")


def differing_files(course: Course, *labs: str) -> list[str]:
    """Files in `labs/` that are not byte for byte what generating these labs now would give."""
    found = []
    with tempfile.TemporaryDirectory() as folder:  # one gradebook for all: making it takes seconds
        for lab in labs:
            made = _contents(generate_elsewhere(course, lab, Path(folder)).parent)
            old = _contents(course.release(lab).parent)
            names = {name for name in made.keys() | old.keys() if made.get(name) != old.get(name)}
            found += [f"labs/{lab}/{name}" for name in sorted(names)]
    return found


def labs_without_source(course: Course) -> list[str]:
    """Folders in `labs/` that come from no solved notebook."""
    found = {path.name for path in (course.root / "labs").glob("*") if path.is_dir()}
    return [f"labs/{lab}" for lab in sorted(found - set(course.labs()))]


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".ipynb_checkpoints" not in path.parts
    }
