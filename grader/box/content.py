"""What a box sees of the course: labkit without what the lab teaches, the runner, the drive."""

import shutil
from pathlib import Path

import grader
import labkit
from grader.checks.core import Lab

INERT_LEARNER = '''"""In the sandbox the check line does nothing: answers are compared outside."""


class _Check:
    def __call__(self, name, impl):
        pass

    hidden = __call__


def lab(name):
    return _Check()
'''
GRADER_FILES = (
    "__init__.py",
    "box/__init__.py",
    "box/calls.py",
    "box/frames.py",
    "box/isolation.py",
    "box/linux.py",
    "box/lockdown.py",
    "box/runner.py",
    "box/wire.py",
    "box/zygote.py",
    "checks/__init__.py",
    "checks/explain.py",
    "checks/outside.py",
    "checks/values.py",
    "labs/__init__.py",
)
LAB_FILES = ("__init__.py", "drive.py", "given.py")  # the last where a drive has one


def _package(module: object) -> Path:
    return Path(str(getattr(module, "__file__", ""))).parent


def build(lab: Lab, folder: Path) -> Path:
    """Copy into `folder` what the lab's submissions may import of the course.

    Args:
        lab: Its `teaches` modules, and everything compiled from them, are left out.
        folder: A folder that is not there yet.

    Returns:
        The folder, to be bound read-only and put first on the box's path.
    """
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(_package(labkit), folder / "labkit", ignore=skipped)
    for module in lab.teaches:
        path = folder.joinpath(*module.split("."))
        path.with_suffix(".py").unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    own = (f"labs/{lab.name}/{name}" for name in LAB_FILES)
    for name in (*GRADER_FILES, *own):
        source, target = _package(grader) / name, folder / "grader" / name
        if source.is_file() or name in GRADER_FILES:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    (folder / "grader" / "checks" / "learner.py").write_text(INERT_LEARNER)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder
