"""48 rows of hostile and broken submissions, graded in one class: what each gets, what all leave.

The rows are those of `submissions/`, one file each, with the verdict they must get in its header.
"""

import csv
import json
import re
import socket
from pathlib import Path

import hostile_class
import hostile_grader
import hostile_runs
import pytest
from hostile_runs import Run
from hostile_submissions import Submission, read_all

from grader.box.tier import Tier
from grader.results import CellResult, Result

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SUBMISSIONS = read_all()
ROWS = 48
SLACK_S = 2.0
BUSY = 4  # by the clock, where others want the processors too; a box's limit counts its own time
MOST_GRADER_BYTES = 1_500 * 2**20
MOST_RESULT_BYTES = 64 * 2**10
LAB = hostile_class.LAB
ACTIVE = re.compile(r"<(script|img|iframe|svg|object|embed|link|form|a)\b|javascript:|\bon\w+=")
OWN_PICTURE = re.compile(
    r'<img ((alt|width|height)="[^"<>]*" ?|src="data:image/png;base64,[\w+/=]*" ?)+/?>'
)
OWN_SCRATCH = "torchinductor_"  # an empty folder that importing torch makes


def test_every_row_has_a_submission() -> None:
    archives = Path(__file__).with_name("archives").glob("*.py")
    rows = {s.row for s in SUBMISSIONS} | {int(path.name[:2]) for path in archives}
    assert rows >= set(range(1, ROWS + 1))


def result_of(graded: Run, student: str) -> Result:
    """The result of a folder in `submitted/`; of one that is no student's id, by its reason."""
    if student in graded.results:
        return graded.results[student]
    shown = ascii(student)[1:31]
    return next(r for r in graded.results.values() if shown in r.reason)


def told(result: Result) -> str:
    """Everything the student is told."""
    return "\n".join([result.reason, *(cell.message for cell in result.cells), *result.notes])


def _case(submission: Submission) -> object:
    known = [pytest.mark.xfail(reason=submission.known, strict=True)] if submission.known else []
    return pytest.param(submission, id=submission.name, marks=known)


@pytest.mark.parametrize("submission", [_case(s) for s in SUBMISSIONS])
def test_a_submission_gets_its_verdict(graded: Run, submission: Submission) -> None:
    students = [name for name, s in graded.made.hostile.items() if s == submission]
    if not students:
        pytest.skip("not on this tier: the file's note says why")
    for student in students:
        result = result_of(graded, student)
        assert submission.allows(result.status, result.score), told(result)
        assert [c for c in result.cells if not _as_expected(result, submission, c)] == []
        for text in submission.says:
            assert text in told(result)


def _as_expected(result: Result, submission: Submission, cell: CellResult) -> bool:
    """A cell of a submission that was found out may say so instead, and gets no points."""
    if result.status == "TAMPER" and cell.score == 0:
        return True
    return cell.status in submission.cell(cell.cell)


def test_everybody_gets_a_status_a_reason_and_a_tier_in_time(graded: Run, tier: Tier) -> None:
    everybody = {*graded.made.honest, *graded.made.hostile}
    assert len(graded.results) == len(everybody)
    longest = BUSY * hostile_grader.SUBMISSION_S + SLACK_S
    for result in graded.results.values():
        assert result.reason or result.score == result.max_score, result.student
        assert result.seconds < longest, result.student
        assert result.tier == tier


def test_honest_students_get_the_same_as_without_the_hostile_ones(graded: Run, clean: Run) -> None:
    for student, points in graded.made.honest.items():
        assert hostile_runs.untimed(graded.results[student]) == hostile_runs.untimed(
            clean.results[student]
        )
        assert graded.results[student].score == points


def test_the_gradebook_holds_the_results_and_nothing_else(graded: Run, clean: Run) -> None:
    rows, alone = hostile_runs.grades(graded.made.course), hostile_runs.grades(clean.made.course)
    assert {key: row for key, row in rows.items() if key[0] in graded.made.honest} == alone
    scored = {
        (result.student, cell.cell): (cell.score, None)
        for result in graded.results.values()
        for cell in result.cells
    }
    by_a_person = {key: row for key, row in rows.items() if key[1] == hostile_class.BY_A_PERSON}
    assert {key: row[:2] for key, row in rows.items() if key not in by_a_person} == scored
    assert {row[:2] for row in by_a_person.values()} <= {(None, None), (0, None)}


def test_grading_changes_nothing_but_what_it_writes(graded: Run) -> None:
    before, after = graded.before, graded.after
    assert after.files == before.files
    assert after.homes_files == before.homes_files
    new = set(after.folders) - set(before.folders)
    assert new <= {"gradebook.db", "autograded", "reports", "feedback"}


def test_nothing_is_left_on_the_machine(graded: Run) -> None:
    assert graded.left_running == []
    assert graded.after.daemons == []
    assert graded.after.mounts <= graded.before.mounts
    assert graded.after.escaped == []
    assert set(graded.after.shared) <= set(graded.before.shared)
    assert [f for f in graded.scratch_files if not f.startswith(OWN_SCRATCH)] == []
    assert not graded.after.port_is_open


def test_nobody_on_the_machine_was_called(graded: Run, server: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        server.accept()


def test_the_grader_ends_well_and_needs_little_memory(graded: Run) -> None:
    assert graded.code == 0
    assert "Traceback" not in graded.printed
    assert graded.peak_bytes < MOST_GRADER_BYTES


def test_what_is_stored_of_a_submission_is_little(graded: Run) -> None:
    folder = graded.made.course.reports(LAB) / "results"
    sizes = {path.stem: path.stat().st_size for path in folder.glob("*.json")}
    assert {name: size for name, size in sizes.items() if size > MOST_RESULT_BYTES} == {}


def test_what_is_printed_cannot_drive_a_terminal(graded: Run) -> None:
    assert [c for c in set(graded.printed) if not (c.isprintable() or c in "\n\r\t")] == []


@pytest.fixture(scope="module")
def published(graded: Run) -> Run:
    """The class with feedback, reports and exports written."""
    for command in ("feedback", "similarity", "export"):
        code, printed, _ = hostile_runs.run(graded.made, command, LAB)
        assert code == 0, printed
    return graded


def test_no_secret_comes_out(published: Run) -> None:
    secrets = [hostile_class.secret(where).encode() for where in hostile_class.SECRETS_IN]
    secrets.append(published.made.course.seed_key.read_bytes())
    own = set(published.made.honest)
    found = [
        path
        for path, content in hostile_runs.written(published.made)
        if not own & set(Path(path).parts) and any(secret in content for secret in secrets)
    ]
    assert found == []
    assert not any(secret.decode() in published.printed for secret in secrets)


def test_no_page_runs_anything(published: Run) -> None:
    pages = [p for p in hostile_runs.written(published.made) if p[0].endswith(".html")]
    assert len(pages) > len(published.results)
    for path, content in pages:
        text = content.decode().lower()
        assert "content-security-policy" in text, path
        tags = re.findall(r"<[^>]*>", text)
        assert [tag for tag in tags if ACTIVE.search(tag) and not OWN_PICTURE.match(tag)] == [], (
            path
        )


def test_no_cell_of_the_export_is_a_formula(published: Run) -> None:
    path = published.made.course.reports(LAB) / "scores.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) == len(published.results) + 1
    assert [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")] == []
    json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
