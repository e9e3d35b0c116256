"""When a submission was received, which is no time that its student wrote.

In nbgrader's exchange, where `nbgrader submit` runs as the student and names and dates the folder,
it is the time at which the kernel last saw the folder or a file in it change; in an archive of one
that is lost. Elsewhere it is the
latest time that the source's files carry: what the platform, the clone or the archive gave them on
their way to the instructor; where students themselves write into such a folder, the instructor must
say the time. A time that is missing or in the future is taken as now.
"""

from dataclasses import dataclass
from datetime import datetime

from grader.intake.gathered import Gathered

TOLERANCE_S = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """When a submission was received.

    Attributes:
        time: Seconds since 1970.
        known: Whether the source says so; else it is the time of this collecting.
        notes: What the instructor should know of it.
    """

    time: int
    known: bool
    notes: tuple[str, ...] = ()


def receipt(
    gathered: Gathered,
    carried: float,
    now: float,
    *,
    given: datetime | None,
    in_exchange: bool,
    trust_names: bool,
) -> Receipt:
    """Decide when a submission was received.

    Args:
        gathered: The submission.
        carried: The latest time that its files carry.
        now: The time of this collecting, seconds since 1970.
        given: What the instructor says of all that Canvas did not mark late.
        in_exchange: Whether students wrote into the source themselves.
        trust_names: Whether the time in an exchange's folder's name counts.
    """
    origin = gathered.origin
    stamp = origin.stamp.timestamp() if origin.stamp else 0.0
    if given is not None and not origin.late:
        moment = given.timestamp()
    elif not in_exchange:
        moment = carried
    elif stamp and trust_names:
        moment = stamp
    else:
        moment = gathered.changed
    known = 0 < moment <= now
    time = int(moment if known else now)
    notes = ["Canvas marked it late."] if origin.late else []
    if given is None and stamp and abs(stamp - time) > TOLERANCE_S:
        notes.append(f"Its folder's name says {origin.stamp}, which its student wrote.")
    return Receipt(time=time, known=known, notes=tuple(notes))
