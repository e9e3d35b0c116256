"""What an instructor says about a source."""

from dataclasses import dataclass, field
from datetime import datetime

from grader.intake.limits import Limits


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
