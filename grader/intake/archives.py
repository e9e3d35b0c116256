"""Which kind of source a path is: a folder, a zip or a tar."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grader.intake.limits import Limits
from grader.intake.sources import Folder, Source
from grader.intake.tar_archive import GZIP, XZ, Tar
from grader.intake.zip_archive import Zip

START_BYTES = 512


@contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Source]:
    """Open a folder, a zip or a tar, which it is by its content.

    Raises:
        ValueError: It is nothing of these.
    """
    if path.is_dir():
        yield Folder(path / "inbound" if _is_exchange(path) else path)
        return
    if not path.is_file():
        raise ValueError(f"there is no folder and no archive {path}")
    with path.open("rb") as file:
        start = file.read(START_BYTES)
        file.seek(0)
        if start.startswith(b"PK"):
            yield Zip(path, file)
        elif start.startswith((GZIP, XZ)) or start[257:262] == b"ustar":
            yield Tar(path, limits)
        else:
            raise ValueError(f"{path} is no folder, zip, tar, tar.gz or tar.xz")


def _is_exchange(path: Path) -> bool:
    """Whether it is a course in nbgrader's exchange, and no class with a student of that name."""
    return all((path / name).is_dir() for name in ("inbound", "outbound"))
