"""Every student gets a page, whatever is stored of the others."""

import os
from pathlib import Path

import pytest

from grader.cli.main import main
from grader.course import Course
from grader.notebooks import MAX_NOTEBOOK_BYTES, write_notebook
from grader.reports.feedback import write
from grader.results import NoRoomError, write_result

from .made_up import LAB, cell, made, notebook, submission

WORK = notebook(made("delta", "mine = 1", solution=True))


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """Results and graded notebooks of ada, ben and eve."""
    made = Course(root=tmp_path)
    (tmp_path / "nbgrader_config.py").touch()
    for student in ("ada", "ben", "eve"):
        write_result(made.result(LAB, student), submission(cell(), student=student))
        write_notebook(made.autograded(LAB, student), WORK)
    return made


def page(course: Course, student: str) -> str:
    return course.feedback(LAB, student).read_text(encoding="utf-8")


def test_without_results_the_way_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{LAB} has no results yet: run `grader autograde {LAB}`"):
        write(Course(root=tmp_path), LAB)


def test_pages_are_written_whole_for_everybody(course: Course) -> None:
    course.autograded(LAB, "eve").unlink()
    pages, problems = write(course, LAB)
    assert problems == []
    assert pages == [course.feedback(LAB, student) for student in ("ada", "ben", "eve")]
    assert "mine = 1" in page(course, "ada")
    assert "mine = 1" not in page(course, "eve")
    assert "ada" not in page(course, "ben")
    assert {path.suffix for made in pages for path in made.parent.iterdir()} == {".html"}
    assert not course.gradebook.exists()


def break_result(course: Course) -> str:
    course.result(LAB, "ben").write_text("{")
    return "ben: ben.json is not a result of this grader"


def flood_result(course: Course) -> str:
    forged = "\x1b[2J\x1b]0;x\x07" + 22 * 2**20 * "A"
    write_result(course.result(LAB, "ben"), submission(cell(message=forged), student="ben"))
    return "ben: ben.json has 23"


def flood_notebook(course: Course) -> str:
    os.truncate(course.autograded(LAB, "ben"), MAX_NOTEBOOK_BYTES + 1)
    return f"ben: the page shows no code, because in autograded/ {LAB}.ipynb has 20971521 bytes"


def break_notebook(course: Course) -> str:
    course.autograded(LAB, "ben").write_text("{")
    return "ben: the page shows no code, because in autograded/"


def mix_up_notebook(course: Course) -> str:
    strange = {**WORK["cells"][0], "metadata": {"nbgrader": {"task": True}}, "attachments": 7}
    write_notebook(course.autograded(LAB, "ben"), notebook({**strange, "metadata": None}, strange))
    return "ben: the page shows nothing (AttributeError"


def stand_in_the_way(course: Course) -> str:
    course.feedback(LAB, "ben").mkdir(parents=True)
    return "ben: the page cannot be written"


@pytest.mark.parametrize(
    "spoil",
    [
        break_result, flood_result, flood_notebook, break_notebook, mix_up_notebook,
        stand_in_the_way,
    ],
)  # fmt: skip
def test_what_is_wrong_with_one_student_costs_no_other_a_page(
    course: Course, capsys: pytest.CaptureFixture[str], spoil: object
) -> None:
    write(course, LAB)
    before = {student: page(course, student) for student in ("ada", "eve")}
    for student in before:
        course.feedback(LAB, student).unlink()
    course.feedback(LAB, "ben").unlink()
    assert callable(spoil)
    sentence = spoil(course)
    assert main(["--root", str(course.root), "feedback", LAB]) == 2
    out, err = capsys.readouterr()
    assert {student: page(course, student) for student in before} == before
    assert f"grader: {sentence}" in err
    assert err.count("\n") == 1
    assert len(err) < 500
    assert err.strip().isprintable()
    assert f"Class report: reports/{LAB}/class.html" in out
    report = (course.reports(LAB) / "class.html").read_text(encoding="utf-8")
    assert ("Results that cannot be read" in report) is ("ben.json" in err)
    if spoil is not stand_in_the_way:
        said = "Your code cannot be shown" if "no code" in err else "Your instructor was told"
        assert said in page(course, "ben")
        assert len(page(course, "ben")) < 20_000


def test_a_full_disk_ends_it(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise NoRoomError(self)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NoRoomError):
        write(course, LAB)


def test_no_page_is_called_as_no_student_may_be(course: Course) -> None:
    write_result(course.result(LAB, "ada").with_name("..json"), submission(cell()))
    pages, problems = write(course, LAB)
    assert len(pages) == 3
    assert problems == [".: ..json is no student's result: remove it"]
