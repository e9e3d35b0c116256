"""The gradebook on a small lab with a check, an essay, a plot and a task, without any box."""

import base64
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grader.course import Course
from grader.gradebook import opening
from grader.gradebook import writer as book
from grader.gradebook.opening import GradebookLockedError, opened
from grader.gradebook.writer import (
    apply_policy,
    record,
    standing,
    write_autograded,
)
from grader.manual import answers, shown
from grader.notebooks import grade_id, read_notebook, source, write_notebook
from grader.policy import parse
from grader.release.generate import generate
from grader.results import CellResult, Result, Status
from grader.transplant import Transplanted, transplant

LAB, DUE = "essay_lab", "2026-03-01T13:00:00+01:00"
RELEASE_ESSAY = "YOUR ANSWER HERE"


def cell(name: str, text: str, kind: str = "code", **facts: Any) -> dict[str, Any]:
    nbgrader = {"grade": False, "solution": False, "task": False, "locked": False}
    nbgrader |= {"grade_id": name, "schema_version": 3, "cell_type": kind} | facts
    made = {"cell_type": kind, "id": name, "metadata": {"nbgrader": nbgrader}, "source": text}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


SOLVED = [
    cell("setup", "import math", locked=True),
    cell("area", "### BEGIN SOLUTION\na = math.pi\n### END SOLUTION", solution=True),
    cell("check_area", "assert a > 3", grade=True, locked=True, points=2),
    cell("essay", "Because.", "markdown", grade=True, solution=True, points=3),
    cell(
        "plot", "### BEGIN SOLUTION\np = 1\n### END SOLUTION", grade=True, solution=True, points=4
    ),
    cell("task", "Measure something.", "markdown", task=True, locked=True, points=5),
    {"cell_type": "markdown", "id": "end", "metadata": {}, "source": "The end."},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """The lab, released into a gradebook without submissions."""
    course = Course(root=tmp_path_factory.mktemp("course"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    solved = {"cells": SOLVED, "metadata": {"kernelspec": kernel}}
    write_notebook(course.source(LAB), {**solved, "nbformat": 4, "nbformat_minor": 5})
    generate(course, LAB, course.root / "labs")
    return course


@pytest.fixture
def course(made: Course, tmp_path: Path) -> Course:
    """A copy of it for one test."""
    own = Course(root=tmp_path)
    own.gradebook.write_bytes(made.gradebook.read_bytes())
    write_notebook(own.release(LAB), read_notebook(made.release(LAB)))
    write_notebook(own.source(LAB), read_notebook(made.source(LAB)))
    return own


def png(width: int = 3, height: int = 2) -> str:
    header = struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00"
    return base64.b64encode(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + header).decode()


def handed_in(
    course: Course,
    essay: str = "It is so.",
    outputs: list[dict[str, Any]] | None = None,
    added: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Transplanted:
    """A submission as the transplant gives it."""
    release = read_notebook(course.release(LAB))
    mine = read_notebook(course.release(LAB))
    for one in mine["cells"]:
        if grade_id(one) == "essay":
            one |= {"source": essay} | more
        if grade_id(one) == "plot":
            one |= {"source": "p = 2", "outputs": outputs or []}
    mine["cells"][-1:-1] = added or []
    mine["cells"].append({"cell_type": "code", "source": "elsewhere()"})
    return transplant(release, mine)


def result(score: float = 2.0, *, student: str = "ada", received: str = DUE) -> Result:
    status = Status.OK if score else Status.WRONG
    area = CellResult(
        cell="check_area",
        check="area",
        hidden=False,
        points=2.0,
        score=score,
        status=status,
        message="",
        seeds=(1,),
        seconds=0.0,
    )
    return Result(
        student=student,
        lab=LAB,
        status=status,
        reason="",
        score=score,
        max_score=2.0,
        tier="bubblewrap",
        sha256="",
        received=received,
        seconds=0.0,
        cells=(area,),
    )


def put(course: Course, *arguments: Any, **options: Any) -> None:
    with opened(course) as gradebook:
        record(gradebook, *arguments, **options)


def grade_by_hand(course: Course, cell_name: str, score: float | None, extra: float = 0.0) -> None:
    """What formgrader's page does when a score is entered."""
    with opened(course) as gradebook:
        grade = gradebook.find_grade(cell_name, LAB, LAB, "ada")
        grade.manual_score, grade.extra_credit = score, extra
        grade.needs_manual_grade = grade.manual_score is None and grade.auto_score is None
        gradebook.db.commit()


def grades(course: Course) -> dict[str, tuple[float | None, float | None, bool]]:
    with opened(course) as gradebook:
        notebook = gradebook.find_submission_notebook(LAB, LAB, "ada")
        return {
            grade.name: (grade.auto_score, grade.manual_score, grade.needs_manual_grade)
            for grade in notebook.grades
        }


def dump(course: Course) -> list[str]:
    """Every row of the gradebook, ids included: a rerun must not even replace one."""
    with closing(sqlite3.connect(course.gradebook)) as database:
        return list(database.iterdump())


def test_a_new_submission_waits_for_people_where_people_grade(course: Course) -> None:
    put(course, result(), handed_in(course))
    assert grades(course) == {
        "check_area": (2.0, None, False),
        "essay": (None, None, True),
        "plot": (None, None, True),
        "task": (None, None, True),
    }


def test_an_answer_left_as_released_scores_0_and_says_so(course: Course) -> None:
    put(course, result(), handed_in(course, essay=RELEASE_ESSAY))
    assert grades(course)["essay"] == (0.0, None, False)
    with opened(course) as gradebook:
        comments = {
            c.name: c.comment for c in gradebook.find_submission(LAB, "ada").notebooks[0].comments
        }
    assert comments == {"area": "No response.", "essay": "No response.", "plot": None, "task": None}


def test_recording_twice_leaves_every_row_as_it_was(course: Course) -> None:
    submission = handed_in(course)
    put(course, result(), submission, policy=policy_of())
    first = dump(course)
    put(course, result(), submission, policy=policy_of())
    assert dump(course) == first
    grade_by_hand(course, "essay", 2.0)
    by_hand = dump(course)
    assert by_hand != first
    put(course, result(), submission, policy=policy_of())
    assert dump(course) == by_hand


def test_what_people_entered_survives_every_rerun(course: Course) -> None:
    submission = handed_in(course)
    put(course, result(), submission)
    for name, score in (("essay", 2.5), ("plot", 0.0), ("task", 5.0)):
        grade_by_hand(course, name, score, extra=0.5)
    with opened(course) as gradebook:
        gradebook.find_comment("essay", LAB, LAB, "ada").manual_comment = "Well put."
        gradebook.db.commit()
    for again in (result(), result(0.0), result()):
        put(course, again, submission)
    assert grades(course) == {
        "check_area": (2.0, None, False),
        "essay": (None, 2.5, False),
        "plot": (None, 0.0, False),
        "task": (None, 5.0, False),
    }
    with opened(course) as gradebook:
        assert gradebook.find_grade("essay", LAB, LAB, "ada").extra_credit == 0.5
        assert gradebook.find_comment("essay", LAB, LAB, "ada").comment == "Well put."
        assert gradebook.find_submission(LAB, "ada").score == 2.0 + 2.5 + 5.0 + 1.5


PICTURE = {"output_type": "display_data", "metadata": {}, "data": {"image/png": png()}}
ADDED = {"cell_type": "code", "id": "mine", "metadata": {}, "source": "measure()", "outputs": []}


@pytest.mark.parametrize(
    ("cell_name", "changed"),
    [
        ("essay", {"essay": "On second thoughts."}),
        ("plot", {"outputs": [PICTURE]}),
        ("task", {"added": [ADDED]}),
    ],
)
def test_a_changed_answer_is_asked_for_again_and_keeps_its_score(
    course: Course, cell_name: str, changed: dict[str, Any]
) -> None:
    put(course, result(), handed_in(course))
    for name in ("essay", "plot", "task"):
        grade_by_hand(course, name, 1.0)
    put(course, result(), handed_in(course, **changed))
    waiting = {name: needs for name, (_, _, needs) in grades(course).items()}
    assert waiting == dict.fromkeys(waiting, False) | {cell_name: True}
    assert grades(course)[cell_name][1] == 1.0


def test_an_answer_taken_back_is_looked_at_again_if_it_had_a_score(course: Course) -> None:
    put(course, result(), handed_in(course))
    grade_by_hand(course, "essay", 3.0)
    put(course, result(), handed_in(course, essay=RELEASE_ESSAY))
    assert grades(course)["essay"] == (0.0, 3.0, True)


def test_a_score_set_over_a_checks_is_looked_at_when_the_checks_changes(course: Course) -> None:
    put(course, result(0.0))
    grade_by_hand(course, "check_area", 1.5)
    put(course, result(0.0))
    assert grades(course)["check_area"] == (0.0, 1.5, False)
    put(course, result(2.0))
    assert grades(course)["check_area"] == (2.0, 1.5, True)
    put(course, result(2.0))
    assert grades(course)["check_area"] == (2.0, 1.5, True)


def test_without_the_submission_manual_cells_are_left_alone(course: Course) -> None:
    put(course, result(), handed_in(course))
    grade_by_hand(course, "essay", 3.0)
    put(course, result())
    assert grades(course)["essay"] == (None, 3.0, False)


def policy_of(**more: Any) -> Any:
    from datetime import datetime

    lab = {"due": datetime.fromisoformat(DUE)} | more
    content = {"late": {"share": 0.1, "cap": 0.5}, "labs": {LAB: lab}}
    return parse(content, labs=[LAB], students=["ada", "ben"])


def received(**late: float) -> str:
    from datetime import datetime

    return (datetime.fromisoformat(DUE) + timedelta(**late)).isoformat()


def exported(course: Course, tmp_path: Path) -> dict[str, str]:
    """A student's row in nbgrader's own CSV."""
    from nbgrader.plugins import CsvExportPlugin

    with opened(course) as gradebook:
        CsvExportPlugin(to=str(tmp_path / "grades.csv")).export(gradebook)
    head, row, *_ = (tmp_path / "grades.csv").read_text().splitlines()
    return dict(zip(head.split(","), row.split(","), strict=True))


def test_the_penalty_is_nbgraders_own(course: Course, tmp_path: Path) -> None:
    put(course, result(received=received(days=1, hours=1)), handed_in(course), policy=policy_of())
    row = exported(course, tmp_path)
    assert (row["raw_score"], row["late_submission_penalty"], row["score"]) == ("2.0", "0.4", "1.6")
    assert (row["duedate"], row["timestamp"]) == ("2026-03-01 12:00:00", "2026-03-02 13:00:00")


def test_the_penalty_follows_manual_scores_and_the_policy(course: Course) -> None:
    late = result(received=received(hours=1))
    put(course, late, handed_in(course), policy=policy_of())
    grade_by_hand(course, "essay", 3.0, extra=1.0)
    with opened(course) as gradebook:
        assert standing(gradebook, LAB, "ada").late_penalty == pytest.approx(0.2)
        apply_policy(gradebook, LAB, policy_of())
        assert standing(gradebook, LAB, "ada").late_penalty == pytest.approx(0.6)
        apply_policy(gradebook, LAB, policy_of(excused=["ada"]))
        assert standing(gradebook, LAB, "ada").late_penalty == 0.0
        assert standing(gradebook, LAB, "ada").open == ("plot", "task")
        assert standing(gradebook, LAB, "zoe") is None


def test_an_extension_is_nbgraders_own(course: Course) -> None:
    from datetime import datetime

    until = datetime.fromisoformat("2026-03-04T12:00:00+00:00")
    policy = policy_of(extensions={"ada": until})
    put(course, result(received=received(days=2)), policy=policy)
    with opened(course) as gradebook:
        mine = gradebook.find_submission(LAB, "ada")
        assert (mine.extension, mine.total_seconds_late) == (timedelta(days=3), 0)
        assert mine.late_submission_penalty == 0.0
    put(course, result(received=received(days=2)), policy=policy_of())
    with opened(course) as gradebook:
        mine = gradebook.find_submission(LAB, "ada")
        assert (mine.extension, mine.late_submission_penalty) == (None, 0.4)


def test_without_a_policy_due_date_and_penalty_stay(course: Course) -> None:
    late = result(received=received(days=1))
    put(course, late, policy=policy_of())
    put(course, late)
    with opened(course) as gradebook:
        assert standing(gradebook, LAB, "ada").late_penalty == pytest.approx(0.2)


@pytest.mark.parametrize("step", ["_record_score", "record_work", "_apply", "_by_cell"])
def test_an_error_anywhere_leaves_the_gradebook_as_it_was(
    course: Course, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    put(course, result(0.0, student="ben"), handed_in(course))
    before, real = dump(course), getattr(book, step)

    def fail(*arguments: Any) -> Any:
        real(*arguments)
        raise RuntimeError("planted")

    monkeypatch.setattr(book, step, fail)
    with pytest.raises(RuntimeError, match="planted"):
        put(course, result(), handed_in(course), policy=policy_of())
    assert dump(course) == before
    monkeypatch.undo()
    put(course, result(), handed_in(course), policy=policy_of())
    assert grades(course)["check_area"] == (2.0, None, False)


def test_another_releases_cells_are_refused_whole(course: Course) -> None:
    strange = replace(result(), cells=(replace(result().cells[0], cell="check_volume"),))
    before = dump(course)
    with pytest.raises(ValueError, match="without the cell 'check_volume', from another release"):
        put(course, strange, handed_in(course))
    assert dump(course) == before


@pytest.fixture
def locked(course: Course) -> Iterator[Callable[[], None]]:
    """The gradebook locked by another program until the returned function is called."""
    with closing(sqlite3.connect(course.gradebook, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other.rollback
        other.rollback()


def test_a_lock_is_waited_for(course: Course, locked: Callable[[], None]) -> None:
    waiting = threading.Timer(0.5, locked)
    waiting.start()
    put(course, result(), handed_in(course))
    waiting.join()
    assert grades(course)["check_area"] == (2.0, None, False)


def test_a_lock_that_stays_is_one_sentence_and_nothing_written(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_S", 0.2)
    with opened(course) as gradebook, closing(sqlite3.connect(course.gradebook)) as other:
        other.execute("BEGIN IMMEDIATE")
        before = list(other.iterdump())
        started = time.monotonic()
        with pytest.raises(GradebookLockedError, match=r"locked by another program for 0\.2 s"):
            record(gradebook, result(), handed_in(course))
        assert time.monotonic() - started < 5
        assert list(other.iterdump()) == before
        other.rollback()
        record(gradebook, result(), handed_in(course))
    assert grades(course)["check_area"] == (2.0, None, False)


def test_the_wait_is_30_seconds(course: Course) -> None:
    from sqlalchemy import text

    with opened(course) as gradebook:
        assert gradebook.db.scalar(text("PRAGMA busy_timeout")) == 30_000


def shown_cells(course: Course, submission: Transplanted) -> dict[str, dict[str, Any]]:
    write_autograded(course, result(), submission)
    cells = read_notebook(course.autograded(LAB, "ada"))["cells"]
    return {grade_id(one) or one["id"]: one for one in cells}


def test_people_see_text_pictures_and_added_cells(course: Course) -> None:
    stream = {"output_type": "stream", "name": "stderr", "text": ["two\n", "lines"]}
    rich = {"text/html": "<script>alert(1)</script>", "text/plain": "a table"}
    outputs = [PICTURE, stream, {"output_type": "execute_result", "data": rich}]
    note = {"cell_type": "raw", "source": "My finding."}
    submission = handed_in(course, essay="<b>It</b> is so.", outputs=outputs, added=[ADDED, note])
    cells = shown_cells(course, submission)
    data = [output.get("data", {}).get("image/png") for output in cells["plot"]["outputs"]]
    assert data == [png(), None, None]
    assert [output.get("text") for output in cells["plot"]["outputs"]] == [
        None,
        "two\nlines",
        "a table",
    ]
    assert source(cells["essay"]) == "< b>It< /b> is so."
    names = list(cells)
    assert [source(cells[name]) for name in names[names.index("task") + 1 :]] == [
        "measure()",
        "My finding.",
        "The end.",
    ]
    assert cells["check_area"]["outputs"][0]["text"] == "OK: passed\n"
    assert [p.name for p in course.autograded(LAB, "ada").parent.iterdir()] == [f"{LAB}.ipynb"]


@pytest.mark.parametrize(
    "data",
    [
        {"image/png": "AAAA"},
        {"image/png": base64.b64encode(b"<svg onload=...>" + struct.pack(">II", 3, 2)).decode()},
        {"image/png": png(100_000, 100_000)},
        {"image/png": png() + '" onerror="alert(1)'},
        {"image/svg+xml": "<svg onload='alert(1)'/>"},
        {"application/javascript": "alert(1)"},
        {"image/png": {"a": 1}},
        [],
        "x",
    ],
)
def test_other_outputs_are_dropped(course: Course, data: Any) -> None:
    outputs = [{"output_type": "display_data", "data": data}, 5, None]
    assert shown_cells(course, handed_in(course, outputs=outputs))["plot"]["outputs"] == []


def test_nothing_a_person_grades_is_run(course: Course) -> None:
    submission = handed_in(course, added=[ADDED])
    assert [one["id"] for one in submission.cells_to_run()] == ["setup", "area"]
    assert submission.notes == ()
    assert set(answers(submission.notebook)) == {"essay", "plot", "task"}


EVIL = """\
<script>alert(1)</script> <img src=x onerror=alert(1)> <!-- x --> </div></body>
[a](javascript:alert(1)) [b][c] <javascript:alert(1)> ![d](attachment:gone.png)

[c]: javascript:alert(1)

```mermaid
click A "javascript:alert(1)"
<script>alert(1)</script>
```

![kept](attachment:mine.png) and $a<b$, `List[int](3)`, 1 < 2
"""


class Finder(HTMLParser):
    """Collects what could act in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag] if tag in ("script", "iframe", "object", "svg", "style", "form") else []
        for name, value in attrs:
            text = (value or "").lower()
            safe = text.startswith(("#", "data:image/png;base64,", "https://", "http://"))
            if name.startswith("on") or (name in ("href", "src") and not safe):
                self.found.append(f"{tag} {name}={text}")


def rendered(text: str, attachments: dict[str, Any] | None = None) -> str:
    """As formgrader renders a student's answer: by nbconvert's Markdown, nothing cleaned."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    answer = cell("essay", text, "markdown", solution=True) | {"attachments": attachments or {}}
    renderer = IPythonRenderer(escape=False, attachments=answer["attachments"])
    return str(MarkdownWithMath(renderer=renderer).render(source(shown(answer))))


def test_a_students_text_cannot_act_in_formgraders_page() -> None:
    page = rendered(EVIL, {"mine.png": {"image/png": png()}})
    finder = Finder()
    finder.feed(page)
    assert finder.found == []
    assert f'src="data:image/png;base64,{png()}"' in page
    assert "mermaid" not in page
    assert "1 &lt; 2" in page


def test_the_finder_would_find_it() -> None:
    finder = Finder()
    finder.feed('<script></script><a href="javascript:x">y</a><img src="x" onerror="y">')
    assert len(finder.found) == 4


PIECES = [
    "<",
    ">",
    " ",
    "\n",
    "script",
    "a href=",
    "](",
    "]:",
    "[",
    "javascript:x",
    "![",
    "|",
    "\\",
]
PIECES += ["`", "```", "~~~", "mermaid", "attachment:m", "&lt;", '"', "'", "on", "error=", "/", "!"]
PIECES += ["$", "svg", "(", ")", "data:text/html,x", "x", "-", "#", "*", "    "]


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_text_can_act(text: str) -> None:
    finder = Finder()
    finder.feed(rendered(text, {"m": {"image/png": png()}}))
    assert finder.found == []


def test_formgrader_shows_penalty_free_scores_and_who_waits(course: Course) -> None:
    from nbgrader.apps.api import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory

    submission = handed_in(course)
    stamp = course.submitted(LAB, "ada").with_name("timestamp.txt")
    stamp.parent.mkdir(parents=True)
    stamp.write_text("2026-03-01 12:00:00 UTC\n")
    put(course, result(), submission)
    write_autograded(course, result(), submission)
    grade_by_hand(course, "essay", 3.0)
    settings = course.nbgrader_config()
    shown_row = NbGraderAPI(CourseDirectory(config=settings), config=settings).get_submission(
        LAB, "ada"
    )
    assert (shown_row["score"], shown_row["max_score"]) == (5.0, 14.0)
    assert shown_row["needs_manual_grade"]
    assert shown_row["autograded"]
