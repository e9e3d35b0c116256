"""A newcomer's walk: make start, again; a lecture, a lab and the formgrader in a real browser."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader.cli.main import main
from grader.course import Course
from grader.gradebook.opening import opened

from .jupyter_page import Page, chromium, jupyterlab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
WALK = ROOT / "reports" / "walk"
LAB, LECTURE = "lab03_lora", "chapters/training/04_lora.ipynb"
BY_HAND, WRITTEN, WRITTEN_POINTS = "ada-perfect", "first_step", 3  # what a person grades
STEPS = ("Install the pinned set", "Prepare SmolLM2", "Execute chapters", "Grade a sample class")


# What the walk has not: another machine, a class's files, a folder to publish, minutes.
NOT_HERE = ("redis://", "roster.csv", "student-repo", "mutants")
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
GRADING = TEXT.partition("## Grade a class")[2].partition("## Use labkit")[0]
COMMANDS = [
    line
    for line in re.findall(r"^\.venv/bin/grader .+$", GRADING, re.MULTILINE)
    if not any(word in line for word in NOT_HERE)
]


def make_start() -> str:
    done = subprocess.run(
        ["make", "start"],
        cwd=ROOT,
        env={**os.environ, "LAB": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def started() -> str:
    return make_start()


@pytest.fixture(scope="module")
def address(started: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on the course, and a copy of the lab where a learner may write."""
    WALK.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "labs" / LAB / f"{LAB}.ipynb", WALK / f"{LAB}.ipynb")
    with jupyterlab(ROOT, tmp_path_factory.mktemp("jupyter")) as url:
        yield url


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def solution(grade_id: str) -> str:
    """The solved source of one exercise."""
    notebook = json.loads((ROOT / "solutions" / LAB / f"{LAB}.ipynb").read_text(encoding="utf-8"))
    cells = {c["metadata"].get("nbgrader", {}).get("grade_id"): c for c in notebook["cells"]}
    return "".join(cells[grade_id]["source"])


def test_start_does_every_step_and_a_second_run_none(started: str) -> None:
    for step in STEPS:
        assert re.search(rf"\[( ok |done)\] {step}", started), started
    again = make_start()
    assert all(f"[done] {step}" in again for step in STEPS), again
    assert "[....]" not in again


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("line", dict.fromkeys(COMMANDS))
def test_the_readmes_commands_for_a_class_work(line: str) -> None:
    """In the README's order; `grader check` ends with 1, since nothing is solved in labs/."""
    command = shlex.split(line, comments=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (1 if command[1] == "check" else 0), done.stdout + done.stderr


def test_a_lecture_shows_its_figures(page: Page, address: str) -> None:
    page.open_notebook(address, LECTURE)
    page.until("document.querySelectorAll('.jp-RenderedImage img').length > 0")
    assert page.until("document.body.innerText.includes('LoRA and QLoRA')")
    page.scroll_to(".jp-RenderedImage img")
    page.shoot(WALK / "lecture.png")


def test_a_learner_meets_a_message_and_then_silence(page: Page, address: str) -> None:
    page.open_notebook(address, f"reports/walk/{LAB}.ipynb")
    assert page.run_cell("check = lab(") == ""
    page.run_cell("def lora_delta(")
    message = page.run_cell('check("lora_delta"')
    page.shoot(WALK / "message.png")
    assert message == (
        "CheckFailed: lora_delta: lora_delta is not written yet: "
        "replace the line `raise NotImplementedError()`."
    )
    page.run_cell("def lora_delta(", solution("lora_delta"))
    assert page.run_cell('check("lora_delta"') == ""
    page.shoot(WALK / "silence.png")


def test_nbgraders_validate_button_judges_the_notebook(page: Page, address: str) -> None:
    page.open_notebook(address, f"reports/walk/{LAB}.ipynb")
    page.until(
        "[...document.querySelectorAll('.jp-ToolbarButtonComponent, jp-button, button')]"
        ".some(b => b.innerText.trim() === 'Validate' && (b.click(), true))"
    )
    page.until("/failed|Success|passes/i.test(document.querySelector('.jp-Dialog')?.innerText)")
    page.shoot(WALK / "validate.png")
    assert "lora_linear" in page.until("document.querySelector('.jp-Dialog').innerText")


def test_the_formgrader_shows_the_scores(page: Page, address: str) -> None:
    results = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "reports" / LAB / "results").glob("*.json")
    ]
    assert len(results) >= 6
    page.sign_in(address)
    page.visit(f"{address}/formgrader/manage_submissions/{LAB}")
    page.until("document.body.innerText.includes('ada-perfect')")
    page.shoot(WALK / "formgrader.png")
    rows = page.until("[...document.querySelectorAll('tr')].map(row => row.innerText)")
    for result in results:
        if result["student"] != BY_HAND:
            (row,) = [row for row in rows if result["student"] in row]
            assert f"{result['score']:g} / {result['max_score'] + WRITTEN_POINTS:g}" in row


def test_a_person_grades_a_written_answer_and_grading_again_keeps_it(
    page: Page, address: str
) -> None:
    course = Course(root=ROOT)
    with opened(course) as gradebook:
        place = gradebook.find_submission_notebook(LAB, LAB, BY_HAND).id
    page.sign_in(address)
    page.visit(f"{address}/formgrader/submissions/{place}/?index=0")
    page.until(f"document.querySelector('#{WRITTEN}') && window.$ && $.active === 0")
    assert "projected onto the rows" in page.until("document.body.innerText")
    points = 1.5 if score_by_hand(course) == 2.5 else 2.5  # another one than a walk before gave
    page.type_into(f"#{WRITTEN}", str(points))
    page.until_true(lambda: score_by_hand(course) == points)
    page.shoot(WALK / "graded_by_hand.png")
    assert main(["--root", str(ROOT), "autograde", LAB, "--student", BY_HAND, "--fresh"]) == 0
    assert score_by_hand(course) == points
    with opened(course) as gradebook:
        assert gradebook.find_submission(LAB, BY_HAND).score == 32 + points


def score_by_hand(course: Course) -> float | None:
    with opened(course) as gradebook:
        score: float | None = gradebook.find_grade(WRITTEN, LAB, LAB, BY_HAND).manual_score
        return score
