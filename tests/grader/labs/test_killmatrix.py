"""Every lab's checks find every mutant in the sandbox; what is wrong with a lab is said."""

import json
import sys
from pathlib import Path

import pytest

from grader import killmatrix
from grader.cli import mutants as command
from grader.cli.main import main
from grader.course import Course, find_course
from grader.killmatrix import Graded, Matrix
from grader.mutants import Mutant, Mutants, load_mutants, mutated
from grader.notebooks import grade_id, read_notebook, source, write_notebook
from grader.results import CellResult, Result, Status

LAB = "lab03_lora"
SCALING = "alpha / math.sqrt(R) if use_rslora else alpha / R"
PLANTED: Mutants = {
    "lora_delta": {
        "right in another way": [("scaling * (lora_B @ lora_A)", "scaling * lora_B @ lora_A")],
        "not Python": [(SCALING, "alpha /")],
        "a name that is not there": [(SCALING, "alpha / rank")],
        "transposed": "return alpha / len(lora_A) * (lora_B @ lora_A).T",
    },
    "merge_weight": {"ends the program": "import os\nos._exit(0)"},
}
WRITTEN = (
    ("lora_delta", "right in another way", "none", Status.OK),
    ("lora_delta", "not Python", "both", Status.WRONG),
    ("lora_delta", "a name that is not there", "both", Status.WRONG),
    ("lora_delta", "transposed", "both", Status.WRONG),
    ("merge_weight", "ends the program", "both", Status.CRASH),
)


@pytest.mark.slow
@pytest.mark.parametrize("lab", find_course().labs())
def test_every_mutant_dies_in_the_sandbox_and_costs_its_own_question_only(
    real_course: Course, lab: str
) -> None:
    trials = killmatrix.trials(real_course, lab)
    matrix = Matrix.of(lab, killmatrix.grade(real_course, lab, trials))
    assert matrix.problems() == []
    assert [m.mutant for m in matrix.mutants if m.killed_by != "both" or m.others] == []
    assert len(matrix.mutants) == sum(map(len, load_mutants(lab).values()))


def test_the_command_says_what_is_wrong(
    course: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(killmatrix, "load_mutants", lambda lab: PLANTED)
    assert main(["--root", str(course.root), "mutants", LAB, "--jobs", "2"]) == 1
    shown = capsys.readouterr().out
    assert "lab03_lora: solution 32/32, untouched release 0/32\n" in shown
    assert "4 of 5 mutants are killed by the hidden cells, 4 by the public ones." in shown
    assert not list(course.root.glob("submitted/trial*"))

    report = json.loads((course.reports(LAB) / "mutants.json").read_text(encoding="utf-8"))
    assert report["solution"] == {"score": 32, "max_score": 32}
    assert report["release"]["score"] == 0
    found = [
        (m["question"], m["mutant"], m["killed_by"], m["hidden"]["status"])
        for m in report["mutants"]
    ]
    assert found == [*WRITTEN]
    survivor, not_python, unnamed, *few = report["problems"][-3:] + report["problems"][:-3]
    assert survivor.startswith("lora_delta, 'right in another way': survives the hidden cell (seed")
    assert not_python.startswith("lora_delta, 'not Python': does not run")
    assert unnamed.startswith("lora_delta, 'a name that is not there': does not run")
    assert few == [
        f"{name} has {count} mutants, fewer than 3"
        for name, count in {
            "lora_linear": 0, "apply_lora": 0, "merge_weight": 1, "diagnose": 0, "train_step": 0
        }.items()
    ]  # fmt: skip
    assert all(problem in shown for problem in report["problems"])


def cell(status: Status, *, hidden: bool, check: str = "lora_delta") -> CellResult:
    return CellResult(
        cell="c", check=check, hidden=hidden, points=1, score=float(status is Status.OK),
        status=status, message="" if status is Status.OK else "delta: is wrong", seeds=(7,),
        seconds=0.1,
    )  # fmt: skip


def result(*cells: CellResult, score: float = 0, reason: str = "") -> Result:
    return Result(
        student="s", lab=LAB, status=Status.WRONG, reason=reason, score=score, max_score=32,
        tier="bubblewrap", sha256="", received="", seconds=0, cells=cells,
    )  # fmt: skip


def mutant(public: Status, hidden: Status, *others: CellResult) -> Graded:
    cells = cell(public, hidden=False), cell(hidden, hidden=True), *others
    return Graded(question="lora_delta", mutant="one", result=result(*cells))


@pytest.mark.parametrize(
    ("public", "hidden", "killed_by", "problem"),
    [
        (Status.WRONG, Status.WRONG, "both", ""),
        (Status.OK, Status.TIMEOUT, "hidden", ""),
        (Status.WRONG, Status.OK, "public", "survives the hidden cell (seeds 7)"),
        (Status.OK, Status.OK, "none", "survives the hidden cell (seeds 7)"),
        (Status.BLOCKED, Status.BLOCKED, "none", "survives the hidden cell (seeds 7)"),
    ],
)
def test_a_mutant_must_die_in_the_hidden_cell(
    public: Status, hidden: Status, killed_by: str, problem: str
) -> None:
    graded = mutant(public, hidden)
    assert (graded.killed_by, graded.problem) == (killed_by, problem)


def test_a_solution_without_all_points_and_a_release_with_any_are_problems() -> None:
    matrix = Matrix(
        lab=LAB, solution=result(score=31, reason="diagnose: x"), release=result(score=1),
        mutants=(mutant(Status.WRONG, Status.WRONG),) * 3,
    )  # fmt: skip
    said = "; ".join(matrix.problems())
    assert "the solution gets 31 of 32 points: diagnose: x" in said
    assert "the untouched release gets 1 points" in said
    assert "lora_delta has" not in said


def test_a_survivor_is_red_on_a_terminal_and_a_questions_neighbours_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    lost = cell(Status.WRONG, hidden=True, check="diagnose")
    mutants = mutant(Status.OK, Status.OK), mutant(Status.WRONG, Status.WRONG, lost)
    command._print(Matrix(lab=LAB, solution=result(), release=result(), mutants=mutants))
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("\x1b[31m  none      OK")]
    assert [line for line in shown if line.startswith("  both      WRONG")]
    assert [line for line in shown if line.endswith("(it also costs diagnose)")]


@pytest.mark.parametrize(
    ("question", "changes", "words"),
    [
        ("lora_delta", [("no such text", "")], "'no such text' must stand in the solution once"),
        ("lora_delta", [("R", "")], "'R' must stand in the solution once, it is there"),
        ("lora_linear", "return x", "cannot take the place of 2 solution regions"),
    ],
)
def test_a_mutant_that_does_not_fit_the_solution_is_named(
    course: Course, monkeypatch: pytest.MonkeyPatch, question: str, changes: Mutant, words: str
) -> None:
    monkeypatch.setattr(killmatrix, "load_mutants", lambda lab: {question: {"old": changes}})
    with pytest.raises(ValueError, match=f"mutants.py, {question}, 'old': .*{words}"):
        killmatrix.trials(course, LAB)


def test_a_body_stands_where_the_solution_stood(course: Course) -> None:
    solved = read_notebook(course.source(LAB))
    changed = mutated(solved, "lora_delta", "\n    if alpha:\n        return lora_A\n")
    cells = {grade_id(c): source(c) for c in changed["cells"] if grade_id(c)}
    before = {grade_id(c): source(c) for c in solved["cells"] if grade_id(c)}
    assert cells["lora_delta"].endswith('"""\n    if alpha:\n        return lora_A')
    assert cells["lora_delta"].startswith(before["lora_delta"].partition("    ###")[0])
    assert "self.scaling = alpha / rank" in cells["lora_linear"]


def test_a_lab_that_is_not_there_or_not_released_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nbgrader_config.py").touch()
    for lab, words in (("lab99", "no checks for a lab"), (LAB, "is not released"), ("", "no labs")):
        assert main(["--root", str(tmp_path), "mutants", *lab.split()]) == 2
        assert words in capsys.readouterr().err


def test_a_release_older_than_its_solution_is_refused(
    course: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    release = read_notebook(course.release(LAB))
    release["cells"] = [cell for cell in release["cells"] if grade_id(cell) != "merge_weight"]
    write_notebook(course.release(LAB), release)
    assert main(["--root", str(course.root), "mutants", LAB]) == 2
    assert f"it has no merge_weight: run `grader release {LAB}`" in capsys.readouterr().err


def test_mutants_of_a_question_that_is_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from grader.labs.lab03_lora import mutants

    monkeypatch.setitem(mutants.MUTANTS, "lora_detla", {})
    with pytest.raises(ValueError, match="mutants of lora_detla"):
        load_mutants(LAB)
