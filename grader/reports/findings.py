"""What a check's message says, taken apart; and the same with its values taken out.

Messages are made by `grader.checks`: a property, what was expected and what came, a hint. One
without values names the property and the hint only, so that it may be shown for hidden inputs,
and is the same for all who made the same mistake.
"""

import re
from dataclasses import dataclass

from grader.results import CellResult, Status

GONE = "…"
HINT = " Hint: "
SHOWN_CHARACTERS = 600
READ_CHARACTERS = 4_000  # of a message; the expressions below take quadratic time at worst

_CLAUSE = re.compile(
    r"(?s)(?P<checked>.*?): (?P<said>"
    r"entry \S+ \(counted|expected |(?:\d+ of \d+|some) (?:values|entries) |the value differs|"
    r"this must (?:not )?hold|arrays of |nested deeper |"
    r"(?:(?:str|int|float) \S.*|None) is not the right value)"
)
_EXPECTED = re.compile(r"(?s)(?P<where>.*?)expected (?P<expected>.*), got (?P<came>.*)")
_MUST_HOLD = re.compile(r"this must (?P<no>not )?hold, and it does(?: not)?")
_DIFFERS = re.compile(r"(?s)(?P<came>.* differs?(?:, by up to \S+)?) \(allowed: (?P<why>.*)\)")
_PLACED = re.compile(r"(?s)(?P<said>.*)(?P<place>, at line \d+ of [^,:\n]*(?:: `[^\n]*`)?\.?)")

_SIMPLER = (
    (re.compile(r"\d+ of \d+ (values|entries) differ(, by up to \S+)?"), r"some \1 differ"),
    (re.compile(r"the value differs, by up to \S+"), "the value differs"),
    (re.compile(r"\d+ of \d+ values are nan or infinite"), "some values are nan or infinite"),
)
_VALUES = (
    re.compile(r"(?s)(?<!\w)(?P<quote>['\"])(?:\\.|(?!(?P=quote)).)*(?:(?P=quote)(?!\w)|\Z)"),
    re.compile(r"\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\.\d+(?:\.\w+)*"),  # blocks.0.attn.q_proj
    re.compile(r"(?<![\w.])[-+]?\.?\d\w*(?:\.\w+)*(?:(?<=[eE])[-+]\d+)?"),
    re.compile(r"\b(?:True|False)\b"),
    re.compile(r"(?<!\w)[-+]?(?:nan|inf)\b(?! or infinite)"),
)
_LISTS = (
    re.compile(r"…(?:\s*[,:;+\-]?\s*…)+"),
    re.compile(r"[\[({]\s*…\s*,?\s*[\])}]"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One sentence of a check in its parts; an empty part was not said.

    Attributes:
        checked: The property that was looked at.
        expected: What should have come.
        came: What came instead.
        hint: What to look at.
    """

    checked: str
    expected: str
    came: str
    hint: str


def finding(message: str) -> Finding:
    """Take a check's message apart; what cannot be told apart is what came."""
    said, _, hint = message[:READ_CHARACTERS].partition(HINT)
    checked, said = _checked(said.strip().removesuffix("."))
    expected, came = _expected(said)
    return Finding(checked=checked, expected=expected, came=_short(came), hint=hint.strip())


def _checked(said: str) -> tuple[str, str]:
    """The property and the rest. What the learner's own program said is not searched for one."""
    match = None if " raised " in said or " failed with " in said else _CLAUSE.match(said)
    return ("", said) if match is None else (match["checked"], said[match.start("said") :])


def _expected(said: str) -> tuple[str, str]:
    if match := _MUST_HOLD.fullmatch(said):
        return ("it does not hold", "it does") if match["no"] else ("it holds", "it does not")
    if match := _DIFFERS.fullmatch(said):
        return f"equal but for {match['why']}", match["came"]
    if said.endswith(" is not the right value"):
        return "another value", said.removesuffix(" is not the right value")
    if " raised " not in said and (match := _EXPECTED.fullmatch(said)):
        return match["expected"], match["where"] + match["came"]
    return "", said


def for_student(cell: CellResult) -> str:
    """The message of a graded cell as its student may read it.

    Where the inputs are hidden, values are taken out of it: expected ones could be worked out
    from a difference, a shape or a length. The place in the student's own code stays.
    """
    if not cell.hidden or cell.status is not Status.WRONG:
        return cell.message
    message, hint_word, hint = cell.message[:READ_CHARACTERS].partition(HINT)
    said, place = _placed(message)
    return without_values(said) + place + hint_word + hint


def kind(message: str) -> str:
    """What messages have in common that differ in values, places and hints only."""
    said, _ = _placed(message[:READ_CHARACTERS].partition(HINT)[0])
    return without_values(said).strip().removesuffix(".")


def _placed(message: str) -> tuple[str, str]:
    """What was raised, and the place in the learner's code."""
    match = _PLACED.fullmatch(message)
    return (message, "") if match is None else (match["said"], match["place"])


def without_values(text: str) -> str:
    """Put … in place of numbers, quoted text, numbered paths and lists of these."""
    for pattern, simpler in _SIMPLER:
        text = pattern.sub(simpler, text)
    for pattern in _VALUES:
        text = pattern.sub(GONE, text)
    for pattern in (*_LISTS, *_LISTS):
        text = pattern.sub(GONE, text)
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + GONE
