"""The command line: help with examples, mistakes in one sentence, exit statuses."""

import argparse
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from grader.cli import check, learner, progress
from grader.cli.command_line import STATUSES, build_parser
from grader.cli.main import COMMANDS, main
from grader.course import Course, safe_name
from grader.notebooks import grade_id, read_notebook, write_notebook
from grader.sample_class import samples

LAB = "lab03_lora"


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_shows_examples_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of([], capsys)
    assert [c.EXAMPLE for c in COMMANDS if f"  {c.EXAMPLE}\n" not in shown] == []
    assert STATUSES in shown
    assert (check, progress) == learner.COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_each_commands_help_ends_in_an_example_that_parses(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    program, name, *arguments = shlex.split(command.EXAMPLE)
    assert program == "grader"
    assert build_parser([command]).parse_args([name, *arguments]).run is command.run
    shown = help_of([name], capsys)
    assert command.SUMMARY in shown or name == "collect"
    assert shown.endswith(f"example:\n  {command.EXAMPLE}\n")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert [action.dest for action in parser._actions if not action.help] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["autograde", "../x"], "lab '../x' must be 1 to 100 letters"),
        (["check", "lab99"], "lab99/lab99.ipynb; in labs/ there is: nothing"),
        (["feedback", LAB], "has no results yet"),
        (["export", LAB], "has no results yet"),
        (["autograde", LAB], "is not released"),
        (["release", "lab99"], "is missing; there are:"),
        (["release"], "there are no solved labs in"),
        (["release", "../x"], "lab '../x' must be 1 to 100 letters"),
        (["student-repo", "new"], "there are no solved labs in"),
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
