"""How learning platforms hand out submissions: whose an entry is, told from its path alone.

exchange   user+lab+2026-03-01 12:00:00.000000 UTC[+random]/file    nbgrader's `inbound`
moodle     Full Name_123456_assignsubmission_file[_]/file           or in one folder: …_file_file
canvas     lastfirst[_LATE]_USER_ATTACHMENT_file                    [LATE_]anon_CODE_ATTACHMENT_file
classroom  assignment-user/…                                        `gh classroom clone`'s folders
folder     student/lab/file or student/file

Moodle's number is that of a participant in one assignment, so it names nobody; Canvas's USER does.
Canvas takes `_digits_` out of names, so that the first two numbers of a file's name are its own,
but for a name that ends in `_digits`.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from grader.intake.names import Parts, is_left_out

CANVAS = re.compile(
    r"(?P<name>.+?)(?P<late>_LATE)?_(?P<user>\d+)_"
    r"((?P<attachment>\d+)_(?P<file>.+)|(?P<text>(text|link)\.html))",
    re.DOTALL,
)
ANONYMOUS = re.compile(r"(?P<late>LATE_)?(?P<name>anon_[A-Za-z0-9]+)_\d+_(?P<file>.+)", re.DOTALL)
SECOND_NUMBER = re.compile(r"\d+_")
MOODLE = re.compile(
    r"(?P<name>[^_/]+)(_(?P<number>\d+))?_assignsubmission_[a-z]+(_(?P<file>.*))?", re.DOTALL
)
EXCHANGE = re.compile(
    r"(?P<user>.+)\+(?P<lab>[^+]+)\+"
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)? (?P<zone>[^+]+)(\+[\w=-]+)?",
    re.DOTALL,
)
LAYOUTS = ("auto", "folder", "canvas", "moodle", "classroom", "exchange")
CLONES = "-submissions"
WRAPPING_FOLDERS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Whose submission an entry belongs to, in the source's words.

    Attributes:
        key: What sets the submission apart from the source's others.
        column: The roster's column that `name` would stand in.
        name: What the source calls the student.
        number: Canvas's user id.
        doubtful: A second number that is somebody's Canvas user id too.
        late: Canvas marked it late.
        stamp: The time in the name of a folder of nbgrader's exchange.
    """

    key: str
    column: str
    name: str
    number: str = ""
    doubtful: str = ""
    late: bool = False
    stamp: datetime | None = None


Found = tuple[Origin, Parts]
ELSEWHERE = Origin(key="", column="id", name="")
Recogniser = Callable[[Parts], Found | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A way of reading paths.

    Attributes:
        name: The layout's name.
        recognise: Tells whose a path is and the path inside. It is ELSEWHERE's if it has nothing to
            do with the lab, without a path if nothing below it has; None if it is nobody's.
        wrapped: How many folders lie around all submissions.
    """

    name: str
    recognise: Recogniser
    wrapped: int = 0

    def find(self, path: str) -> Found | None:
        parts = tuple(part for part in path.split("/") if part != ".")[self.wrapped :]
        return self.recognise(parts) if parts else None

    def share(self, paths: Sequence[Parts]) -> float:
        """The share of the uppermost entries that are somebody's; students can add few there."""
        tops = {parts[self.wrapped] for parts in paths if len(parts) > self.wrapped}
        known = {
            parts[self.wrapped]
            for parts in paths
            if len(parts) > self.wrapped and self.recognise(parts[self.wrapped :])
        }
        return len(known) / len(tops) if tops else 0.0


def layouts(
    lab: str,
    other_labs: Collection[str] = (),
    assignment: str = "",
    canvas_ids: Collection[str] = (),
) -> dict[str, Layout]:
    """All layouts by name, those that are told most surely first; for numbers in a roster."""
    made = {
        "exchange": _exchange(lab),
        "moodle": _moodle,
        "canvas": _canvas(canvas_ids),
        "classroom": _classroom(lab, other_labs, assignment),
        "folder": _folder(lab, other_labs),
    }
    return {name: Layout(name=name, recognise=recognise) for name, recognise in made.items()}


def assignment_of(source: str, names: Sequence[str]) -> str:
    """GitHub Classroom's name of the assignment, if the clones' folder is called after it."""
    tops = {path.split("/")[0] for path in names}
    candidates = [source, *tops] if len(tops) == 1 else [source]
    for folder in candidates:
        if folder.endswith(CLONES):
            return folder.removesuffix(CLONES)
    return ""


def choose(known: dict[str, Layout], name: str, lab: str, names: Sequence[str]) -> Layout:
    """The layout of a source, and how deep in it; `auto` finds it out."""
    split = {tuple(part for part in path.split("/") if part != ".") for path in names}
    folders = {parts[:depth] for parts in split for depth in range(len(parts))}
    paths = [parts for parts in split - folders if not is_left_out(parts)]
    if name == "folder":
        return _unwrapped_folder(known[name], lab, paths)
    told = [each for each in known.values() if name == each.name or name == "auto"]
    found = [each for layout in told if layout.name != "folder" for each in _wrapped(layout, paths)]
    best = max(found, key=lambda layout: layout.share(paths))
    if name != "auto" or best.share(paths) > 0.5:
        return best
    return _unwrapped_folder(known["folder"], lab, paths)


def _wrapped(layout: Layout, paths: Sequence[Parts]) -> list[Layout]:
    """A layout at each depth at which all entries lie in one folder, the outermost first."""
    made = [layout]
    while len(made) <= WRAPPING_FOLDERS:
        depth = len(made)
        if any(len(parts) <= depth for parts in paths) or len({p[:depth] for p in paths}) != 1:
            break
        made.append(replace(layout, wrapped=depth))
    return made


def _unwrapped_folder(layout: Layout, lab: str, paths: Sequence[Parts]) -> Layout:
    """Below which folder the students' are: there `student/lab` and `student/lab.ipynb` are."""

    def named(each: Layout) -> int:
        seconds = (parts[each.wrapped + 1 : each.wrapped + 2] for parts in paths)
        return sum(second in ((lab,), (f"{lab}.ipynb",)) for second in seconds)

    return max(_wrapped(layout, paths), key=named)


def _exchange(lab: str) -> Recogniser:
    def recognise(parts: Parts) -> Found | None:
        match = EXCHANGE.fullmatch(parts[0])
        if match is None:
            return None
        if match["lab"] != lab:
            return ELSEWHERE, ()
        stamp = _stamp(match["time"], match["zone"])
        origin = Origin(key=parts[0], column="id", name=match["user"], stamp=stamp)
        return origin, parts[1:]

    return recognise


def _stamp(text: str, zone: str) -> datetime | None:
    try:
        time = datetime.strptime(text, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if zone in ("UTC", "GMT") else None


def _moodle(parts: Parts) -> Found | None:
    match = MOODLE.fullmatch(parts[0])
    if match is None or (len(parts) == 1 and not match["file"]):
        return None
    origin = Origin(key=f"{match['name']}_{match['number']}", column="name", name=match["name"])
    return origin, parts[1:] or (match["file"],)


def _canvas(canvas_ids: Collection[str]) -> Recogniser:
    """Names are the students' own: who ends theirs in `_12` makes 12 look like their number."""

    def recognise(parts: Parts) -> Found | None:
        if len(parts) != 1:
            return None
        if match := ANONYMOUS.fullmatch(parts[0]):
            name, late = match["name"], bool(match["late"])
            return Origin(key=name, column="name", name=name, late=late), (match["file"],)
        match = CANVAS.fullmatch(parts[0])
        if match is None:
            return None
        second, file = match["attachment"] or "", match["file"] or match["text"]
        doubtful = second if second in canvas_ids and SECOND_NUMBER.match(file) else ""
        origin = Origin(
            key="_".join(filter(None, (match["name"], match["user"], doubtful))),
            column="name",
            name=match["name"],
            number=match["user"],
            doubtful=doubtful,
            late=bool(match["late"]),
        )
        return origin, (file,)

    return recognise


def _classroom(lab: str, other_labs: Collection[str], assignment: str) -> Recogniser:
    """Clones are called after the assignment; of a repository of all labs, only this one counts."""
    slugs = [assignment] if assignment else [lab, lab.replace("_", "-")]

    def recognise(parts: Parts) -> Found | None:
        user = next((parts[0][len(s) + 1 :] for s in slugs if parts[0].startswith(f"{s}-")), "")
        inside = parts[1:]
        if not user or f"-{user}" == CLONES:
            return None
        if not set(inside).isdisjoint(other_labs):
            return ELSEWHERE, ()
        if len(inside) > 1 and lab not in inside and _suffix(inside) != ".ipynb":
            return ELSEWHERE, inside
        return Origin(key=parts[0], column="github", name=user), inside

    return recognise


def _suffix(parts: Parts) -> str:
    return PurePosixPath(parts[-1]).suffix.lower()


def _folder(lab: str, other_labs: Collection[str]) -> Recogniser:
    def recognise(parts: Parts) -> Found | None:
        if len(parts) > 2 and parts[1] in other_labs:
            return ELSEWHERE, ()
        return (Origin(key=parts[0], column="id", name=parts[0]), parts[1:]) if parts[1:] else None

    return recognise
