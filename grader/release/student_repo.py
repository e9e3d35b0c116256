"""Write the repository that an instructor may publish: all that learners need, and no answers.

Of the checks it has the public one's data and expected values; of the course's Python what a
learner's commands and check cells import. labkit is complete, since lectures and later labs use it:
it is the reference implementation that the labs build anew, and the README there says so.
"""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlencode, urlsplit

from grader.course import Course
from grader.release import publication
from grader.release.generate import LeakError, all_answers, stale_or_leaking
from grader.release.student_files import build

STAMP = ".student-repo.json"
LEFT_IN_ROOT = frozenset({".start", "build", "dist", "reports"})
LEFT_ANYWHERE = frozenset({".git", "__pycache__", ".ipynb_checkpoints"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What writing changed in the folder, as paths in it."""

    written: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: int


def write(course: Course, target: Path) -> Changes:
    """Write or update the learners' repository; nothing changes if anything is wrong.

    An earlier repository is known by its stamp: files that are no longer part of it are removed,
    files that it did not write (`.git`, your own) stay.

    Raises:
        ValueError: The folder is not empty and has no stamp, or `labs/` is stale.
        LeakError: Something in the finished folder is not for learners.
    """
    target = target.resolve()
    before = _written_before(course, target)
    _require_fresh_labs(course)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        made = Path(folder)
        build(course, made)
        new = _files(made)
        kept = {name: path for name, path in _files(target).items() if name not in before}
        if found := publication.scan(course, kept | new, all_answers(course)):
            raise LeakError(f"{target} is not written:\n  " + "\n  ".join(found))
        return _replace(target, before, new)


def _written_before(course: Course, target: Path) -> set[str]:
    """Files that an earlier run wrote."""
    if course.root.is_relative_to(target):
        raise ValueError(f"{target} holds the course itself: name another folder")
    if (target / STAMP).is_file():
        return {name for name in _stamped(target / STAMP) if _is_inside(name)} | {STAMP}
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(
            f"{target} is not empty and was not written by `grader student-repo` (it has no "
            f"{STAMP}): name a new folder or an empty one"
        )
    return set()


def _stamped(stamp: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(stamp.read_text(encoding="utf-8"))["files"]]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{stamp} does not list what was written: name a new folder") from None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _require_fresh_labs(course: Course) -> None:
    if not course.labs():
        raise ValueError(f"there are no solved labs in {course.root / 'solutions'}")
    if found := stale_or_leaking(course, course.labs()):
        raise ValueError(
            "labs/ is not what `grader release` would write now: run it first. Stale: "
            + ", ".join(found)
        )


def _files(folder: Path) -> dict[str, Path]:
    """All files below a folder but git's own and what is left by using the course in it."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in paths}
    return {name.as_posix(): path for name, path in names.items() if not _is_left_over(name)}


def _is_left_over(name: Path) -> bool:
    """What the repository's .gitignore keeps from being published."""
    first = name.parts[0]
    in_the_root = first in LEFT_IN_ROOT or first.startswith(".venv") or first.endswith(".egg-info")
    return in_the_root or bool(LEFT_ANYWHERE & set(name.parts))


def _replace(target: Path, before: set[str], new: dict[str, Path]) -> Changes:
    """Move the new files into place one by one, remove stale ones, stamp last.

    The stamp names old and new files until all is done, so that a run cut short is taken up again.
    """
    target.mkdir(exist_ok=True)
    _write_stamp(target, before | set(new))
    written = []
    for name, path in sorted(new.items()):
        place = target / name
        if place.is_file() and place.read_bytes() == path.read_bytes():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
        written.append(name)
    removed = sorted(before - set(new) - {STAMP})
    for name in removed:
        _remove(target, target / name)
    _write_stamp(target, set(new))
    unchanged = len(new) - len(written)
    return Changes(written=tuple(written), removed=tuple(removed), unchanged=unchanged)


def _remove(root: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    for folder in path.relative_to(root).parents:
        if folder.parts and (root / folder).is_dir() and not any((root / folder).iterdir()):
            (root / folder).rmdir()


def _write_stamp(target: Path, files: Iterable[str]) -> None:
    text = json.dumps({"written by": "grader student-repo", "files": sorted(files)}, indent=1)
    temporary = target / f"{STAMP}.new"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(target / STAMP)


def hub_link(hub: str, repository: str, branch: str = "main") -> str:
    """The nbgitpuller link that puts a repository into a learner's home folder and opens it.

    Args:
        hub: A JupyterHub's address, `https://hub.example.org`, or with its base path.
        repository: What `git clone` takes; its last part will be the folder's name.
    """
    if not urlsplit(hub).netloc:
        raise ValueError(f"the hub's address {hub!r} must begin as in https://hub.example.org")
    folder = repository.rstrip("/").rpartition("/")[2]
    query = urlencode(
        {"repo": repository, "branch": branch, "urlpath": f"lab/tree/{folder}/README.md"},
        quote_via=quote,
        safe="",
    )
    return f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{query}"
