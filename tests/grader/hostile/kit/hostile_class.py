"""A class in a course of its own: honest students before and after each hostile group, secrets."""

import copy
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from hostile_submissions import Submission

from grader.course import Course
from grader.notebooks import Notebook, grade_id, is_solution, read_notebook, source, write_notebook
from grader.solved import without_markers
from grader.transplant import transplant

LAB = "lab03_lora"
BY_A_PERSON = "first_step"
KEPT = ("PATH", "LANG", "PYTHONPATH", "GRADER_CONTAINER", "DOCKER_HOST", "XDG_RUNTIME_DIR")
RECEIVED = 1_700_000_000
HONEST = {"perfect": 32.0, "half": 17.0, "wrong": 28.0, "blank": 0.0}
HALF = ("lora_delta", "lora_linear", "apply_lora")
WRONG_DELTA = (
    "def lora_delta(lora_A, lora_B, alpha, use_rslora=False):\n    return alpha * lora_B @ lora_A\n"
)
GROUPS = (4, 9, 13, 18, 22, 25, 28, 31, 33, 35, 37, 40, 43, 45, 48)
SECRET = "planted-{}-7c1f0e"
SECRETS_IN = ("environment", "course", "home", "neighbour")


def secret(where: str) -> str:
    return SECRET.format(where)


@dataclass(frozen=True, kw_only=True, slots=True)
class Class:
    """A course, its instructor's home and the students who submitted."""

    course: Course
    home: Path
    scratch: Path
    honest: dict[str, float]
    hostile: dict[str, Submission] = field(default_factory=dict)
    port: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What the grader is started with: a secret, a home and a scratch folder of its own."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return kept | {
            "HOME": str(self.home),
            "TMPDIR": str(self.scratch),
            "COURSE_TOKEN": secret("environment"),
            "NBGRADER_EXECUTION": "autograde",
            "OMP_NUM_THREADS": "1",
        }


def solved(course: Course) -> tuple[Notebook, Notebook]:
    """The notebook of a student who solved everything, and the released one."""
    release = read_notebook(course.release(LAB))
    return transplant(release, without_markers(read_notebook(course.source(LAB)))).notebook, release


def build(
    released: Course, root: Path, submissions: list[Submission], honest: list[str], port: int
) -> Class:
    """Copy a released course to `root`/course and submit for everybody.

    Everything there may be read by every user of the machine: what keeps a submission from it is
    its box alone.
    """
    course = Course(root=root / "course")
    shutil.copytree(released.root, course.root, ignore=shutil.ignore_patterns("submitted"))
    (root / "home" / ".ssh").mkdir(parents=True)
    (root / "home" / ".ssh" / "id_ed25519").write_text(secret("home"))
    (course.root / "tokens.txt").write_text(secret("course"))
    course.seed_key.write_text(hashlib.sha256(secret("key").encode()).hexdigest())
    (root / "scratch").mkdir(mode=0o1777)
    made = Class(
        course=course,
        home=root / "home",
        scratch=root / "scratch",
        honest={name: HONEST[name.rpartition("-")[2]] for name in honest},
        hostile={name: s for s in submissions for name in s.students or (student_of(s),)},
        port=port,
    )
    full, release = solved(course)
    for name in honest:
        path = course.submitted(LAB, name)
        write_notebook(path, honest_notebook(name, full, release))
        os.utime(path.parent, (RECEIVED, RECEIVED))
    known = {"course": str(course.root), "home": str(made.home), "port": str(port)}
    for name, submission in made.hostile.items():
        submission.write(course.root / "submitted" / name / LAB, full, release, known)
    return made


def student_of(submission: Submission) -> str:
    return f"s{submission.name.replace('_', '-')}"


def honest_students() -> list[str]:
    """All four kinds before and after everybody, one of them after each group of rows."""
    between = [f"s{row:02d}-zz-{list(HONEST)[i % 4]}" for i, row in enumerate(GROUPS)]
    return [*(f"s00-{kind}" for kind in HONEST), *between, *(f"s99-{kind}" for kind in HONEST)]


def honest_notebook(name: str, full: Notebook, release: Notebook) -> Notebook:
    """An honest student's notebook, unlike every other's: none may be graded in another's place."""
    kind = name.rpartition("-")[2]
    notebook = copy.deepcopy(full if kind in ("perfect", "wrong") else release)
    for cell, answer in zip(notebook["cells"], full["cells"], strict=True):
        if kind == "half" and grade_id(cell) in HALF:
            cell["source"] = source(answer)
        if kind == "wrong" and grade_id(cell) == "lora_delta":
            cell["source"] = WRONG_DELTA
    if kind != "blank":
        last = [cell for cell in notebook["cells"] if is_solution(cell)][-1]
        last["source"] = f"{source(last)}\n# {name} {secret('neighbour')}\n"
    return notebook
