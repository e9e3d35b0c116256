"""A class graded end to end: statuses, neighbours, the gradebook, plain nbgrader."""

import copy
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grader import sample_class
from grader.course import Course
from grader.gradebook.opening import opened
from grader.grading import submission
from grader.grading.autograde import UngradedError, autograde
from grader.grading.submission import hidden_seeds
from grader.notebooks import grade_id, read_notebook, write_notebook
from grader.reports import class_report as report
from grader.reports import export, feedback
from grader.results import Result, Status, read_results

LAB = "lab03_lora"
pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
EXPECTED = {
    "ada-perfect": (Status.OK, 32.0),
    "ben-half": (Status.PARTIAL, 17.0),
    "cem-untouched": (Status.WRONG, 0.0),
    "dot-syntax": (Status.PARTIAL, 28.0),
    "eli-endless": (Status.PARTIAL, 28.0),
    "fay-cheat": (Status.WRONG, 0.0),
    "gus-garbage": (Status.INVALID, 0.0),
    "hal-plain-wrong": (Status.PARTIAL, 28.0),
}
HONEST = ("ada-perfect", "ben-half", "cem-untouched", "hal-plain-wrong")
WRONG = (
    "def lora_delta(lora_A, lora_B, alpha, use_rslora=False):\n    return alpha * lora_B @ lora_A\n"
)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def graded(course: Course) -> dict[str, Result]:
    """Grade the sample class plus one unreadable and one plainly wrong submission."""
    for sample in sample_class.samples(course, LAB):
        write_notebook(course.submitted(LAB, sample.student), sample.notebook)
        assert sample.status == EXPECTED[sample.student][0]
    garbage = course.submitted(LAB, "gus-garbage")
    garbage.parent.mkdir(parents=True)
    garbage.write_text("{ this is not a notebook")
    wrong = copy.deepcopy(read_notebook(course.submitted(LAB, "ada-perfect")))
    next(c for c in wrong["cells"] if grade_id(c) == "lora_delta")["source"] = WRONG
    write_notebook(course.submitted(LAB, "hal-plain-wrong"), wrong)
    kept = {path: digest(path) for path in (course.source(LAB), course.release(LAB))}
    results = {result.student: result for result in autograde(course, LAB)}
    assert {path: digest(path) for path in kept} == kept
    return results


def test_statuses_and_scores(graded: dict[str, Result]) -> None:
    assert {name: (r.status, r.score) for name, r in graded.items()} == EXPECTED


def test_the_endless_loop_costs_its_own_question_only(graded: dict[str, Result]) -> None:
    cells = {cell.cell: cell for cell in graded["eli-endless"].cells}
    assert cells["check_lora_delta"].status is Status.TIMEOUT
    assert cells["hidden_lora_delta"].status is Status.TIMEOUT
    assert {c.status for c in cells.values() if c.check != "lora_delta"} == {Status.OK}


def test_everybody_gets_a_reason(graded: dict[str, Result]) -> None:
    assert graded["ada-perfect"].reason == ""
    assert graded["cem-untouched"].reason == "nothing was answered"
    assert "not valid Python" in graded["dot-syntax"].reason
    assert "not valid JSON" in graded["gus-garbage"].reason
    assert all(result.tier == "bubblewrap" for result in graded.values())


def grades(course: Course) -> dict[tuple[str, str], tuple[Any, Any, Any]]:
    with opened(course) as gradebook:
        return {
            (submission.student.id, grade.name): (
                grade.auto_score,
                grade.manual_score,
                grade.needs_manual_grade,
            )
            for submission in gradebook.assignment_submissions(LAB)
            for notebook in submission.notebooks
            for grade in notebook.grades
        }


def test_the_gradebook_holds_the_same_scores(course: Course, graded: dict[str, Result]) -> None:
    written = grades(course)
    for result in graded.values():
        for cell in result.cells:
            assert written[result.student, cell.cell] == (cell.score, None, False)
    assert not any(student == "gus-garbage" for student, _ in written)


def test_a_rerun_repeats_scores_and_seeds_and_keeps_manual_ones(
    course: Course, graded: dict[str, Result]
) -> None:
    with opened(course) as gradebook:
        grade = gradebook.find_grade("check_lora_delta", LAB, LAB, "ben-half")
        grade.manual_score = 1.5
        gradebook.db.commit()
    (again,) = autograde(course, LAB, students=["ben-half"])
    first = graded["ben-half"]
    assert [(c.score, c.seeds) for c in again.cells] == [(c.score, c.seeds) for c in first.cells]
    assert grades(course)["ben-half", "check_lora_delta"] == (2.0, 1.5, False)


def test_hidden_seeds_depend_on_key_answers_and_question() -> None:
    from grader.checks.core import load_lab

    first, second = load_lab(LAB).checks[:2]
    seeds = [
        hidden_seeds(b"k", "a", first),
        hidden_seeds(b"l", "a", first),
        hidden_seeds(b"k", "b", first),
        hidden_seeds(b"k", "a", second),
    ]
    assert len({seed for several in seeds for seed in several}) == 12


def test_results_are_read_back_as_written(course: Course, graded: dict[str, Result]) -> None:
    stored = {r.student: r for r in read_results(course.reports(LAB) / "results")}
    assert stored["eli-endless"] == graded["eli-endless"]
    (course.root / "broken").mkdir()
    (course.root / "broken" / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x\.json is not a result"):
        read_results(course.root / "broken")


def test_feedback_escapes_and_hides(course: Course, graded: dict[str, Result]) -> None:
    paths, problems = feedback.write(course, LAB)
    assert problems == []
    pages = {path.parents[1].name: path.read_text() for path in paths}
    assert set(pages) == set(EXPECTED)
    for text in pages.values():
        assert "Content-Security-Policy" in text
        assert "<script" not in text
        assert "BEGIN HIDDEN" not in text
        assert "check.hidden" not in text
    assert "which factor" in pages["hal-plain-wrong"]


def test_a_hostile_name_or_message_stays_text(graded: dict[str, Result]) -> None:
    from dataclasses import replace

    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    result = replace(graded["ben-half"], student="=cmd()", reason=evil, notes=(evil,))
    page = feedback.render(result, None)
    assert "<script>" not in page
    assert "<img" not in page
    assert "<script>" not in report.render(LAB, [result])
    assert "\n'=cmd()," in export.for_spreadsheet(export.Scores(lab=LAB, results=[result]))


def test_export_and_report(course: Course, graded: dict[str, Result]) -> None:
    scores = export.read_scores(course, LAB)
    csv_path, json_path = export.write(course, scores, ["csv", "json"])
    assert "ben-half,lab03_lora,PARTIAL,16.5,35,3.5,7,6,0,0,0,17,0,,," in csv_path.read_text()
    assert json_path.read_text().count('"student"') == len(EXPECTED)
    text = report.write(course, LAB).read_text()
    assert "8 submissions, 1 of them invalid" in text


def test_formgraders_notebook_shows_the_verdicts(course: Course, graded: dict[str, Result]) -> None:
    notebook = read_notebook(course.autograded(LAB, "eli-endless"))
    outputs = {grade_id(cell): cell.get("outputs") for cell in notebook["cells"]}
    assert "TIMEOUT" in outputs["check_lora_delta"][0]["text"]
    assert outputs["check_diagnose"][0]["text"] == "OK: passed\n"


def test_formgrader_takes_every_submission_for_autograded(
    course: Course, graded: dict[str, Result]
) -> None:
    """nbgrader's page shows a score only where the time in `submitted/` is the gradebook's."""
    from nbgrader.apps.api import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory

    settings = course.nbgrader_config()
    api = NbGraderAPI(CourseDirectory(config=settings), config=settings)
    scored = {name for name, result in graded.items() if result.status is not Status.INVALID}
    assert api.get_autograded_students(LAB) == scored
    for student in scored - {"ben-half"}:  # whom another test gives a manual score
        assert api.get_submission(LAB, student)["score"] == graded[student].score


def test_a_back_dated_time_stamp_is_replaced(course: Course, graded: dict[str, Result]) -> None:
    student = next(iter(graded))
    stamp = course.submitted(LAB, student).parent / "timestamp.txt"
    stamp.write_text("1999-01-01 00:00:00 UTC")
    (again,) = autograde(course, LAB, students=[student])
    assert "1999" not in again.received
    assert "1999" not in stamp.read_text()


def test_mistakes_get_a_sentence(course: Course, graded: dict[str, Result], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no submission of lab03_lora by zoe"):
        list(autograde(course, LAB, students=["zoe"]))
    with pytest.raises(ValueError, match="is not released"):
        list(autograde(Course(root=tmp_path), LAB))


def test_what_nobody_foresaw_in_a_submission_costs_no_other_one(
    course: Course, graded: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = submission.find_submission

    def unforeseen(folder: Path, *arguments: Any) -> Any:
        if folder.parent.name == "ben-half":
            raise TypeError("unforeseen")
        return find(folder, *arguments)

    monkeypatch.setattr(submission, "find_submission", unforeseen)
    before = grades(course)
    grading = autograde(course, LAB, students=["ben-half", "cem-untouched"])
    assert next(grading).status is Status.INVALID
    assert next(grading).status is Status.WRONG
    with pytest.raises(UngradedError, match=r"failed on ben-half and .* reports/lab03_lora/fail"):
        next(grading)
    assert grades(course) == before
    trace = (course.reports(LAB) / "failures" / "ben-half.txt").read_text()
    assert "TypeError: unforeseen" in trace
    monkeypatch.undo()
    assert autograde_of(course, "ben-half").score == 17.0


@pytest.mark.parametrize("name", ["-rf", "a b\n<b>", "é" * 120, os.fsdecode(b"\xff\xfe")])
def test_an_unsafe_folder_costs_only_its_own_student(
    course: Course, graded: dict[str, Result], tmp_path: Path, name: str
) -> None:
    aside = Course(root=tmp_path)
    for folder in ("solutions", "labs"):
        shutil.copytree(course.root / folder, tmp_path / folder)
    unsafe = aside.submitted(LAB, name).parent
    shutil.copytree(course.submitted(LAB, "cem-untouched").parent, unsafe)
    shutil.copytree(unsafe, aside.submitted(LAB, "cem-untouched").parent)
    refused, graded_one = autograde(aside, LAB)
    assert (graded_one.student, graded_one.status) == ("cem-untouched", Status.WRONG)
    assert (refused.status, refused.score, refused.max_score) == (Status.INVALID, 0.0, 32.0)
    assert "which cannot be a student's id: rename it" in refused.reason
    assert refused.reason.isascii()
    assert refused.reason.isprintable()
    assert len(feedback.write(aside, LAB)[0]) == 2
    assert "1 of them invalid" in report.write(aside, LAB).read_text()
    assert autograde_of(aside, name).status is refused.status
    assert len(export.write(aside, export.read_scores(aside, LAB))) == 4


def autograde_of(course: Course, student: str) -> Result:
    (result,) = autograde(course, LAB, students=[student])
    return result


@pytest.mark.slow
def test_scores_equal_plain_nbgraders_on_honest_notebooks(
    course: Course, graded: dict[str, Result], tmp_path: Path
) -> None:
    aside = Course(root=tmp_path)
    for name in ("solutions", "labs"):
        shutil.copytree(course.root / name, tmp_path / name)
    shutil.copy(course.root / "nbgrader_config.py", tmp_path)
    for student in HONEST:
        target = aside.submitted(LAB, student).parent
        shutil.copytree(course.submitted(LAB, student).parent, target)
    plain_autograde(aside)
    plain = {key: auto for key, (auto, _, _) in grades(aside).items()}
    ours = {key: auto for key, (auto, _, _) in grades(course).items() if key[0] in HONEST}
    assert plain == ours
    assert ours.items() >= {(s, c.cell): c.score for s in HONEST for c in graded[s].cells}.items()


def plain_autograde(course: Course) -> None:
    """Run nbgrader's own commands in the course's folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
    for command in ("generate_assignment", "autograde"):
        arguments = [sys.executable, "-m", "nbgrader", command, LAB, "--force"]
        done = subprocess.run(
            arguments, cwd=course.root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
