"""What an instructor reads after a collecting: what to act on first, one line a reason, few names.

Everything else stands in the manifest.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from grader.intake.manifest import Manifest, Submission
from grader.intake.names import shown

MAX_REASONS = 20
MAX_NAMES = 12


def summary(manifest: Manifest) -> list[str]:
    """The lines to print: counts, who has to hand in again, what was left out of others' work."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(manifest.states().items()))
    return [
        f"{manifest.lab}, layout {manifest.layout}: {counts or 'no submission'}.",
        *_refused([each for each in manifest.submissions if each.why]),
        *_left_out(manifest),
        *_to_check(manifest),
    ]


def _refused(submissions: list[Submission]) -> Iterator[str]:
    if submissions:
        yield f"Refused as a whole, these {len(submissions)} must be handed in again:"
    yield from _by_reason((each.why, each.student or shown(each.source)) for each in submissions)


def _left_out(manifest: Manifest) -> Iterator[str]:
    """What was left out of submissions that were taken, and what is nobody's."""
    reasons = [
        (refused.why, each.student)
        for each in manifest.submissions
        for refused in each.refused
        if not each.why
    ]
    reasons += [(stray.why, shown(stray.path)) for stray in manifest.strays]
    if reasons:
        yield "Left out, while all else was taken:"
    yield from _by_reason(reasons)


def _by_reason(reasons: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A reason with its names, the most frequent first."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for why, name in reasons:
        by_reason[why].append(name)
    order = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    for why, names in order[:MAX_REASONS]:
        yield f"  {len(names)} x {why}"
        yield f"      {_names(list(dict.fromkeys(names)))}"
    if (rest := len(order) - MAX_REASONS) > 0:
        yield f"  … and {rest} reasons more, all in the manifest."


def _to_check(manifest: Manifest) -> Iterator[str]:
    times = sorted(filter(None, (each.received[:16] for each in manifest.submissions)))
    if times and not manifest.given and manifest.layout != "exchange":
        yield f"Received {times[0]} to {times[-1]}, as the files' times say (see --received)."
    if late := [each.student for each in manifest.submissions if _has_note(each, "marked it late")]:
        yield f"Canvas marked late: {_names(late)}."
    if told := [each.student for each in manifest.submissions if _has_note(each, "name says")]:
        yield f"Received at another time than their folders' names say: {_names(told)}."
        yield "  Students write these names; of a copied exchange, see --trust-names."
    if manifest.named_freely:
        why = "not in the roster" if manifest.roster else "no roster, see --roster"
        yield f"Ids made of names ({why}): {_names(manifest.named_freely)}."
    if manifest.missing:
        yield f"In the roster and without a submission: {_names(manifest.missing)}."


def _names(names: Sequence[str]) -> str:
    rest = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _has_note(submission: Submission, words: str) -> bool:
    return any(words in note for note in submission.notes)
