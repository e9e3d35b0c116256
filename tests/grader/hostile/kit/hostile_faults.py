"""Orders runs of the grader that something happens to, and compares what is there afterwards."""

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hostile_machine
import hostile_runs
from hostile_class import LAB, Class

from grader.course import Course
from grader.manual import answers
from grader.notebooks import read_notebook

SERVER = Path(__file__).with_name("faulty_grader.py")
NEVER = -1
MOST_SHOWN = 6
IDENTIFIER = re.compile("[0-9a-f]{32}")
UNSCORED = """
    SELECT base_cell.name FROM grade JOIN base_cell ON base_cell.id = grade.cell_id
    WHERE grade.auto_score IS NULL
"""
GRADED = ("reports", "autograded", "feedback", "gradebook.db", "submitted", "attempts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a run ended: its exit status, or a negative signal; what it printed, what it left."""

    code: int
    printed: str
    left: list[str]
    steps: list[str]


class NoGradersError(RuntimeError):
    """The process that graders are forked from did not start."""


class Graders:
    """Runs the grader in forks of a process that has imported everything."""

    def __init__(self, *arguments: str) -> None:
        self._aside = TemporaryDirectory()
        self._printed, self._steps = (Path(self._aside.name, n) for n in ("printed", "steps"))
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._answer()
        except AssertionError as error:
            self.close()
            raise NoGradersError(str(error)) from None

    @property
    def root(self) -> Path:
        """The root of its file systems, as this process sees it."""
        return Path(f"/proc/{self._process.pid}/root")

    def run(
        self,
        made: Class,
        *arguments: str,
        at: int = NEVER,
        does: str = "kill",
        file_bytes: int = 0,
        after_s: float | None = None,
        when_seen: str = "",
        busy_timeout_s: float = 30.0,
    ) -> Ended | None:
        """Grade a class; None when the run has stopped at its step."""
        self._steps.unlink(missing_ok=True)
        tier = () if "--tier" in arguments else ("--broker", "none")
        order = {
            "root": self._inside(str(made.course.root)),
            "arguments": ["autograde", LAB, *tier, *arguments],
            "environment": {n: self._inside(value) for n, value in made.environment.items()},
            "printed": str(self._printed),
            "steps": str(self._steps),
            "made_up": "--tier" not in arguments,
            "busy_timeout_s": busy_timeout_s,
            "at": at,
            "does": does,
            "file_bytes": file_bytes,
            "after_s": after_s,
            "when_seen": when_seen,
        }
        return self._ordered(order)

    def _inside(self, path: str) -> str:
        """A path as the graders see it."""
        return path.removeprefix(str(self.root))

    def go_on(self, signal: str = "SIGCONT") -> Ended | None:
        """Let a stopped run go on, or send it another signal."""
        return self._ordered({"signal": signal})

    def _ordered(self, order: dict[str, Any]) -> Ended | None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "stopped" in answer:
            return None
        return Ended(
            printed=self._printed.read_text(errors="replace"),
            steps=json.loads(self._steps.read_text()) if self._steps.exists() else [],
            **answer,
        )

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that graders are forked from has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.communicate()
        self._aside.cleanup()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """All that grading leaves: rows, results without times, files, receipts."""

    rows: dict[str, list[str]]
    results: dict[str, Any]
    files: list[str]
    receipts: dict[str, int]
    scratch: list[str]

    def unlike(self, other: "Outcome") -> list[str]:
        """What is in one and not in the other; at most some of it."""
        ours, theirs = (
            {
                f"{name} {one}"
                for name, several in asdict(outcome).items()
                for one in listed(several)
            }
            for outcome in (self, other)
        )
        return sorted(ours ^ theirs)[:MOST_SHOWN]

    @classmethod
    def of(cls, made: Class) -> "Outcome":
        root, results = made.course.root, hostile_runs.results(made.course)
        names = [name for name in GRADED if (root / name).exists()]
        inside = [
            f"{name}/{path}" for name in names for path in hostile_machine.everything(root / name)
        ]
        submitted = (root / "submitted").glob(f"*/{LAB}")
        return cls(
            rows=rows(made.course.gradebook),
            results={student: hostile_runs.untimed(result) for student, result in results.items()},
            files=sorted([*inside, *(path.name for path in root.iterdir())]),
            receipts={path.parent.name: path.stat().st_mtime_ns for path in submitted},
            scratch=sorted(hostile_machine.everything(made.scratch)),
        )


@contextmanager
def a_copy_of(gradebook: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a gradebook and its journal: reading the gradebook itself would already mend it."""
    with TemporaryDirectory() as folder:
        for path in gradebook.parent.glob(f"{gradebook.name}*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder, gradebook.name))) as book:
            assert book.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            yield book


def listed(several: Any) -> list[str]:
    """The items of a list, or of a dictionary of lists or other things."""
    if isinstance(several, list):
        return [str(one) for one in several]
    return [
        f"{name}: {one}"
        for name, found in several.items()
        for one in (found if isinstance(found, list) else [found])
    ]


def rows(gradebook: Path) -> dict[str, list[str]]:
    """All rows of a gradebook by table, in place of each identifier what has it."""
    with a_copy_of(gradebook) as book:
        book.row_factory = sqlite3.Row
        names = [
            row[0] for row in book.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        tables = {
            name: [dict(row) for row in book.execute(f"SELECT * FROM {name}")] for name in names
        }
    having: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for table, found in tables.items():
        for row in found:
            if IDENTIFIER.fullmatch(str(row.get("id"))):
                having.setdefault(row["id"], []).append((table, row))

    @cache
    def meaning(value: Any) -> str:
        if not isinstance(value, str) or value not in having:
            return repr(value)
        text = str(sorted(f"{table} {told(row)}" for table, row in having[value]))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def told(row: dict[str, Any]) -> str:
        own = {"id"} if row.get("id") in having else set()
        return str({name: meaning(row[name]) for name in sorted(set(row) - own)})

    return {table: sorted(told(row) for row in found) for table, found in tables.items()}


def check_nothing_is_half_written(made: Class) -> None:
    """Each result can be read, each submission is in the gradebook with all its scores or not."""
    hostile_runs.results(made.course)
    if not made.course.gradebook.exists():
        return
    by_a_person = answers(read_notebook(made.course.release(LAB)))
    with a_copy_of(made.course.gradebook) as book:
        names = book.execute(UNSCORED).fetchall()
    assert {name for (name,) in names} <= set(by_a_person)


def copied(made: Class, root: Path) -> Class:
    """The same class in another place, times of modification kept."""
    shutil.copytree(made.course.root.parent, root, dirs_exist_ok=True)
    return Class(
        course=Course(root=root / made.course.root.name),
        home=root / made.home.name,
        scratch=root / made.scratch.name,
        honest=made.honest,
        hostile=made.hostile,
    )
