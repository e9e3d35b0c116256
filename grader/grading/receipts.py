"""When a submission was received: its folder's time of modification, also after we wrote into it.

Writing changes that time. Until it is set back, the receipt stands in a file aside, from which the
next grader takes it if this one was killed: nobody is late because a grader was.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

from grader.gradebook.attempts import TIMESTAMP
from grader.notebooks import InvalidNotebookError
from grader.results import replacing


def receipt(folder: Path) -> datetime:
    """When a submission arrived by this machine's clock."""
    return datetime.fromtimestamp(int(folder.stat().st_mtime), UTC)


def stamp(folder: Path, aside: Path) -> None:
    """Write the receipt where formgrader compares it, in place of a student's own time stamp.

    Args:
        folder: The submission's; it keeps its time.
        aside: A file of this submission's own, gone at the end; see `restore`.

    Raises:
        InvalidNotebookError: The folder cannot be written to.
    """
    status, path = folder.stat(), folder / TIMESTAMP
    text = f"{receipt(folder):%Y-%m-%d %H:%M:%S} UTC\n"
    if path.is_dir() and not path.is_symlink():
        return
    with replacing(aside) as part:
        part.write_text(f"{status.st_ino} {status.st_atime_ns} {status.st_mtime_ns}")
    try:
        try:
            path.unlink(missing_ok=True)
            path.write_text(text, encoding="utf-8")
        finally:
            restore(folder, aside)
    except PermissionError as error:
        raise InvalidNotebookError(
            f"the grader may not write its receipt into the submission's folder ({error.strerror})"
        ) from None


def restore(folder: Path, aside: Path) -> None:
    """Give a folder its time back if a grader wrote into it and could not do so itself.

    Not if something was handed in since: then the folder is another or has newer files.
    """
    try:
        inode, *times = (int(number) for number in aside.read_text().split())
    except FileNotFoundError:
        return
    status = folder.stat()
    try:
        same = status.st_ino == inode and not _is_newer(folder, aside.stat().st_mtime_ns)
        if same and status.st_mtime_ns != times[1]:
            os.utime(folder, ns=(times[0], times[1]))
    finally:
        aside.unlink()


def _is_newer(folder: Path, moment_ns: int) -> bool:
    """Whether anything but the stamp was written since; no student can set this time."""
    with os.scandir(folder) as entries:
        return any(
            entry.stat(follow_symlinks=False).st_ctime_ns > moment_ns
            for entry in entries
            if entry.name != TIMESTAMP
        )
