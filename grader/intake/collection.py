"""Collect a lab's submissions from a folder or an archive; see `grader collect --help`.

When a submission was received is no time that its student wrote. In nbgrader's exchange, where
`nbgrader submit` runs as the student and names and dates the folder, it is the time at which the
kernel last saw the folder or a file in it change. Elsewhere it is the latest time that the source's
files carry: what the platform, the clone or the archive gave them on their way to the instructor;
where students themselves write into such a folder, the instructor must say the time. A time in the
future is taken as now.
"""

import fcntl
import os
import pwd
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from grader.course import Course
from grader.intake.archives import opened
from grader.intake.layouts import Layout, assignment_of, choose, layouts
from grader.intake.limits import Limits, RefusedError
from grader.intake.manifest import Manifest, Refusal, Submission, TakenFile
from grader.intake.placing import Assembled, Place, State, assemble, latest
from grader.intake.reading import Gathered, Reading
from grader.intake.roster import Roster
from grader.notebooks import Notebook, read_notebook

STAGING = ".collecting"
TOLERANCE_S = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to read a source.

    Attributes:
        layout: One of `layouts.LAYOUTS`.
        assignment: GitHub Classroom's name of the assignment; found out if it is empty.
        received: When everything was received, but for what Canvas marked late.
        trust_names: Take an exchange's times from its folders' names, as in a copy of one.
        dry_run: Read and decide all, change nothing.
    """

    layout: str = "auto"
    assignment: str = ""
    received: datetime | None = None
    trust_names: bool = False
    dry_run: bool = False
    limits: Limits = field(default_factory=Limits)


def collect(
    course: Course, lab: str, source: Path, roster: Roster, options: Options | None = None
) -> Manifest:
    """Take a source's submissions into `submitted/`; one that is refused costs no other anything.

    Raises:
        ValueError: The lab is not released, the source is nothing that can be read, or another
            collecting is going on.
    """
    options = options or Options()
    if not course.release(lab).is_file():
        raise ValueError(f"{lab} is not released: run `grader release {lab}` first")
    release = read_notebook(course.release(lab))
    with opened(source, options.limits) as content, _staging(course, options.dry_run) as staging:
        names = content.names()
        others = set(course.labs()) - {lab}
        assignment = options.assignment or assignment_of(source.resolve().name, names)
        layout = choose(layouts(lab, others, assignment), options.layout, lab, names)
        reading = Reading(lab, layout, options.limits, staging)
        reading.run(content)
        collecting = _Collecting(course, lab, release, roster, options, staging, layout)
        return collecting.place(reading, source)


@contextmanager
def _staging(course: Course, dry_run: bool) -> Iterator[Path]:
    """An empty folder on `submitted/`'s file system, for one collecting at a time."""
    if dry_run:
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    submitted = course.root / "submitted"
    submitted.mkdir(exist_ok=True)
    lock = os.open(submitted, os.O_RDONLY | os.O_DIRECTORY)
    staging = submitted / STAGING
    try:
        _take_lock(lock)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
        shutil.rmtree(staging)
    finally:
        os.close(lock)


def _take_lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError("another `grader collect` is running in this course") from None


class _Ready(NamedTuple):
    """A submission that only needs its place."""

    gathered: Gathered
    assembled: Assembled
    received: int


class _Collecting:
    """Places what a reading gathered."""

    def __init__(
        self,
        course: Course,
        lab: str,
        release: Notebook,
        roster: Roster,
        options: Options,
        staging: Path,
        layout: Layout,
    ) -> None:
        self._course, self._lab, self._release, self._roster = course, lab, release, roster
        self._options, self._staging, self._layout = options, staging, layout
        self._now = time.time()
        self._freely: set[str] = set()
        self._assemblies = 0

    def place(self, reading: Reading, source: Path) -> Manifest:
        by_student: dict[str, list[Gathered]] = defaultdict(list)
        submissions = []
        users = {gathered.origin.name for gathered in reading.submissions.values()}
        for gathered in reading.submissions.values():
            try:
                self._check_owner(gathered, users)
                by_student[self._student(gathered)].append(gathered)
            except RefusedError as refused:
                gathered.refuse_all(str(refused))
                submissions.append(_refused("", gathered))
        for student in sorted(by_student):
            submissions += self._place_all(student, by_student[student])
        return Manifest(
            lab=self._lab,
            source=str(source),
            layout=self._layout.name,
            collected=datetime.now(UTC),
            limits=self._options.limits,
            roster=bool(self._roster),
            damage=reading.damage,
            named_freely=tuple(sorted(self._freely)),
            submissions=tuple(submissions),
            strays=tuple(Refusal(path=path, why=why) for path, why in reading.strays.items()),
        )

    def _student(self, gathered: Gathered) -> str:
        student = self._roster.student(gathered.origin)
        if student not in self._roster.ids and (self._roster or student != gathered.origin.name):
            self._freely.add(student)
        return student

    def _check_owner(self, gathered: Gathered, users: set[str]) -> None:
        """In an exchange, refuse what belongs to the account of another student who is in it."""
        if self._layout.name != "exchange":
            return
        for owner in map(_account, gathered.owners):
            if owner != gathered.origin.name and owner in users:
                raise RefusedError(f"it belongs to the account {owner!r}", whole=True)

    def _place_all(self, student: str, several: list[Gathered]) -> list[Submission]:
        """Place a student's submissions, of which only an exchange may have several."""
        if len(several) > 1 and self._layout.name != "exchange":
            for gathered in several:
                gathered.refuse_all(
                    f"{len(several)} people here would be {student!r}: use --roster"
                )
        ready = []
        for gathered in several:
            if gathered.why:
                continue
            try:
                ready.append(self._assembled(gathered))
            except RefusedError as refused:
                gathered.refuse_all(str(refused))
        ready.sort(key=lambda each: (each.received, each.gathered.origin.key))
        returned = [_refused(student, gathered) for gathered in several if gathered.why]
        return returned + [self._put(student, each) for each in ready]

    def _assembled(self, gathered: Gathered) -> _Ready:
        self._assemblies += 1
        folder = self._staging / f"submission-{self._assemblies}"
        assembled = assemble(gathered, self._lab, self._release, folder)
        return _Ready(gathered, assembled, self._received(gathered, assembled))

    def _received(self, gathered: Gathered, assembled: Assembled) -> int:
        origin, options = gathered.origin, self._options
        if options.received is not None and not origin.late:
            moment = options.received.timestamp()
        elif self._layout.name != "exchange":
            moment = latest(assembled.files)
        elif origin.stamp is not None and (options.trust_names or not gathered.changed):
            moment = origin.stamp.timestamp()
        else:
            moment = gathered.changed
        return int(moment if 0 < moment < self._now else self._now)

    def _notes(self, ready: _Ready) -> tuple[str, ...]:
        origin, notes = ready.gathered.origin, ready.assembled.notes
        if origin.late:
            notes += ("Canvas marked it late.",)
        given = self._options.received
        if (
            given is None
            and origin.stamp
            and abs(origin.stamp.timestamp() - ready.received) > TOLERANCE_S
        ):
            notes += (f"Its folder's name says {origin.stamp}, the file system another time.",)
        return notes

    def _put(self, student: str, ready: _Ready) -> Submission:
        place, assembled = Place(self._course, self._lab, student), ready.assembled
        put = place.state if self._options.dry_run else place.put
        return Submission(
            student=student,
            source=ready.gathered.origin.key,
            state=put(assembled, ready.received),
            received=datetime.fromtimestamp(ready.received, UTC).isoformat(),
            sha256=assembled.sha256,
            notebook=assembled.notebook,
            notes=self._notes(ready),
            taken=tuple(
                TakenFile(path="/".join(f.path), source=f.source, bytes=f.size, sha256=f.sha256)
                for f in assembled.files
            ),
            refused=_refusals(ready.gathered),
            unlisted=ready.gathered.unlisted,
        )


def _account(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return ""


def _refused(student: str, gathered: Gathered) -> Submission:
    return Submission(
        student=student,
        source=gathered.origin.key,
        state=State.REFUSED,
        why=gathered.why,
        refused=_refusals(gathered),
        unlisted=gathered.unlisted,
    )


def _refusals(gathered: Gathered) -> tuple[Refusal, ...]:
    return tuple(Refusal(path=path, why=why) for path, why in gathered.refused)
