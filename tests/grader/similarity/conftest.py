"""A released course that nobody has submitted to."""

from pathlib import Path

import pytest

from grader.course import Course

from .handed_in import LAB


@pytest.fixture
def empty(course: Course, tmp_path: Path) -> Course:
    """A released course that nobody has submitted to."""
    made = Course(root=tmp_path)
    for path in (course.source(LAB), course.release(LAB), course.root / "nbgrader_config.py"):
        copied = tmp_path / path.relative_to(course.root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    return made
