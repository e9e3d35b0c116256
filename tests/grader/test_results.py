"""Files that take another's place at once: all of it or nothing, also without room."""

import errno
from pathlib import Path

import pytest

from grader.results import NoRoomError, replacing


def test_the_old_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    with replacing(path) as part:
        part.write_text("first")
    with replacing(path) as part:
        part.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def fill_the_disk(path: Path, number: int) -> None:
    with replacing(path) as part:
        part.write_text("half of the n")
        raise OSError(number, "no room")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_without_room_the_old_stays_and_nothing_else(tmp_path: Path, number: int) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(NoRoomError, match="make room, then run the command again"):
        fill_the_disk(path, number)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_are_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), replacing(tmp_path / "result.json"):
        raise PermissionError
    assert list(tmp_path.iterdir()) == []
