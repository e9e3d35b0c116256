"""Names that strangers chose: which may be a file's here, and what student's id to make of one."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

from grader.course import is_safe_name
from grader.intake.limits import MAX_NAME_BYTES, Limits, RefusedError

Parts = tuple[str, ...]
SHOWN_CHARACTERS = 100
RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])[ ]*(\..*)?", re.IGNORECASE
)
DRIVE = re.compile(r"[A-Za-z]:")
FORBIDDEN = frozenset(':<>"|?*')
FORBIDDEN_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
DIRECTIONAL = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
LEFT_OUT = ("__macosx", "__pycache__", "thumbs.db", "desktop.ini")
STAMPS = ("timestamp.txt", "submission_secret.txt")
ID_CHARACTERS = 80
HASH_CHARACTERS = 8


def shown(text: str) -> str:
    """A stranger's text for a terminal or a page: one short line of printable characters."""
    line = "".join(c if c.isprintable() and c not in DIRECTIONAL else "?" for c in text)
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def is_left_out(parts: Parts) -> bool:
    """Whether a path is hidden or one that systems and nbgrader add: neither taken nor refused."""
    folded = [part.casefold() for part in parts if part != ".."]
    return any(part.startswith(".") or part in (*LEFT_OUT, *STAMPS) for part in folded)


def leaves_source(parts: Parts, depth: int) -> bool:
    """Whether a path is absolute, on a drive, or goes up in its first `depth` parts."""
    return not parts or parts[0] == "" or ".." in parts[:depth] or bool(DRIVE.match(parts[0]))


def checked(parts: Parts, limits: Limits) -> Parts:
    """A path inside a submission, in Unicode's composed form.

    Raises:
        RefusedError: It is no file's name on some system; the whole submission with it if it
            leaves the submission, lies too deep or has what no honest name has.
    """
    if len(parts) > limits.depth:
        raise RefusedError(f"it lies deeper than {limits.depth} levels", whole=True)
    made = tuple(unicodedata.normalize("NFC", part) for part in parts)
    if why := next(filter(None, map(_trick, made)), None):
        raise RefusedError(why, whole=True)
    if why := next(filter(None, map(_objection, made)), None):
        raise RefusedError(f"{why}: rename it")
    return made


def _trick(part: str) -> str:
    """What no honest name has."""
    if part in ("", ".", ".."):
        return "its path is absolute or leaves the submission"
    if any(unicodedata.category(c) in FORBIDDEN_CATEGORIES or c in DIRECTIONAL for c in part):
        return "its name has control characters or is no text"
    return "its name has \\" if "\\" in part else ""


def _objection(part: str) -> str:
    if found := sorted(FORBIDDEN.intersection(part)):
        return f"its name has {' '.join(found)}, which is not possible on Windows"
    if RESERVED.fullmatch(part) or part[-1] in " .":
        return "its name is not possible on Windows"
    if len(part.encode()) > MAX_NAME_BYTES:
        return f"its name is longer than {MAX_NAME_BYTES} bytes"
    return ""


def clash_keys(parts: Parts) -> Iterator[str]:
    """What two paths share that are one file on some system: of the path, then of its folders."""
    path = PurePosixPath(*parts)
    for each in (path, *path.parents[:-1]):
        folded = unicodedata.normalize("NFKC", str(each)).casefold()
        yield unicodedata.normalize("NFKC", folded)


def student_id(name: str) -> str:
    """A student's id made of a name; where letters are lost, a hash keeps it apart from others."""
    composed = " ".join(unicodedata.normalize("NFC", name).split())
    if is_safe_name(composed):
        return composed
    plain = unicodedata.normalize("NFKD", composed)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).replace(" ", "-").lower()
    kept = re.sub(r"[^a-z0-9_.@-]", "", plain)
    kept = kept[:ID_CHARACTERS].strip("_.@-")
    if kept and kept == plain:
        return kept
    digest = hashlib.sha256(composed.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kept or 'student'}-{digest[:HASH_CHARACTERS]}"
