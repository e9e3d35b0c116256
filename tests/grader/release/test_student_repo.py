"""The published repository: complete, clean, updated in place, and its README works there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from grader.checks.core import load_lab
from grader.cli.main import main
from grader.course import Course
from grader.release import student_repo
from grader.release.generate import LeakError

SITE_PACKAGES = sysconfig.get_path("purelib")


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def installed(own_copy: Path) -> Path:
    """The repository with a `.venv` that sees this environment's packages, pip among them."""
    venv = own_copy / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/*/site-packages")
    (site / "of_the_tests.pth").write_text(SITE_PACKAGES + "\n")
    (venv / "bin" / "nbgrader").write_text(
        f"#!{venv}/bin/python\nfrom nbgrader.apps.nbgraderapp import main\nmain()\n"
    )
    (venv / "bin" / "nbgrader").chmod(0o755)
    return own_copy


def run(repo: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    options = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        shlex.split(command),
        cwd=repo,
        env=keep | options | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_readme_works_there(
    installed: Path, real_course: Course, tmp_path: Path, solve: Callable[[str, Path], None]
) -> None:
    text = (installed / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    lab = real_course.labs()[0]
    count = len(load_lab(lab).checks)
    assert commands == [
        "make start",
        f".venv/bin/grader check {lab}",
        ".venv/bin/grader progress",
        f".venv/bin/nbgrader submit {lab} --course <name of your course>",
    ]
    start, check, progress, submit = commands
    done = run(installed, start, LAB="0", PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(installed, check)
    assert done.returncode == 1, done.stderr
    assert f"0 of {count} exercises pass" in done.stdout
    solve(lab, installed / "labs" / lab / f"{lab}.ipynb")
    done = run(installed, check)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} of {count} exercises pass" in done.stdout
    done = run(installed, progress)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{lab} +{count}/{count}", done.stdout)
    exchange = tmp_path / "exchange"
    for name in (f"llm/outbound/{lab}", "llm/inbound"):
        (exchange / name).mkdir(parents=True)
    exchange.chmod(0o777)
    shutil.copy(real_course.release(lab), exchange / "llm" / "outbound" / lab)
    done = run(
        installed,
        submit.replace("<name of your course>", f"llm --Exchange.root={exchange}"),
        JUPYTER_DATA_DIR=str(tmp_path / "data"),
    )
    assert done.returncode == 0, done.stderr
    (handed_in,) = (exchange / "llm" / "inbound").glob(f"*/{lab}.ipynb")
    assert handed_in.read_bytes() == (installed / "labs" / lab / f"{lab}.ipynb").read_bytes()


@pytest.mark.usefixtures("labs_are_fresh")
def test_an_update_writes_what_changed_and_removes_what_is_stale(
    own_copy: Path, real_course: Course
) -> None:
    stamp = own_copy / student_repo.STAMP
    names = json.loads(stamp.read_text())["files"]
    (own_copy / "labs" / "lab00_gone").mkdir()
    (own_copy / "labs" / "lab00_gone" / "lab00_gone.ipynb").write_text("old")
    names += ["labs/lab00_gone/lab00_gone.ipynb", "../outside.txt"]
    stamp.write_text(json.dumps({"files": names}))
    outside = own_copy.parent / "outside.txt"
    outside.write_text("mine")
    (own_copy / ".git").mkdir()
    (own_copy / ".git" / "config").write_text("mine")
    (own_copy / "syllabus.md").write_text("mine")
    for left in ("reports/lab03_lora/progress.json", ".venv/lib/reference.py", "build/mutants.py"):
        (own_copy / left).parent.mkdir(parents=True)
        (own_copy / left).write_text("left by the learner's commands")
    (own_copy / "README.md").write_text("edited")
    (own_copy / "AGENTS.md").unlink()
    changes = student_repo.write(real_course, own_copy)
    assert changes.written == ("AGENTS.md", "README.md")
    assert changes.removed == ("labs/lab00_gone/lab00_gone.ipynb",)
    assert not (own_copy / "labs" / "lab00_gone").exists()
    assert outside.read_text() == "mine"
    assert (own_copy / ".git" / "config").read_text() == "mine"
    assert (own_copy / "syllabus.md").read_text() == "mine"
    assert [path.name for path in own_copy.parent.glob(".copy-*")] == []


@pytest.mark.usefixtures("labs_are_fresh")
def test_a_run_cut_short_is_taken_up_again(
    real_course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, target = Path.replace, tmp_path / "new"

    def cut_short(path: Path, place: Path) -> Path:
        if place.name == "setup.py":
            raise OSError("no space left on device")
        return moved(path, place)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut_short)
        with pytest.raises(OSError, match="no space"):
            student_repo.write(real_course, target)
    assert not (target / "setup.py").exists()
    changes = student_repo.write(real_course, target)
    assert changes.written == ("setup.py",)


def test_a_folder_with_other_files_is_refused(
    real_course: Course, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["--root", str(real_course.root), "student-repo", str(tmp_path)]) == 2
    assert "is not empty and was not written by" in capsys.readouterr().err
    assert files(tmp_path) == {"mine.txt"}
    with pytest.raises(ValueError, match="holds the course itself"):
        student_repo.write(real_course, real_course.root)


@pytest.mark.parametrize("stamp", ["", "{}", "[]", '{"files": 3}'])
def test_a_stamp_that_lists_nothing_is_one_sentence(
    real_course: Course, tmp_path: Path, stamp: str
) -> None:
    (tmp_path / student_repo.STAMP).write_text(stamp)
    with pytest.raises(ValueError, match="does not list what was written: name a new folder"):
        student_repo.write(real_course, tmp_path)


def test_stale_labs_are_refused(course: Course, tmp_path: Path) -> None:
    own, lab = Course(root=tmp_path / "course"), course.labs()[0]
    for folder in ("solutions", "labs"):
        shutil.copytree(course.root / folder, own.root / folder)
    student_repo._require_fresh_labs(own)
    own.release(lab).write_text(own.release(lab).read_text().replace("Hint 1", "Hint one"))
    with pytest.raises(ValueError, match=rf"run it first. Stale: labs/{lab}/{lab}.ipynb"):
        student_repo.write(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("labs_are_fresh")
def test_a_leak_in_the_instructors_own_file_stops_the_update(
    own_copy: Path, real_course: Course
) -> None:
    (own_copy / "README.md").write_text("edited")
    (own_copy / "solutions").mkdir()
    (own_copy / "solutions" / "all.md").write_text("x")
    with pytest.raises(LeakError, match="a folder called 'solutions' is the instructor's"):
        student_repo.write(real_course, own_copy)
    assert (own_copy / "README.md").read_text() == "edited"


def test_the_link_says_what_nbgitpuller_reads(capsys: pytest.CaptureFixture[str]) -> None:
    address = "https://git.example.org/course/llm-lab"
    command = ["student-repo", "--link", "https://hub.example.org/", address, "--branch", "f 1"]
    assert main(command) == 0
    shown = capsys.readouterr().out.strip()
    assert "repo=https%3A%2F%2Fgit.example.org%2Fcourse%2Fllm-lab&branch=f%201&urlpath=" in shown
    link = urlsplit(shown)
    assert (link.netloc, link.path) == ("hub.example.org", "/hub/user-redirect/git-pull")
    assert parse_qs(link.query) == {
        "repo": [address],
        "branch": ["f 1"],
        "urlpath": ["lab/tree/llm-lab/README.md"],
    }
    assert main(["student-repo"]) == 2
    assert main(["student-repo", "--link", "hub.example.org", address]) == 2
