"""Regrading: the cache is ignored, what was replaced is kept, changes are shown."""

import copy
import shutil
from functools import partial
from typing import Any

import pytest

import grader.grading.regrade
from grader.cli.main import main
from grader.course import Course
from grader.gradebook.history import entries
from grader.gradebook.opening import opened
from grader.grading.autograde import autograde
from grader.grading.questions import Job
from grader.grading.regrade import changes, outdated, regrade
from grader.notebooks import grade_id, read_notebook, write_notebook
from grader.release.generate import generate
from grader.results import CellResult, Status, read_result
from grader.sample_class import samples

LAB, STUDENTS = "lab03_lora", ["ada", "ben"]


class Grader:
    """Grades without a box: every question right but those of `failing`."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.asked = 0

    def __call__(self, job: Job) -> tuple[CellResult, ...]:
        self.asked += 1
        return tuple(self._cell(question) for question in job.questions)

    def _cell(self, question: Any) -> CellResult:
        wrong = question.check in self.failing
        return CellResult(
            cell=question.cell,
            check=question.check,
            hidden=question.hidden,
            points=question.points,
            score=0.0 if wrong else question.points,
            status=Status.WRONG if wrong else Status.OK,
            message="a hint" if wrong else "",
            seeds=question.seeds,
            seconds=0.0,
        )


@pytest.fixture(scope="module")
def made(course: Course, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Lab 03, at whose end an essay stands, released, and two submissions."""
    own = Course(root=tmp_path_factory.mktemp("essays"))
    shutil.copy(course.root / "nbgrader_config.py", own.root)
    shutil.copytree(course.source(LAB).parent, own.source(LAB).parent)
    generate(own, LAB, own.root / "labs")
    sample = next(s.notebook for s in samples(course, LAB) if s.student == "ada-perfect")
    for student in STUDENTS:
        mine = copy.deepcopy(read_notebook(own.release(LAB)))
        for cell, answer in zip(mine["cells"], sample["cells"], strict=True):
            cell["source"] = answer["source"]
        mine["cells"][-1]["source"] = f"{student} says so."
        write_notebook(own.submitted(LAB, student), mine)
    return own


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Grader:
    made = Grader()
    monkeypatch.setattr(grader.grading.regrade, "autograde", partial(autograde, elsewhere=made))
    return made


@pytest.fixture
def graded(made: Course, asked: Grader, tmp_path: Any) -> Course:
    """A copy of the course, graded once, ada's essay by hand."""
    own = Course(root=tmp_path / "course")
    shutil.copytree(made.root, own.root)
    asked.failing = {"diagnose", "train_step"}
    assert len(list(autograde(own, LAB, elsewhere=asked))) == len(STUDENTS)
    with opened(own) as gradebook:
        grade = gradebook.find_grade("first_step", LAB, LAB, "ada")
        grade.manual_score, grade.needs_manual_grade = 2.5, False
        gradebook.find_comment("first_step", LAB, LAB, "ada").manual_comment = "Good."
        gradebook.db.commit()
    asked.asked = 0
    return own


def test_a_regrade_ignores_the_cache_and_keeps_what_it_replaces(
    graded: Course, asked: Grader
) -> None:
    list(autograde(graded, LAB, elsewhere=asked))
    assert asked.asked == 0
    old = read_result(graded.result(LAB, "ada"))
    asked.failing = {"diagnose"}
    (entry,) = regrade(graded, LAB, ["ada"], reason="asked to look again")
    assert asked.asked == 1
    assert entry.before == old
    assert entry.after == read_result(graded.result(LAB, "ada"))
    assert (entry.number, entry.reason) == (1, "asked to look again")
    assert dict(entry.before.versions)["python"]
    assert [(c.question, c.before.score, c.after.score) for c in changes(old, entry.after)] == [
        ("check_train_step", 0.0, 3.0),
        ("hidden_train_step", 0.0, 2.0),
    ]
    assert entries(graded, LAB, "ada") == [entry]
    assert entries(graded, LAB, "ben") == []


def test_the_gradebooks_side_is_kept_and_people_are_not_asked_again(
    graded: Course, asked: Grader
) -> None:
    asked.failing = set()
    ada, ben = regrade(graded, LAB, STUDENTS, reason="")
    assert (ada.book_before.score, ada.book_after.score) == (21.0 + 2.5, 32.0 + 2.5)
    assert (ada.book_after.open, ben.book_after.open) == ((), ("first_step",))
    with opened(graded) as gradebook:
        assert gradebook.find_comment("first_step", LAB, LAB, "ada").comment == "Good."


def test_entries_are_numbered_and_never_written_again(graded: Course, asked: Grader) -> None:
    list(regrade(graded, LAB, ["ada"], reason="first"))
    folder = graded.reports(LAB) / "history" / "ada"
    first = {path: path.read_bytes() for path in (folder / "0001").iterdir()}
    assert {path.name for path in first} == {"regrade.json", "before.json", "after.json"}
    list(regrade(graded, LAB, ["ada"], reason="second"))
    assert {path: path.read_bytes() for path in (folder / "0001").iterdir()} == first
    assert [(e.number, e.reason) for e in entries(graded, LAB, "ada")] == [
        (1, "first"),
        (2, "second"),
    ]
    assert {path.name for path in folder.iterdir()} == {"0001", "0002"}


@pytest.mark.parametrize("when", ["while grading", "after recording"])
def test_an_interrupted_regrade_loses_no_result(
    graded: Course, asked: Grader, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    old = read_result(graded.result(LAB, "ada"))
    with monkeypatch.context() as patched:
        where = ("close_entry", grader.grading.regrade) if when == "after recording" else None
        if where is None:
            patched.setattr(Grader, "__call__", stop)
        else:
            patched.setattr(where[1], where[0], stop)
        asked.failing = set()
        with pytest.raises(KeyboardInterrupt):
            list(regrade(graded, LAB, ["ada"], reason="first"))
    (waiting,) = entries(graded, LAB, "ada")
    assert (waiting.before, waiting.after) == (old, None)
    (entry,) = regrade(graded, LAB, ["ada"], reason="second")
    assert (entry.number, entry.reason, entry.before) == (1, "first", old)
    assert entry.after.score == 32.0


def stop(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_all_changed_are_those_from_other_checks(graded: Course, asked: Grader) -> None:
    assert outdated(graded, LAB) == []
    release = read_notebook(graded.release(LAB))
    write_notebook(graded.release(LAB), {**release, "metadata": {**release["metadata"], "x": 1}})
    assert outdated(graded, LAB) == STUDENTS
    list(regrade(graded, LAB, ["ben"], reason=""))
    assert outdated(graded, LAB) == ["ada"]


def test_a_result_that_cannot_be_read_is_made_anew_and_kept_as_it_was(
    graded: Course, asked: Grader
) -> None:
    graded.result(LAB, "ada").write_text("{")
    graded.result(LAB, "zoe").write_text("{")  # who has submitted nothing
    assert outdated(graded, LAB) == ["ada"]
    [entry] = regrade(graded, LAB, ["ada"], reason="")
    assert (entry.before, entry.after) == (None, read_result(graded.result(LAB, "ada")))
    kept = graded.reports(LAB) / "history" / "ada" / "0001" / "before.json"
    assert kept.read_text() == "{"


def command(course: Course, *arguments: str) -> int:
    return main(["--root", str(course.root), "regrade", LAB, *arguments])


def test_the_command_shows_what_changed(
    graded: Course, asked: Grader, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.failing = {"diagnose"}
    assert command(graded, "--student", "ada", "--reason", "asked", "--student", "ben") == 0
    assert capsys.readouterr().out.splitlines()[:8] == [
        "ada: 21 -> 26 of 32 points, 2 of 12 cells changed (regrade 1)",
        "  check_train_step         WRONG 0 -> OK 3",
        "  hidden_train_step        WRONG 0 -> OK 2",
        "  in the gradebook: 28.5 points with manual ones, 0 off for lateness",
        "ben: 21 -> 26 of 32 points, 2 of 12 cells changed (regrade 1)",
        "  check_train_step         WRONG 0 -> OK 3",
        "  hidden_train_step        WRONG 0 -> OK 2",
        "  to be graded by a person: first_step",
    ]
    assert command(graded, "--student", "ben") == 0
    assert "ben: 26 -> 26 of 32 points, nothing changed (regrade 2)" in capsys.readouterr().out
    assert entries(graded, LAB, "ben")[1].reason == ""


def test_the_command_for_all_changed(
    graded: Course, asked: Grader, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(graded, "--all-changed") == 0
    assert "Nothing to do" in capsys.readouterr().out
    shutil.rmtree(graded.cache(LAB))
    assert command(graded, "--all-changed") == 0
    assert capsys.readouterr().out.count("nothing changed") == len(STUDENTS)
    assert entries(graded, LAB, "ada")[0].reason == "checks, release or versions changed"


def test_a_submission_that_cannot_be_read_any_more(
    graded: Course, asked: Grader, capsys: pytest.CaptureFixture[str]
) -> None:
    graded.submitted(LAB, "ada").write_text("{")
    assert command(graded, "--student", "ada") == 0
    assert "ada: 21 -> 0 of 32 points, INVALID: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--student", "zoe"], "no submission of lab03_lora by zoe"),
        (["--student", "../x"], "student '../x' must be 1 to 100 letters"),
    ],
)
def test_mistakes_are_one_sentence(
    graded: Course,
    asked: Grader,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    assert command(graded, *arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (graded.reports(LAB) / "history").exists()


def test_nobody_graded_yet(made: Course, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(made, "--all-changed") == 2
    assert "has no results yet: run `grader autograde" in capsys.readouterr().err


def test_a_first_grading_has_nothing_before(made: Course, asked: Grader, tmp_path: Any) -> None:
    own = Course(root=tmp_path / "course")
    shutil.copytree(made.root, own.root)
    (entry,) = regrade(own, LAB, ["ada"], reason="")
    assert (entry.before, entry.book_before) == (None, None)
    assert len(changes(None, entry.after)) == 12


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_in_real_boxes(made: Course, tmp_path: Any) -> None:
    own = Course(root=tmp_path / "course")
    shutil.copytree(made.root, own.root)
    (entry,) = regrade(own, LAB, ["ada"], reason="")
    assert (entry.after.score, entry.book_after.open) == (32.0, ("first_step",))
    essay = read_notebook(own.autograded(LAB, "ada"))["cells"][-1]
    assert (grade_id(essay), essay["source"]) == ("first_step", "ada says so.")
