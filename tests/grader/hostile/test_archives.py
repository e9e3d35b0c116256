"""Row 28: archives that hurt whoever unpacks them. `grader collect` takes in the others' work.

Each file of `archives/` adds a student, mallory, to an archive between two honest ones (`add`), or
spoils the whole archive (`spoil`). What must become of it stands in its header: `refused`, `taken`,
`damaged` (what could be read is taken), `unreadable` (nothing is) or `named` (students get ids).
"""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path

import hostile_machine
import hostile_runs
import pytest
from hostile_class import LAB, Class
from hostile_submissions import header

from grader.course import Course, is_safe_name

ARCHIVES = sorted(Path(__file__).with_name("archives").glob("*.py"))
HONEST = ("aa-honest", "zz-honest")
STATUS = {"refused": 0, "taken": 0, "named": 0, "damaged": 1, "unreadable": 2}
MOST_BYTES = 400 * 2**20
MOST_SECONDS = 30.0


@pytest.fixture
def made(course: Course) -> Iterator[Class]:
    """A released course that nobody has submitted to."""
    with hostile_runs.a_root() as root:
        for name in ("solutions", "labs", "nbgrader_config.py"):
            source, target = course.root / name, root / "course" / name
            target.parent.mkdir(exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        (root / "home").mkdir()
        (root / "scratch").mkdir()
        course = Course(root=root / "course")
        yield Class(course=course, home=root / "home", scratch=root / "scratch", honest={})


def packed(path: Path, notebook: bytes) -> tuple[bytes, str]:
    """The archive that a file of `archives/` makes, and its suffix."""
    functions, suffix = run_path(str(path)), header(path).get("format", ["zip"])[0]
    add = functions.get("add", lambda archive, notebook: None)
    content = io.BytesIO()
    first, last = (f"{name}/{LAB}/{LAB}.ipynb" for name in HONEST)
    if suffix == "zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(first, notebook)
            add(archive, notebook)
            archive.writestr(last, notebook)
    else:
        with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as tar:
            _add(tar, first, notebook)
            add(tar, notebook)
            _add(tar, last, notebook)
    spoil = functions.get("spoil", lambda content: content)
    return spoil(content.getvalue()), suffix


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.stem)
def test_an_archive_costs_the_honest_nothing(made: Class, path: Path) -> None:
    fields, notebook = header(path), made.course.source(LAB).read_bytes()
    expect = fields["expect"][0]
    content, suffix = packed(path, notebook)
    source = made.home.with_name(f"handed-in.{suffix}")
    source.write_bytes(content)
    around = hostile_runs.digests(made.course.root, ("solutions", "labs"))

    code, printed, report = hostile_runs.run(made, "collect", LAB, str(source))

    assert code == STATUS[expect], printed
    assert "Traceback" not in printed
    assert report["peak_bytes"] < MOST_BYTES
    assert hostile_runs.digests(made.course.root, ("solutions", "labs")) == around
    assert hostile_machine.escaped(made.home.parent) == []
    assert list(hostile_machine.everything(made.scratch)) == []
    for text in fields.get("says", ()):
        assert text in printed
    taken = students(made)
    assert taken >= ({"mallory"} if expect == "taken" else set())
    assert expect in ("taken", "named") or "mallory" not in taken
    assert expect in ("damaged", "unreadable") or taken >= set(HONEST)
    assert expect in ("damaged", "unreadable") or expect != "refused" or refused(made)
    for student in taken:
        assert is_safe_name(student)
        assert made.course.submitted(LAB, student).read_bytes() == notebook


def students(made: Class) -> set[str]:
    """Whose submission was taken; there is nothing in `submitted/` but files and folders."""
    submitted = made.course.root / "submitted"
    for path in hostile_machine.everything(submitted):
        assert (submitted / path).is_dir() or (submitted / path).is_file()
        assert not (submitted / path).is_symlink()
    return {path.parent.name for path in submitted.glob(f"*/{LAB}")}


def refused(made: Class) -> bool:
    """Whether the report says of something why it was not taken."""
    [manifest] = (made.course.reports(LAB) / "collected").glob("*.json")
    found = json.loads(manifest.read_text())
    return any(s["why"] for s in (*found["submissions"], *found["strays"]))
