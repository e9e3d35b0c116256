"""The published repository: complete, clean, updated in place, and its README works there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from grader.cli.main import main
from grader.course import Course
from grader.notebooks import grade_id, is_solution, read_notebook, source, write_notebook
from grader.release import publication, student_repo
from grader.release.generate import LeakError, all_answers
from grader.solved import without_markers
from grader.transplant import transplant

# Slow; `test_stale_labs_are_refused` tests it, and `test_release.py` that labs/ is fresh.
NOT_AGAIN = lambda course: None  # noqa: E731
SITE_PACKAGES = sysconfig.get_path("purelib")
CHECK_CELLS = """
import json, sys
from grader.checks.learner import CheckFailed
import grader
assert grader.__file__.startswith(sys.argv[1] + "/"), grader.__file__
for lab in sys.argv[2:]:
    verdicts = {}
    for name, path in (("released", f"labs/{lab}/{lab}.ipynb"), ("solved", f"solved/{lab}.ipynb")):
        scope = {"__name__": "notebook"}
        for cell in json.load(open(path))["cells"]:
            grader_metadata = cell["metadata"].get("nbgrader", {})
            if cell["cell_type"] != "code" or not grader_metadata:
                continue
            try:
                exec("".join(cell["source"]), scope)
                said = "silent"
            except CheckFailed as error:
                said = str(error)
            if grader_metadata["grade_id"].startswith("check_"):
                verdicts.setdefault(grader_metadata["grade_id"], {})[name] = said
    print(json.dumps({lab: verdicts}))
"""


@pytest.fixture(scope="module")
def repo(real_course: Course, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, written once; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("published") / "llm-engineering-lab"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student_repo, "_require_fresh_labs", NOT_AGAIN)
        changes = student_repo.write(real_course, folder)
    assert changes.unchanged == len(changes.removed) == 0
    return folder


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def labs_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_repo, "_require_fresh_labs", NOT_AGAIN)


@pytest.fixture
def own_copy(repo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repo, tmp_path / "copy"))


def solved(course: Course, lab: str, path: Path) -> None:
    """Write the lab's notebook with all exercises solved."""
    release = read_notebook(course.release(lab))
    answers = without_markers(read_notebook(course.source(lab)))
    write_notebook(path, transplant(release, answers).notebook)


def test_what_is_there_and_what_is_not(repo: Path, real_course: Course) -> None:
    found = files(repo)
    for lab in real_course.labs():
        assert f"labs/{lab}/{lab}.ipynb" in found
        assert (repo / f"labs/{lab}/{lab}.ipynb").read_bytes() == real_course.release(
            lab
        ).read_bytes()
        assert {f"grader/labs/{lab}/{name}" for name in ("public.bin", "drive.py")} <= found
    assert {"README.md", "AGENTS.md", "LICENSE", "Makefile", "nbgrader_config.py"} <= found
    assert {"labkit/tuning/lora.py", "datasets/mini/model.safetensors"} <= found
    wrong = re.compile(r"solutions|mutant|reference|envelope\.py|gradebook|autograde|release|tests")
    assert [name for name in found if wrong.search(name)] == []
    text = "".join(
        path.read_text() for path in (repo / "grader").rglob("*.py") if "labs" in path.parts
    )
    assert "IMPLEMENTATIONS" not in text
    assert "_inputs(rng" not in text


def test_lectures_keep_their_outputs(repo: Path, real_course: Course) -> None:
    lectures = [name for name in files(repo) if name.startswith("chapters/")]
    assert lectures
    for name in lectures:
        assert (repo / name).read_bytes() == (real_course.root / name).read_bytes()


def test_links_of_its_documents_lead_somewhere(repo: Path) -> None:
    for name in ("README.md", "AGENTS.md"):
        text = (repo / name).read_text()
        assert "$" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL), name
        links = re.findall(r"\]\(([^)#]+)\)", text)
        assert [link for link in links if not (repo / link).exists()] == []


def test_check_cells_judge_every_exercise_of_every_lab(
    repo: Path, real_course: Course, tmp_path: Path
) -> None:
    labs = real_course.labs()
    for lab in labs:
        solved(real_course, lab, tmp_path / "solved" / f"{lab}.ipynb")
    (tmp_path / "labs").symlink_to(repo / "labs")
    done = subprocess.run(
        [sys.executable, "-c", CHECK_CELLS, str(repo), *labs],
        cwd=tmp_path,
        env={"PYTHONPATH": str(repo), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        for lab, verdicts in json.loads(line).items():
            assert len(verdicts) >= 5, lab
            for name, said in verdicts.items():
                assert said["solved"] == "silent", (lab, name, said)
                assert "is not written yet" in said["released"], (lab, name, said)


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


def test_the_readme_works_there(installed: Path, real_course: Course, tmp_path: Path) -> None:
    text = (installed / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    lab = real_course.labs()[0]
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
    assert "0 of 6 exercises pass" in done.stdout
    solved(real_course, lab, installed / "labs" / lab / f"{lab}.ipynb")
    done = run(installed, check)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 exercises pass" in done.stdout
    done = run(installed, progress)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{lab} +6/6", done.stdout)
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


@pytest.mark.parametrize("position", [1, 2, 3])
def test_every_lab_is_checked_there_in_a_terminal(
    own_copy: Path, real_course: Course, position: int
) -> None:
    if position >= len(real_course.labs()):
        pytest.skip("the README's test has checked it")
    lab = real_course.labs()[position]
    path = own_copy / "labs" / lab / f"{lab}.ipynb"
    solved(real_course, lab, path)
    notebook = read_notebook(path)
    first = next(cell for cell in notebook["cells"] if is_solution(cell))
    release = read_notebook(real_course.release(lab))
    first["source"] = next(source(c) for c in release["cells"] if grade_id(c) == grade_id(first))
    write_notebook(path, notebook)
    done = run(
        own_copy, f"{sys.executable} -m grader.cli.learner check {lab}", PYTHONPATH=str(own_copy)
    )
    assert done.returncode == 1, done.stderr
    total = len([cell for cell in notebook["cells"] if is_solution(cell)])
    assert f"{total - 1} of {total} exercises pass" in done.stdout, done.stdout


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


def test_a_folder_with_other_files_is_refused(
    real_course: Course, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["--root", str(real_course.root), "student-repo", str(tmp_path)]) == 2
    assert "is not empty and was not written by" in capsys.readouterr().err
    assert files(tmp_path) == {"mine.txt"}
    with pytest.raises(ValueError, match="holds the course itself"):
        student_repo.write(real_course, real_course.root)


def test_stale_labs_are_refused(course: Course, tmp_path: Path) -> None:
    own, lab = Course(root=tmp_path / "course"), course.labs()[0]
    for folder in ("solutions", "labs"):
        shutil.copytree(course.root / folder, own.root / folder)
    student_repo._require_fresh_labs(own)
    own.release(lab).write_text(own.release(lab).read_text().replace("Hint 1", "Hint one"))
    with pytest.raises(ValueError, match=rf"run it first. Stale: labs/{lab}/{lab}.ipynb"):
        student_repo.write(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


PLANTED = {
    "solutions/lab.txt": ("x", "a folder called 'solutions'"),
    "notes/gradebook.db": ("x", "a file of this name"),
    "notes/reference.py": ("x", "a file of this name"),
    "notes/answer.md": ("scaling = alpha / math.sqrt(R) if use_rslora else 1", "lab03_lora/lora_d"),
    "notes/hidden.py": ('    check.hidden("diagnose", diagnose)', "a line of the hidden tests"),
    "notes/marked.py": ("### BEGIN SOLUTION", "the marker ### BEGIN SOLUTION"),
    "notes/key.txt": ("-----BEGIN OPENSSH PRIVATE KEY-----", "looks like a secret key"),
    "notes/token.txt": ("ghp_" + 36 * "a", "looks like a secret key"),
    "notes/home.txt": ("see /home/someone/course/", "a path of some machine, /home/someone/"),
    "notes/env.txt": ("x=planted-value-of-a-token", "the value of $PLANTED_TOKEN"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_last_scan_finds_what_was_planted(
    real_course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", "planted-value-of-a-token")
    text, why = PLANTED[name]
    path = tmp_path / "planted"
    path.write_text(text)
    (found,) = publication.scan(real_course, {name: path}, all_answers(real_course))
    assert found.startswith(f"{name}: ")
    assert why in found


def test_the_last_scan_reads_cells_outputs_paths_and_the_key(
    real_course: Course, tmp_path: Path
) -> None:
    course = Course(root=tmp_path / "course")
    shutil.copytree(real_course.root / "solutions", course.root / "solutions")
    course.seed_key.write_text(64 * "5")
    lab = course.labs()[0]
    answer = next(c for c in read_notebook(course.source(lab))["cells"] if is_solution(c))
    text = [line for line in source(answer).splitlines() if "###" not in line]
    cells = [
        {"cell_type": "code", "metadata": {}, "source": text, "outputs": []},
        {"cell_type": "code", "metadata": {}, "source": "", "outputs": [{"text": text}]},
    ]
    for index, cell in enumerate(cells):
        write_notebook(tmp_path / f"{index}.ipynb", {"nbformat": 4, "cells": [cell]})
    (tmp_path / "2.bin").write_bytes(b"\xff" + 64 * b"5")
    (tmp_path / "3.txt").write_text(f"{course.root}/solutions")
    planted = {path.name: path for path in tmp_path.glob("?.*")}
    found = publication.scan(course, planted, all_answers(course))
    assert [line.partition(":")[0] for line in found] == ["0.ipynb", "1.ipynb", "2.bin", "3.txt"]


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
    link = urlsplit(capsys.readouterr().out.strip())
    assert (link.netloc, link.path) == ("hub.example.org", "/hub/user-redirect/git-pull")
    assert parse_qs(link.query) == {
        "repo": [address],
        "branch": ["f 1"],
        "urlpath": ["lab/tree/llm-lab/README.md"],
    }
    assert main(["student-repo"]) == 2
    assert main(["student-repo", "--link", "hub.example.org", address]) == 2
