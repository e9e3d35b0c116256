"""The command line: help with examples, mistakes in one sentence, exit statuses."""

from pathlib import Path

import pytest

from grader.cli.main import main
from grader.course import Course, safe_name
from grader.notebooks import grade_id, read_notebook, write_notebook
from grader.sample_class import samples

LAB = "lab03_lora"


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "grader autograde lab03_lora" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check", "../x"], "lab '../x' must be 1 to 100 letters"),
        (["check", "lab99"], "no checks for a lab called 'lab99'"),
        (["feedback", LAB], "has no results yet"),
        (["export", LAB], "has no results yet"),
        (["autograde", LAB], "is not released"),
        (["release", "lab99"], "is missing; there are:"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    (tmp_path / "nbgrader_config.py").touch()
    assert main(["--root", str(tmp_path), *arguments]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


def test_outside_a_course(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path), "release"]) == 2
    assert "run this inside the course" in capsys.readouterr().err


def test_a_learner_checks_their_own_notebook(
    course: Course, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = next(s.notebook for s in samples(course, LAB) if s.student == "ben-half")
    (tmp_path / "nbgrader_config.py").touch()
    write_notebook(Course(root=tmp_path).release(LAB), mine)
    assert main(["--root", str(tmp_path), "check", LAB]) == 1
    out = capsys.readouterr().out
    assert "OK       lora_delta" in out
    assert "merge_weight is not written yet" in out
    assert "3 of 6 exercises pass." in out


def test_the_sample_class_is_written(course: Course, tmp_path: Path) -> None:
    aside = Course(root=tmp_path)
    for path in (course.source(LAB), course.release(LAB)):
        write_notebook(tmp_path / path.relative_to(course.root), read_notebook(path))
    (tmp_path / "nbgrader_config.py").touch()
    assert main(["--root", str(tmp_path), "sample-class", LAB]) == 0
    students = aside.students(LAB)
    assert len(students) == 6
    cells = read_notebook(aside.submitted(LAB, students[0]))["cells"]
    assert "diagnose" in {grade_id(cell) for cell in cells}


@pytest.mark.parametrize("name", ["", "..", "-rf", "a/b", "a\nb", "x" * 101, "<b>", "a."])
def test_unsafe_names(name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 100"):
        safe_name(name, "student")
