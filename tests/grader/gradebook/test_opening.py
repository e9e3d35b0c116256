"""Making a gradebook and recording a lab in it, in whatever state a killed grader left it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from grader.course import Course
from grader.gradebook.opening import GradebookUnusableError, ensure_assignment, opened
from grader.results import NoRoomError

LAB = "lab03_lora"


@pytest.fixture
def own(course: Course, tmp_path: Path) -> Course:
    """A copy of a released course: its gradebook knows the lab, and nobody has submitted."""
    for name in ("solutions", "labs"):
        shutil.copytree(course.root / name, tmp_path / name)
    made = Course(root=tmp_path)
    with opened(made):
        pass
    ensure_assignment(made, LAB)
    return made


def cells(course: Course) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(course.gradebook)) as book:
        return sorted(
            row
            for table in ("base_cell", "source_cell")
            for row in book.execute(f"SELECT '{table}', name FROM {table}")
        )


@pytest.mark.parametrize("lost", ["source_cell", "notebook"])
def test_a_lab_that_was_recorded_in_part_is_recorded_again(own: Course, lost: str) -> None:
    before = cells(own)
    assert len(before) > 10
    with closing(sqlite3.connect(own.gradebook)) as book:
        book.execute(f"DELETE FROM {lost} WHERE name >= 'm' OR name = '{LAB}'")
        book.execute("DELETE FROM source_cell WHERE notebook_id NOT IN (SELECT id FROM notebook)")
        book.execute("DELETE FROM base_cell WHERE notebook_id NOT IN (SELECT id FROM notebook)")
        book.commit()
    assert cells(own) != before
    ensure_assignment(own, LAB)
    assert cells(own) == before


def test_a_lab_with_submissions_keeps_its_cells(own: Course) -> None:
    with opened(own) as gradebook, gradebook.db.no_autoflush:
        gradebook.update_or_create_student("ada")
        gradebook.update_or_create_submission(LAB, "ada")
    with closing(sqlite3.connect(own.gradebook)) as book:
        book.execute("DELETE FROM source_cell WHERE name >= 'm'")
        book.commit()
    before = cells(own)
    ensure_assignment(own, LAB)
    assert cells(own) == before


def test_what_is_left_of_one_that_was_being_made_is_removed(own: Course) -> None:
    part = own.gradebook.with_name("gradebook.db.part")
    part.write_bytes(b"half of a gradebook")
    with opened(own):
        assert not part.exists()


def test_one_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "gradebook.db").mkdir()
    with (
        pytest.raises(GradebookUnusableError, match=r"gradebook.db cannot be used \(unable to"),
        opened(Course(root=tmp_path)),
    ):
        pass


def test_one_that_is_no_gradebook_is_one_sentence_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "gradebook.db").write_bytes(b"a letter to the examiner " * 100)
    with (
        pytest.raises(GradebookUnusableError, match=r"gradebook.db is damaged \(file is not a"),
        opened(Course(root=tmp_path)),
    ):
        pass
    assert (tmp_path / "gradebook.db").read_bytes().startswith(b"a letter")


def enrol_thousands(course: Course) -> None:
    from sqlalchemy import text

    with opened(course) as gradebook:
        gradebook.db.execute(text("PRAGMA max_page_count = 1"))  # no more than there are
        for number in range(5000):
            gradebook.add_student(f"student-{number}")


def test_one_without_room_is_one_sentence(own: Course, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NoRoomError, match=r"no room is left .* .*gradebook.db"):
        enrol_thousands(own)
    assert "Traceback" not in caplog.text
