"""What one collecting took and refused, and why: a JSON file in `reports/<lab>/collected/`."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from grader.course import Course
from grader.intake.limits import Limits
from grader.intake.placing import State
from grader.results import replacing

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenFile:
    """A file that was taken: where it lies in the submission, what it was called before."""

    path: str
    source: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Something that was not taken, and why."""

    path: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One submission of a source.

    Attributes:
        student: The student's id; empty if none could be told.
        source: What the source calls the submission.
        state: What became of it.
        why: Why it was refused as a whole; empty if it was not.
        received: When what it holds was first received, UTC; empty if it was refused.
        notebook: What the notebook was called.
    """

    student: str
    source: str
    state: State
    why: str = ""
    received: str = ""
    sha256: str = ""
    notebook: str = ""
    notes: tuple[str, ...] = ()
    taken: tuple[TakenFile, ...] = ()
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All of one collecting.

    Attributes:
        given: When the instructor says that all was received; empty if the source was asked.
        damage: Why the source could not be read to its end; empty if it could.
        named_freely: Students whose ids were made of the names the source has.
        missing: Students of the roster who have no submission, from this source or before.
        strays: What was nobody's.
    """

    lab: str
    source: str
    layout: str
    collected: datetime
    limits: Limits
    roster: bool
    given: str = ""
    damage: str = ""
    named_freely: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    submissions: tuple[Submission, ...] = ()
    strays: tuple[Refusal, ...] = ()

    def states(self) -> Counter[State]:
        return Counter(submission.state for submission in self.submissions)

    def as_json(self) -> str:
        content = asdict(self) | {"schema": SCHEMA, "collected": self.collected.isoformat()}
        content["limits"]["suffixes"] = sorted(self.limits.suffixes)
        return json.dumps(content, indent=1) + "\n"

    def says_as_much_as(self, text: str) -> bool:
        """Whether an earlier one, in JSON, says the same but for the time."""
        try:
            earlier = json.loads(text)
        except ValueError:
            return False
        return isinstance(earlier, dict) and json.loads(self.as_json()) == {
            **earlier,
            "collected": self.collected.isoformat(),
        }


def write_manifest(course: Course, manifest: Manifest) -> Path:
    """Write a manifest under the time of its collecting, unless the last says the same."""
    folder = course.reports(manifest.lab) / "collected"
    last = max(folder.glob("*.json"), default=None)
    if last and manifest.says_as_much_as(last.read_text(encoding="utf-8")):
        return last
    path = folder / f"{manifest.collected:%Y-%m-%dT%H-%M-%S.%fZ}.json"
    with replacing(path) as part:
        part.write_text(manifest.as_json(), encoding="utf-8")
    return path
