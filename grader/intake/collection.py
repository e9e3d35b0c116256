"""Collect a lab's submissions from a folder or an archive; see `grader collect --help`."""

import fcntl
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from grader.course import Course
from grader.intake.archives import opened
from grader.intake.gathered import Gathered
from grader.intake.layouts import assignment_of, choose, layouts
from grader.intake.limits import RefusedError
from grader.intake.manifest import Manifest, Refusal, Submission, TakenFile
from grader.intake.options import Options
from grader.intake.placing import Assembled, Place, State, assemble
from grader.intake.reading import Reading
from grader.intake.receipts import Receipt, receipt
from grader.intake.roster import Roster
from grader.notebooks import Notebook, read_notebook

STAGING = ".collecting"


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
        known = layouts(lab, others, assignment, roster.canvas_ids)
        layout = choose(known, options.layout, lab, names)
        reading = Reading(lab, layout, options.limits, staging)
        reading.run(content)
        collecting = _Collecting(
            course=course,
            lab=lab,
            release=release,
            roster=roster,
            options=options,
            staging=staging,
            in_exchange=layout.name == "exchange",
        )
        submissions = collecting.place(reading.submissions.values())
    return Manifest(
        lab=lab,
        source=str(source),
        layout=layout.name,
        collected=datetime.now(UTC),
        limits=options.limits,
        roster=bool(roster),
        given=options.received.isoformat() if options.received else "",
        damage=reading.damage,
        named_freely=tuple(sorted(collecting.named_freely)),
        missing=tuple(
            student
            for student in roster.ids
            if student not in {each.student for each in submissions}
            and not course.submitted(lab, student).parent.is_dir()
        ),
        submissions=tuple(sorted(submissions, key=lambda each: (each.student, each.source))),
        strays=tuple(Refusal(path=path, why=why) for path, why in reading.strays.items()),
    )


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
        try:
            yield staging
        finally:
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
    receipt: Receipt


@dataclass(kw_only=True, slots=True)
class _Collecting:
    """Places what a reading gathered.

    Attributes:
        staging: Where submissions are put together.
        in_exchange: Whether students wrote into the source themselves.
        named_freely: Students whose ids were made of the names the source has.
        now: The time of this collecting.
        assemblies: How many submissions were put together.
    """

    course: Course
    lab: str
    release: Notebook
    roster: Roster
    options: Options
    staging: Path
    in_exchange: bool
    named_freely: set[str] = field(default_factory=set)
    now: float = field(default_factory=time.time)
    assemblies: int = 0

    def place(self, submissions: Collection[Gathered]) -> list[Submission]:
        by_student: dict[str, list[Gathered]] = defaultdict(list)
        placed = []
        users = {gathered.origin.name for gathered in submissions} | set(self.roster.ids)
        for gathered in submissions:
            try:
                if self.in_exchange:
                    gathered.check_owner(users)
                by_student[self._student(gathered)].append(gathered)
            except RefusedError as refused:
                gathered.refuse_all(str(refused))
                placed.append(_refused("", gathered))
        for student, several in by_student.items():
            placed += self._place_all(student, several)
        return placed

    def _student(self, gathered: Gathered) -> str:
        student = self.roster.student(gathered.origin)
        if student not in self.roster.ids and (self.roster or student != gathered.origin.name):
            self.named_freely.add(student)
        return student

    def _place_all(self, student: str, several: list[Gathered]) -> list[Submission]:
        """Place a student's submissions, of which only an exchange may have several."""
        if len(several) > 1 and not self.in_exchange:
            for gathered in several:
                gathered.refuse_all(
                    f"{len(several)} people here would be {student!r}: use --roster"
                )
        ready = [each for gathered in several if (each := self._assembled(gathered))]
        ready.sort(key=lambda each: (each.receipt.time, each.gathered.origin.key))
        placed = [found for each in ready if (found := self._put(student, each))]
        return placed + [_refused(student, gathered) for gathered in several if gathered.why]

    def _assembled(self, gathered: Gathered) -> _Ready | None:
        if gathered.why:
            return None
        self.assemblies += 1
        folder = self.staging / f"submission-{self.assemblies}"
        try:
            assembled = assemble(gathered, self.lab, self.release, folder)
        except RefusedError as refused:
            gathered.refuse_all(str(refused))
            return None
        decided = receipt(
            gathered,
            assembled.carried,
            self.now,
            given=self.options.received,
            in_exchange=self.in_exchange,
            trust_names=self.options.trust_names,
        )
        return _Ready(gathered, assembled, decided)

    def _put(self, student: str, ready: _Ready) -> Submission | None:
        """Put a submission in its place; what is in the way of one student's is in no other's."""
        assembled = ready.assembled
        try:
            place = Place(self.course, self.lab, student)
            put = place.state if self.options.dry_run else place.put
            state, received = put(assembled, ready.receipt)
        except OSError as error:
            ready.gathered.refuse_all(f"it cannot be put in its place: {error}")
            return None
        return Submission(
            student=student,
            source=ready.gathered.origin.key,
            state=state,
            received=datetime.fromtimestamp(received, UTC).isoformat(),
            sha256=assembled.sha256,
            notebook=assembled.notebook,
            notes=(*assembled.notes, *ready.receipt.notes),
            taken=tuple(
                TakenFile(path="/".join(f.path), source=f.source, bytes=f.size, sha256=f.sha256)
                for f in assembled.files
            ),
            refused=_refusals(ready.gathered),
        )


def _refused(student: str, gathered: Gathered) -> Submission:
    return Submission(
        student=student,
        source=gathered.origin.key,
        state=State.REFUSED,
        why=gathered.why,
        refused=_refusals(gathered),
    )


def _refusals(gathered: Gathered) -> tuple[Refusal, ...]:
    return tuple(Refusal(path=path, why=why) for path, why in gathered.refused)
