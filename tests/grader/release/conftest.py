"""The learners' repository, written once, and a lab's notebook with all exercises solved."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.course import Course
from grader.notebooks import read_notebook, write_notebook
from grader.release import student_repo
from grader.solved import without_markers
from grader.transplant import transplant


def not_again(course: Course) -> None:
    """Slow; `test_stale_labs_are_refused` tests it, and `test_generate.py` that labs/ is fresh."""


@pytest.fixture(scope="session")
def repo(real_course: Course, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, written once; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("published") / "llm-engineering-lab"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student_repo, "_require_fresh_labs", not_again)
        changes = student_repo.write(real_course, folder)
    assert changes.unchanged == len(changes.removed) == 0
    return folder


@pytest.fixture
def own_copy(repo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repo, tmp_path / "copy"))


@pytest.fixture
def labs_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_repo, "_require_fresh_labs", not_again)


@pytest.fixture(scope="session")
def solve(real_course: Course) -> Callable[[str, Path], None]:
    """Writes a lab's notebook with all exercises solved."""

    def write(lab: str, path: Path) -> None:
        release = read_notebook(real_course.release(lab))
        answers = without_markers(read_notebook(real_course.source(lab)))
        write_notebook(path, transplant(release, answers).notebook)

    return write
