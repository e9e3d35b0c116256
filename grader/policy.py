"""The course's rules for lateness, attempts and isolation: `policy.toml` in the course's root.

    [sandbox]
    least = "namespaces"        # weaker tiers are refused (default "rlimits": none is)

    [late]                      # for all labs; a lab's own [labs.NAME.late] replaces it
    grace_minutes = 15          # this late costs nothing (default 0)
    per = "day"                 # the penalty grows with each started "day" (default) or "hour"
    share = 0.1                 # of the points earned, each time (default 0)
    cap = 0.5                   # the penalty is at most this share (default 1)
    zero_after_days = 7         # later than this, nothing is earned (default never)

    [attempts]                  # or [labs.NAME.attempts]
    counts = "latest"           # or "best" (after penalties) or "first"
    most = 3                    # attempts after the third do not count (default no limit)

    [labs.lab03_lora]
    due = 2026-03-01T23:59:00+01:00
    excused = ["ada"]           # never late; and whoever adds up scores leaves the lab out

    [labs.lab03_lora.extensions]
    ben = 2026-03-08T23:59:00+01:00

Everything may be left out. When a submission arrived is the server's time, not the student's.
Without the file, due dates and penalties in the gradebook are not touched.
"""

import math
import sqlite3
import tomllib
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from grader.box.tier import Tier
from grader.course import Course

FILE = "policy.toml"
PERIODS = {"day": timedelta(days=1), "hour": timedelta(hours=1)}
COUNTS = ("latest", "best", "first")
MAX_GRACE_MINUTES = 7 * 24 * 60
NAMES_SHOWN = 20
STUDENTS = "the students known so far (`nbgrader db student add ID` adds one)"
ForStudents = Mapping[str, datetime]


@dataclass(frozen=True, kw_only=True, slots=True)
class Late:
    """What lateness costs, as a share of the points earned."""

    grace_minutes: float = 0
    per: str = "day"
    share: float = 0
    cap: float = 1
    zero_after_days: float = math.inf

    def share_lost(self, late: timedelta) -> float:
        if late <= timedelta(minutes=self.grace_minutes):
            return 0.0
        if late / PERIODS["day"] > self.zero_after_days:
            return 1.0
        return min(self.cap, self.share * math.ceil(late / PERIODS[self.per]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempts:
    """Which of a student's attempts counts."""

    counts: str = "latest"
    most: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabPolicy:
    """One lab's rules."""

    due: datetime | None = None
    late: Late = Late()
    attempts: Attempts = Attempts()
    extensions: ForStudents = field(default_factory=dict)
    excused: frozenset[str] = frozenset()

    def due_for(self, student: str) -> datetime | None:
        return self.extensions.get(student, self.due)

    def share_lost(self, student: str, received: datetime) -> float:
        """The share of the points earned that lateness costs a student."""
        due = self.due_for(student)
        if due is None or student in self.excused:
            return 0.0
        return self.late.share_lost(received - due)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The course's rules; `lab` gives those of one lab."""

    every: LabPolicy = field(default_factory=LabPolicy)
    labs: Mapping[str, LabPolicy] = field(default_factory=dict)
    least: Tier = Tier.RLIMITS

    def refuse_below(self, tier: Tier) -> None:
        """ValueError if submissions may not be held in this tier."""
        if not tier.holds_as_well_as(self.least):
            raise ValueError(
                f"{FILE} asks for the tier {self.least} or a stronger one, and this is {tier}: "
                f"nothing was graded; use --tier {self.least}"
            )

    def lab(self, name: str) -> LabPolicy:
        return self.labs.get(name, self.every)


def load_policy(course: Course) -> Policy | None:
    """Read the course's policy; None where it has none.

    Raises:
        ValueError: The file is not TOML, or a key, lab, student, date or value is not one it
            may have.
    """
    path = course.root / FILE
    if not path.exists():
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{FILE} is not valid TOML: {error}") from None
    return parse(content, labs=_labs(course), students=_students(course))


def parse(
    content: Mapping[str, Any], *, labs: Collection[str], students: Collection[str]
) -> Policy:
    """Turn a policy's tables into a `Policy`, naming the first thing wrong with them."""
    _only("", content, ("sandbox", "late", "attempts", "labs"))
    every = LabPolicy(late=_late(content, ""), attempts=_attempts(content, ""))
    tables = _table(content, "", "labs")
    _known("labs", tables, labs, "the course's labs")
    return Policy(
        every=every,
        labs={name: _lab(tables, name, every, students) for name in tables},
        least=_least(content),
    )


def _least(content: Mapping[str, Any]) -> Tier:
    table = _table(content, "", "sandbox")
    _only("sandbox.", table, ("least",))
    weakest_first = tuple(str(tier) for tier in reversed(Tier))
    return Tier(_choice(table, "sandbox.", "least", weakest_first))


def _lab(
    tables: Mapping[str, Any], name: str, every: LabPolicy, students: Collection[str]
) -> LabPolicy:
    where, table = f"labs.{name}.", _table(tables, "labs.", name)
    _only(where, table, ("due", "excused", "extensions", "late", "attempts"))
    due = _moment(table, where, "due") if "due" in table else None
    extensions = _table(table, where, "extensions")
    _known(f"{where}extensions", extensions, students, STUDENTS)
    return LabPolicy(
        due=due,
        late=_late(table, where) if "late" in table else every.late,
        attempts=_attempts(table, where) if "attempts" in table else every.attempts,
        extensions={
            student: _extension(extensions, f"{where}extensions.", student, due)
            for student in extensions
        },
        excused=_excused(table, where, students),
    )


def _late(table: Mapping[str, Any], where: str) -> Late:
    found, where = _table(table, where, "late"), f"{where}late."
    _only(where, found, ("grace_minutes", "per", "share", "cap", "zero_after_days"))
    return Late(
        grace_minutes=_number(found, where, "grace_minutes", 0.0, MAX_GRACE_MINUTES),
        per=_choice(found, where, "per", tuple(PERIODS)),
        share=_number(found, where, "share", 0.0, 1.0),
        cap=_number(found, where, "cap", 1.0, 1.0),
        zero_after_days=_number(found, where, "zero_after_days", math.inf, math.inf),
    )


def _attempts(table: Mapping[str, Any], where: str) -> Attempts:
    found, where = _table(table, where, "attempts"), f"{where}attempts."
    _only(where, found, ("counts", "most"))
    most = found.get("most")
    if most is not None and (type(most) is not int or most < 1):
        raise _wrong(where, "most", most, "a whole number from 1")
    return Attempts(counts=_choice(found, where, "counts", COUNTS), most=most)


def _excused(table: Mapping[str, Any], where: str, students: Collection[str]) -> frozenset[str]:
    found = table.get("excused", [])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise _wrong(where, "excused", found, "a list of students")
    _known(f"{where}excused", found, students, STUDENTS)
    return frozenset(found)


def _extension(
    table: Mapping[str, Any], where: str, student: str, due: datetime | None
) -> datetime:
    moment = _moment(table, where, student)
    if due is None or moment < due:
        raise _wrong(where, student, moment, f"later than the lab's due date ({due or 'not set'})")
    return moment


def _moment(table: Mapping[str, Any], where: str, key: str) -> datetime:
    value = table[key]
    if not isinstance(value, datetime) or value.tzinfo is None:
        need = "a date and time with its offset from UTC, as in 2026-03-01T23:59:00+01:00"
        raise _wrong(where, key, value, need)
    return value


def _number(table: Mapping[str, Any], where: str, key: str, default: float, most: float) -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        limit = "" if math.isinf(most) else f" to {most:g}"
        raise _wrong(where, key, value, f"a number from 0{limit}")
    return float(value)


def _choice(table: Mapping[str, Any], where: str, key: str, allowed: tuple[str, ...]) -> str:
    value = table.get(key, allowed[0])
    if value not in allowed:
        raise _wrong(where, key, value, f"one of {', '.join(map(repr, allowed))}")
    return str(value)


def _table(content: Mapping[str, Any], where: str, key: str) -> Mapping[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise _wrong(where, key, value, f"a table, [{where}{key}]")
    return value


def _only(where: str, table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise ValueError(f"{FILE}: unknown key {where}{key}; allowed are {', '.join(allowed)}")


def _known(where: str, names: Collection[str], known: Collection[str], what: str) -> None:
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known)[:NAMES_SHOWN]) or "there are none"
            raise ValueError(f"{FILE}: {where} names {name!r}, which is none of {what}: {listed}")


def _wrong(where: str, key: str, value: object, need: str) -> ValueError:
    text = str(value) if isinstance(value, datetime) else repr(value)
    return ValueError(f"{FILE}: {where}{key} is {text}, must be {need}")


def _labs(course: Course) -> set[str]:
    return {path.stem for path in (course.root / "labs").glob("*/*.ipynb")} | set(course.labs())


def _students(course: Course) -> set[str]:
    handed_in = (path.name for path in (course.root / "submitted").glob("*"))
    collected = (path.name for path in (course.root / "attempts").glob("*/*"))
    return {*handed_in, *collected, *_enrolled(course)}


def _enrolled(course: Course) -> set[str]:
    if not course.gradebook.exists():
        return set()
    # Not read-only: whoever reads first takes back what a killed writer had written half.
    place = f"{course.gradebook.as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(place, uri=True)) as book:
            tables = book.execute("SELECT 1 FROM sqlite_master WHERE name = 'student'").fetchall()
            return {name for (name,) in book.execute("SELECT id FROM student")} if tables else set()
    except sqlite3.OperationalError as error:
        raise OSError(
            f"the gradebook {course.gradebook} cannot be read ({error}): close formgrader or "
            "whatever else has it open, then run the command again"
        ) from None
