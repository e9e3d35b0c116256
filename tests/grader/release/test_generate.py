"""The release is fresh, its checks tell the stub from the solution, and a bad one is refused."""

import shutil
from pathlib import Path

import pytest

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, Check, Verdict, load_lab
from grader.cli.main import main
from grader.course import Course, find_course
from grader.notebooks import grade_id, read_notebook, source, write_notebook
from grader.release import generate
from grader.release.generate import LeakError, release, unproven

LABS = find_course().labs()
LAB = "lab03_lora"
CHECKS = load_lab(LAB).checks


def test_labs_are_what_generating_them_now_gives_and_nothing_leaks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`make check` runs the same command."""
    assert main(["release", "--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("lab", LABS)
def test_checks_fail_on_the_stub_and_pass_on_the_solution(real_course: Course, lab: str) -> None:
    assert unproven(real_course, lab, real_course.release(lab)) == []


@pytest.fixture
def aside(course: Course, tmp_path: Path) -> Course:
    """A copy of the small course that may be spoilt."""
    (tmp_path / "nbgrader_config.py").touch()
    for folder in ("solutions", "labs"):
        shutil.copytree(course.root / folder, tmp_path / folder)
    return Course(root=tmp_path)


def edit(path: Path, cell: str, old: str, new: str) -> None:
    notebook = read_notebook(path)
    for found in notebook["cells"]:
        if grade_id(found) == cell:
            assert old in source(found)
            found["source"] = source(found).replace(old, new)
    write_notebook(path, notebook)


def test_a_check_that_the_stub_passes_and_one_that_the_solution_fails(aside: Course) -> None:
    edit(aside.source(LAB), "merge_weight", "return exact.to(weight.dtype)", "return exact")
    stub, answer = "raise NotImplementedError()", "return lora_B @ lora_A * (alpha / len(lora_A))"
    edit(aside.release(LAB), "lora_delta", stub, answer.replace("(alpha", "scale(alpha"))
    found = unproven(aside, LAB, aside.release(LAB))
    assert [line.partition(":")[0] for line in found] == [
        "check merge_weight fails on the solution"
    ]
    scaled = "return lora_B @ lora_A * alpha / lora_A.shape[0] ** (0.5 if use_rslora else 1)"
    edit(aside.release(LAB), "lora_delta", "return lora_B @", f"{scaled}\n    return lora_B @")
    assert "check lora_delta passes on the released stub" in unproven(
        aside, LAB, aside.release(LAB)
    )


def test_solutions_are_tried_on_hidden_seeds_too(
    aside: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fails(check: Check, impl: object, seeds: tuple[int, ...]) -> Verdict:
        tried.append(seeds)
        return Verdict(ok=False, message="no")

    monkeypatch.setattr(generate, "verdicts", fails)
    found = unproven(aside, LAB, aside.release(LAB))
    assert found == [f"check {check.name} fails on the solution: no" for check in CHECKS]
    assert set(tried) == {(PUBLIC_SEED, *HIDDEN_SEEDS), (PUBLIC_SEED,)}


def test_a_notebook_that_does_not_run_is_said(aside: Course) -> None:
    edit(aside.source(LAB), "lora_delta", "def lora_delta(", "1 / 0\n\ndef lora_delta(")
    (line,) = unproven(aside, LAB, aside.release(LAB))
    assert "ZeroDivisionError" in line


def test_a_leaking_release_is_refused_and_changes_nothing(aside: Course) -> None:
    before = aside.release(LAB).read_bytes()
    for name in ("notes.txt", "scratch.ipynb"):
        stray = aside.source(LAB).with_name(name)
        shutil.copy(aside.source(LAB), stray)
        assert aside.labs() == [LAB]
        with pytest.raises(LeakError, match=rf"{name} lies beside"):
            release(aside, LAB)
        stray.unlink()
    edit(aside.source(LAB), "merge_weight", "return exact.to(weight.dtype)", "return exact")
    with pytest.raises(LeakError, match="check merge_weight fails on the solution"):
        release(aside, LAB)
    assert aside.release(LAB).read_bytes() == before
    assert not aside.gradebook.exists()
    with pytest.raises(ValueError, match="is missing; there are: lab03_lora"):
        release(aside, "lab99")


def test_check_lists_what_differs(aside: Course, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--root", str(aside.root), "release", "--check"]
    assert main(command) == 0
    assert capsys.readouterr().out == ""
    edit(aside.source(LAB), "lora_delta", "Weight update of a LoRA", "The update of a LoRA")
    aside.release(LAB).with_name("left.txt").write_text("from an earlier release")
    aside.source(LAB).with_name("envelope.json").write_text("{}")
    (aside.root / "labs" / "lab00_gone").mkdir()
    assert main(command) == 1
    assert capsys.readouterr().out.splitlines() == [
        "labs/lab00_gone",
        f"labs/{LAB}/envelope.json",
        f"labs/{LAB}/{LAB}.ipynb",
        f"labs/{LAB}/left.txt",
        f"{LAB}: left.txt lies beside the notebook and is not in the lab's list of files",
    ]
    assert not aside.gradebook.exists()


def test_check_of_a_lab_that_was_never_released(
    aside: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(aside.release(LAB).parent)
    assert main(["--root", str(aside.root), "release", "--check", LAB]) == 1
    assert f"labs/{LAB}/{LAB}.ipynb" in capsys.readouterr().out
