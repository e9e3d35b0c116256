"""The students' pages: everything that helps them, nothing that is hidden, nothing that runs."""

import re
from dataclasses import replace
from html import unescape

import pytest

from grader.gradebook.final_scores import BookCell, Entry, Final
from grader.manual import TASK_KEY
from grader.reports.handed_in import MAX_CHARACTERS, MAX_PICTURE_CHARACTERS
from grader.reports.student_page import MOST_NOTES, render, unshown
from grader.results import Status

from .made_up import LAB, cell, made, notebook, submission

PLANTED = ("0.73125", "planted_text", "987654321", "planted_source", "planted_detail", "4242")
HINT = "Hint: which factor divides?"


def said(html: str) -> str:
    """A page's text."""
    return unescape(re.sub("<.*?>", " ", html.partition("<body>")[2]))


def parts(html: str) -> list[tuple[str, str]]:
    """What the findings' lists say."""
    found = re.findall("<dt>(.*?)</dt><dd.*?>(.*?)</dd>", html)
    return [(name, unescape(text)) for name, text in found]


def test_a_finding_says_what_was_expected_what_came_and_the_hint() -> None:
    public = cell(message=f"the update: expected shape (3, 5), got (5, 3). {HINT}")
    assert parts(render(submission(public, cell(hidden=True)), None)) == [
        ("Seen", "with the notebook's inputs"),
        ("Looked at", "the update"),
        ("Expected", "shape (3, 5)"),
        ("What came", "(5, 3)"),
        ("Hint", "which factor divides?"),
    ]


def test_one_finding_for_public_and_hidden_inputs_is_told_once_with_public_values() -> None:
    public = cell(message=f"the update: expected shape (3, 5), got (5, 3). {HINT}")
    hidden = cell(hidden=True, message=f"the update: expected shape (17, 19), got (19, 17). {HINT}")
    told = parts(render(submission(public, hidden), None))
    assert told[0] == ("Seen", "with the notebook's inputs, and with other inputs")
    assert ("Expected", "shape (3, 5)") in told
    assert "17" not in str(told)


@pytest.mark.parametrize(
    "message",
    [
        "the update: expected 0.73125, got 987654321.",
        "the update: 4242 of 987654321 values differ, by up to 0.73125 (allowed: rounding).",
        "expected 'planted_text', got \"planted_text\".",
        "f raised ValueError: 'planted_text' 0.73125, at line 3 of the cell: `y = f(x)`.",
        "calling f, or using what it returned, failed with KeyError: 987654321.",
    ],
)
def test_hidden_values_and_sources_are_on_no_page(message: str) -> None:
    hidden = cell(
        hidden=True, message=f"{message} {HINT}", seeds=(987654321,), detail="planted_detail"
    )
    work = notebook(
        made("delta", "def delta(): return 1", solution=True),
        made("check_delta", "assert planted_source == 0.73125", grade=True, locked=True),
        made("hidden_delta", "check.hidden('planted_source')", grade=True, locked=True),
        made("setup", "planted_source = 4242", locked=True),
    )
    work["cells"][2]["outputs"] = [{"output_type": "stream", "text": message}]
    html = render(submission(cell(), hidden), work)
    assert [value for value in PLANTED if value in html] == []
    assert ("Hint", "which factor divides?") in parts(html)
    assert ("Seen", "with other inputs") in parts(html)
    assert "def delta(): return 1" in said(html)


def test_a_reason_made_of_hidden_messages_is_left_out_and_one_of_its_own_is_shown() -> None:
    hidden = cell(hidden=True, message="the update: expected 987654321, got 4.")
    result = submission(cell(), hidden)
    assert "987654321" in result.reason
    for reason in (result.reason, "delta: as an older grader summed up 987654321"):
        assert "987654321" not in render(replace(result, reason=reason), None)
    assert "nothing was answered" in render(replace(result, reason="nothing was answered"), None)


def test_what_ended_the_program_is_told_and_not_what_it_printed() -> None:
    slow = cell(message="delta: it took longer than 10 s.", status=Status.TIMEOUT, detail="SECRET")
    html = render(submission(slow, replace(slow, cell="hidden_delta", hidden=True)), None)
    assert ("What came", "delta: it took longer than 10 s") in parts(html)
    assert "TIMEOUT" in html
    assert "SECRET" not in html


def test_a_returned_submission_says_why_and_shows_no_score() -> None:
    result = submission(status=Status.INVALID, reason="lab.ipynb is not a notebook")
    html = render(result, None, Final(score=None, max_score=32, auto_score=None))
    assert "Returned without a score" in said(html)
    assert "lab.ipynb is not a notebook" in said(html)
    assert "<meter" not in html
    assert "points" not in said(html)


def test_points_of_people_comments_and_penalty_are_shown() -> None:
    work = notebook(
        made("delta", "mine = 1", solution=True),
        made("essay", "It *is* <b>so</b>.", "markdown", grade=True, solution=True),
        made("plot", "plt.plot()", grade=True, solution=True),
    )
    entry = Entry(
        cells={
            "check_delta": BookCell(points=1.5, max_score=2, by_hand=True, waiting=False),
            "essay": BookCell(points=2.5, max_score=3, by_hand=True, waiting=False),
            "plot": BookCell(points=0, max_score=4, by_hand=False, waiting=True),
        },
        comments={"delta": "Nearly <i>right</i>.", "essay": "Say why."},
        late_penalty=0.5,
    )
    final = Final(
        score=3.5, max_score=9, auto_score=2, late_penalty=0.5, waiting=("plot",), excused=True
    )
    text = " ".join(said(render(submission(cell()), work, final, entry)).split())
    for line in (
        "3.5 of 9 points",
        "Handed in late: 0.5 points were taken off.",
        "Not final yet: one answer is still to be graded.",
        "You are excused",
        "1.5 / 2 points",
        "given by a person",
        "Comment Nearly <i>right</i>.",
        "essay 2.5 / 3 points Comment Say why. It *is* <b>so</b>.",
        "plot waiting to be graded",
    ):
        assert line in text


def test_plots_and_a_task_s_cells_are_shown_as_far_as_there_is_room() -> None:
    plot = made("plot", "plt.plot()", grade=True, solution=True)
    small, large = "A" * 40, "A" * (MAX_PICTURE_CHARACTERS + 4)
    plot["outputs"] = [
        {"output_type": "display_data", "data": {"image/png": small}},
        {"output_type": "display_data", "data": {"text/html": "<b>planted</b>"}},
        {"output_type": "stream", "text": "loss <1>"},
    ]
    task = made("task", "Measure.", "markdown", task=True)
    added = made("", "what I did", "markdown")
    added["metadata"] = {TASK_KEY: "task"}
    added["attachments"] = {"a.png": {"image/png": large}}
    other = made("", "somebody else's", "markdown")
    html = render(submission(cell()), notebook(plot, task, added, other))
    assert re.findall('<img src="(.*?)"', html) == [f"data:image/png;base64,{small}"]
    assert "loss <1>" in said(html)
    assert "what I did" in said(html)
    assert "A picture is left out." in said(html)
    assert "planted" not in html
    assert "somebody else's" not in said(html)
    assert "Measure." not in said(html)


def test_markup_everywhere_stays_text() -> None:
    evil = "</pre></style><script>alert(1)</script><img src=x onerror=alert(1)>"
    work = notebook(made("delta", evil, solution=True), made(evil, evil, solution=True, grade=True))
    result = submission(cell(message=evil), student=evil, notes=(evil,))
    entry = Entry(comments={"delta": evil, evil: evil})
    html = render(replace(result, reason=evil), work, None, entry)
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("</style>") == 1
    assert said(html).count(evil) >= 8


def test_long_code_is_cut() -> None:
    work = notebook(made("delta", "x" * (MAX_CHARACTERS + 7), solution=True))
    html = render(submission(cell()), work)
    assert "… 7 more characters" in said(html)
    assert len(html) < MAX_CHARACTERS + 20_000


def test_notes_are_listed_and_not_without_end() -> None:
    notes = tuple(f"Note {number}." for number in range(MOST_NOTES + 3))
    html = said(render(submission(cell(), notes=notes), None))
    assert f"Note {MOST_NOTES - 1}." in html
    assert f"Note {MOST_NOTES}." not in html
    assert "… and 3 more." in html


def test_what_cannot_be_shown_is_said() -> None:
    assert "Your code cannot be shown" in said(render(submission(cell()), None, lacks_code=True))
    assert "Your code cannot be shown" not in said(render(submission(cell()), None))
    assert "Your instructor was told" in said(unshown(LAB))
