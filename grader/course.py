"""Where a course keeps its files, and nbgrader's configuration for it."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from traitlets.config import Config

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")


def is_safe_name(name: str) -> bool:
    """Whether a student's or lab's name may be a folder's name."""
    return bool(SAFE_NAME.fullmatch(name)) and not name.endswith(".")


def safe_name(name: str, what: str) -> str:
    """Return a student's or lab's name if it may be a folder's name; ValueError otherwise."""
    if not is_safe_name(name):
        raise ValueError(
            f"{what} {name[:40]!r} must be 1 to 100 letters, digits or _ . @ - and begin with "
            "a letter or digit"
        )
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """The folders of a course, all below `root`."""

    root: Path

    @property
    def gradebook(self) -> Path:
        return self.root / "gradebook.db"

    @property
    def seed_key(self) -> Path:
        """The secret that makes each submission's inputs unpredictable and reproducible."""
        return self.root / "gradebook.db.key"

    def source(self, lab: str) -> Path:
        return self.root / "solutions" / lab / f"{lab}.ipynb"

    def release(self, lab: str) -> Path:
        return self.root / "labs" / lab / f"{lab}.ipynb"

    def submitted(self, lab: str, student: str) -> Path:
        return self.root / "submitted" / student / lab / f"{lab}.ipynb"

    def autograded(self, lab: str, student: str) -> Path:
        return self.root / "autograded" / student / lab / f"{lab}.ipynb"

    def reports(self, lab: str) -> Path:
        return self.root / "reports" / lab

    def result(self, lab: str, student: str) -> Path:
        return self.reports(lab) / "results" / f"{student}.json"

    def cache(self, lab: str) -> Path:
        return self.reports(lab) / "cache"

    def feedback(self, lab: str, student: str) -> Path:
        return self.root / "feedback" / student / lab / f"{lab}.html"

    def labs(self) -> list[str]:
        """Names of the labs there are sources for."""
        paths = (self.root / "solutions").glob("*/*.ipynb")
        return sorted(path.stem for path in paths if path.stem == path.parent.name)

    def students(self, lab: str) -> list[str]:
        """Names of the students who have a folder for this lab, in a fixed order."""
        return sorted(path.parent.name for path in (self.root / "submitted").glob(f"*/{lab}"))

    def nbgrader_config(self) -> Config:
        """nbgrader's settings for these folders, the same as nbgrader_config.py's."""
        config = Config()
        config.CourseDirectory.root = str(self.root)
        config.CourseDirectory.source_directory = "solutions"
        config.CourseDirectory.release_directory = "labs"
        config.CourseDirectory.db_url = f"sqlite:///{self.gradebook}"
        return config


def find_course(start: Path | None = None) -> Course:
    """Find the course root at or above a folder; ValueError if there is none."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "nbgrader_config.py").is_file():
            return Course(root=folder)
    raise ValueError(f"no nbgrader_config.py at or above {here}: run this inside the course")


def add_tools_to_path() -> None:
    """Let nbgrader find `alembic`, which it starts by name, when the environment is not active."""
    tools = str(Path(sys.executable).parent)
    if tools not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = tools + os.pathsep + os.environ.get("PATH", "")
