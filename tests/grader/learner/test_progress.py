"""`grader progress`: exercises, points and minutes left; nothing runs twice for nothing."""

import copy
import json
import re
from pathlib import Path

import pytest

from grader.checks.core import load_lab
from grader.cli.main import main
from grader.course import Course
from grader.learner import progress
from grader.learner.progress import minutes_of
from grader.learner.selfcheck import labs_in
from grader.manual import is_manual
from grader.notebooks import Notebook, grade_id, read_notebook, source, write_notebook
from grader.sample_class import samples

LAB, OTHER = "lab03_lora", "lab09_generation"
MINUTES = {
    "lora_delta": 8,
    "lora_linear": 20,
    "apply_lora": 15,
    "merge_weight": 10,
    "diagnose": 20,
    "train_step": 15,
    "first_step": 10,
}
CHECKED = {name: minutes for name, minutes in MINUTES.items() if name != "first_step"}


@pytest.fixture
def half(course: Course) -> Notebook:
    """The first three exercises are solved, the others are not written."""
    return next(s.notebook for s in samples(course, LAB) if s.student == "ben-half")


@pytest.fixture
def learners(tmp_path: Path, half: Notebook) -> Course:
    """A repository as learners have it: without solved notebooks."""
    (tmp_path / "nbgrader_config.py").touch()
    made = Course(root=tmp_path)
    write_notebook(made.release(LAB), half)
    return made


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labs whose checks were run."""
    done: list[str] = []
    real = progress.strongest_boxes
    monkeypatch.setattr(progress, "strongest_boxes", lambda lab: (done.append(lab), real(lab))[1])
    return done


def lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_table_and_its_cache(
    learners: Course, half: Notebook, capsys: pytest.CaptureFixture[str], runs: list[str]
) -> None:
    root = ["--root", str(learners.root)]
    assert main([*root, "progress"]) == 0
    first = lines(capsys)
    assert first == [
        ["lab", "exercises", "points", "minutes", "left"],
        [LAB, "3/6", "17/32", "45"],
    ]
    assert main([*root, "progress", LAB]) == 0
    assert lines(capsys) == first
    assert runs == [LAB]

    seen = copy.deepcopy(half)
    seen["cells"][0]["source"] = "My notes."
    seen["cells"][1]["metadata"]["execution"] = {"iopub.execute_input": "2024-06-01"}
    seen["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "hello"}]
    write_notebook(learners.release(LAB), seen)
    assert main([*root, "progress"]) == 0
    assert runs == [LAB]

    answer = next(cell for cell in seen["cells"] if grade_id(cell) == "lora_delta")
    answer["source"] = "def lora_delta(*arguments, **options):\n    return None\n"
    write_notebook(learners.release(LAB), seen)
    capsys.readouterr()
    assert main([*root, "progress"]) == 0
    assert runs == [LAB, LAB]
    assert lines(capsys)[1] == [LAB, "2/6", "13/32", "53"]


def test_checking_a_lab_tells_progress(
    learners: Course, capsys: pytest.CaptureFixture[str], runs: list[str]
) -> None:
    root = ["--root", str(learners.root)]
    assert main([*root, "check", LAB]) == 1
    attempt = learners.root / "attempt.ipynb"  # of another notebook progress does not speak
    notebook = copy.deepcopy(read_notebook(learners.release(LAB)))
    next(c for c in notebook["cells"] if grade_id(c) == "lora_delta")["source"] = "lora_delta = 1"
    write_notebook(attempt, notebook)
    assert main([*root, "check", str(attempt)]) == 1
    capsys.readouterr()
    assert main([*root, "progress"]) == 0
    assert lines(capsys)[1] == [LAB, "3/6", "17/32", "45"]
    assert runs == []


def test_json(learners: Course, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(learners.root), "progress", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["lab"] == LAB
    assert (row["passing"], row["points"], row["max_points"]) == (3, 17, 32)
    assert row["minutes_left"] == 45
    assert {item["name"]: item["minutes"] for item in row["exercises"]} == CHECKED
    assert [item["status"] for item in row["exercises"]] == 3 * ["OK"] + 3 * ["WRONG"]
    assert "is not written yet" in row["exercises"][5]["message"]


@pytest.mark.parametrize("kept", ["", "[]", '{"key": 1}', "\0"])
def test_a_damaged_cache_is_made_again(
    learners: Course, capsys: pytest.CaptureFixture[str], runs: list[str], kept: str
) -> None:
    path = learners.reports(LAB) / "progress.json"
    path.parent.mkdir(parents=True)
    path.write_text(kept)
    assert main(["--root", str(learners.root), "progress"]) == 0
    assert lines(capsys)[1] == [LAB, "3/6", "17/32", "45"]
    assert runs == [LAB]


def test_new_checks_are_run(learners: Course, half: Notebook, tmp_path: Path) -> None:
    progress.remember(learners, LAB, half, [])
    assert progress.recall(learners, LAB, half) == ()
    tagged = copy.deepcopy(half)
    next(c for c in tagged["cells"] if grade_id(c) == "setup")["metadata"]["tags"] = ["parameters"]
    assert progress.recall(learners, LAB, tagged) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "CODE", tmp_path)
        assert progress.recall(learners, LAB, half) is None


def test_where_nothing_can_be_written_it_works_all_the_same(
    learners: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    (learners.root / "reports").write_text("a file")
    assert main(["--root", str(learners.root), "progress"]) == 0
    assert lines(capsys)[1] == [LAB, "3/6", "17/32", "45"]


def test_one_broken_notebook_does_not_hide_the_others(
    learners: Course, half: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    learners.release(OTHER).parent.mkdir()
    learners.release(OTHER).write_text("{")
    learners.release(OTHER).with_name("notes.ipynb").write_text("{")
    assert labs_in(learners) == [LAB, OTHER]
    assert main(["--root", str(learners.root), "progress"]) == 2
    shown = capsys.readouterr()
    assert [line.split()[:2] for line in shown.out.splitlines()[1:]] == [
        [LAB, "3/6"],
        ["all", "3/6"],
    ]
    assert shown.err.startswith(f"grader: {OTHER}.ipynb is not a notebook: it is not valid JSON")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["lab99"], f"lab99/lab99.ipynb; in labs/ there is: {LAB}"),
        (["../x"], "lab '../x' must be 1 to 100"),
        ([OTHER], "there is no notebook"),
    ],
)
def test_a_mistake_is_one_sentence(
    learners: Course, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["--root", str(learners.root), "progress", *arguments]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_without_labs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nbgrader_config.py").touch()
    assert main(["--root", str(tmp_path), "progress"]) == 2
    assert "there are no labs in" in capsys.readouterr().err


def test_minutes_survive_what_a_learner_does_to_the_text(half: Notebook) -> None:
    assert minutes_of(half) == MINUTES
    half["cells"][3:3] = [7, {}, {"cell_type": "markdown", "source": "about 5 minutes"}]
    (header,) = [
        cell for cell in half["cells"] if cell and cell != 7 and "## Exercise 4" in source(cell)
    ]
    header["source"] = "## Exercise 4"
    assert minutes_of(half) == {name: MINUTES[name] for name in MINUTES if name != "merge_weight"}


def test_every_exercise_has_its_minutes_and_the_lab_their_sum(real_course: Course) -> None:
    for lab in real_course.labs():
        notebook = read_notebook(real_course.release(lab))
        found, title = minutes_of(notebook), source(notebook["cells"][0])
        by_hand = {grade_id(cell) for cell in notebook["cells"] if is_manual(cell)}
        checked = [check.name for check in load_lab(lab).checks]
        assert [name for name in found if name not in by_hand] == checked
        rows = re.findall(r"^\| \d .+ \| (\d+) \|$", title, re.MULTILINE)
        assert [int(minutes) for minutes in rows] == list(found.values())
        (about,) = re.findall(r"\*\*Time:\*\* about (\d+) minutes", title)
        assert abs(int(about) - sum(found.values())) <= 5
