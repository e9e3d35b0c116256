"""When a submission was received: no time that a student wrote counts."""

import io
import os
import tarfile
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from intake_kit import (
    FIRST,
    LAB,
    SECOND,
    THIRD,
    Answer,
    Make,
    Take,
    exchange,
    folder_of,
    received,
    whole,
)

from grader.course import Course
from grader.gradebook.attempts import attempts
from grader.intake.placing import State

SOON_S = 100  # a test is over long before


def test_the_receipt_is_what_the_platform_wrote(
    own: Course, answer: Answer, zipped: Make, take: Take, tmp_path: Path
) -> None:
    ada = zipfile.ZipInfo(f"ada/{LAB}.ipynb", date_time=(2026, 3, 1, 12, 0, 0))
    ben = zipfile.ZipInfo(f"ben/{LAB}.ipynb", date_time=(1980, 0, 0, 0, 0, 0))
    eli = zipfile.ZipInfo(f"eli/{LAB}.ipynb", date_time=(2099, 1, 1, 0, 0, 0))
    flo = zipfile.ZipInfo(f"flo/{LAB}.ipynb")
    flo.extra = b"\x55\x54\x05\x00\x01" + int(SECOND.timestamp()).to_bytes(4, "little")
    take(zipped(*((info, answer(info.filename)) for info in (ada, ben, eli, flo))))
    assert received(own, "ada") == datetime(2026, 3, 1, 12).astimezone(UTC)
    assert received(own, "flo") == SECOND
    for student in ("ben", "eli"):
        assert abs(received(own, student).timestamp() - time.time()) < SOON_S
    take(folder_of(tmp_path / "s", {f"gus/{LAB}.ipynb": answer(), "gus/x.py": b""}, THIRD))
    assert received(own, "gus") == THIRD


def test_a_given_receipt_is_not_for_what_canvas_marked_late(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    names = ("doeada_12_34_a.ipynb", "roeben_LATE_13_35_a.ipynb")
    manifest = take(zipped(*((name, answer()) for name in names)), received=FIRST)
    assert received(own, "doeada_12") == FIRST
    assert received(own, "roeben_13") > THIRD
    assert manifest.submissions[1].notes[-1] == "Canvas marked it late."


def test_an_exchanges_times_are_the_kernels(
    own: Course, answer: Answer, take: Take, tmp_path: Path
) -> None:
    """The name of the folder, its time stamp and its files' times are the student's own."""
    source = exchange(tmp_path / "x", "ada", answer())
    began = time.time()
    (ada,) = take(source).submissions
    assert ada.state is State.COLLECTED
    assert abs(received(own, "ada").timestamp() - began) < SOON_S
    assert "name says 2026-03-01 12:00:00+00:00" in ada.notes[-1]
    assert {file.path for file in ada.taken} == {f"{LAB}.ipynb", "x.py"}
    exchange(tmp_path / "y", "ben", answer())
    take(tmp_path / "y" / "course", trust_names=True)
    assert received(own, "ben") == FIRST


def test_an_exchange_holds_all_attempts(
    own: Course, answer: Answer, take: Take, tmp_path: Path
) -> None:
    for day, text in ((3, "three"), (1, "one"), (2, "two")):
        exchange(tmp_path, "ada", answer(text), f"2026-03-0{day} 12:00:00.5 UTC")
    manifest = take(tmp_path / "course", trust_names=True)
    assert [each.state.value for each in manifest.submissions] == ["collected"] + ["replaced"] * 2
    kept = [(path / f"{LAB}.ipynb").read_bytes() for path in attempts(own, LAB, "ada")]
    assert kept == [answer("one"), answer("two"), answer("three")]
    again = take(tmp_path / "course", trust_names=True)
    assert {each.state.value for each in again.submissions} == {"unchanged"}


def is_now(moment: datetime) -> bool:
    return abs(moment.timestamp() - time.time()) < SOON_S


def test_an_archive_of_an_exchange_is_not_believed(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    """The names and times in it are the student's own; what the kernel knew is lost."""
    info = zipfile.ZipInfo(f"ada+{LAB}+2026-03-01 12:00:00 UTC/{LAB}.ipynb", (2026, 3, 1, 0, 0, 0))
    path = zipped((info, answer()))
    (ada,) = take(path, dry_run=True).submissions
    assert is_now(datetime.fromisoformat(ada.received))
    assert "2026-03-01 12:00:00+00:00, which its student wrote" in ada.notes[-1]
    take(path, trust_names=True)
    assert received(own, "ada") == FIRST


@pytest.mark.parametrize("stamp", ["1999-01-01 00:00:00 UTC", "2099-01-01 00:00:00 UTC", "\0", ""])
@pytest.mark.parametrize("name", ["timestamp.txt", "TimeStamp.TXT", f"{LAB}/timestamp.txt"])
@pytest.mark.parametrize(
    "prefix", ["ada/", "Ada_1_assignsubmission_file_/", "ada_1_2_", "lab01-tiny-ada/"]
)
def test_a_students_time_stamp_counts_nowhere(
    own: Course, answer: Answer, zipped: Make, take: Take, stamp: str, name: str, prefix: str
) -> None:
    if prefix.endswith("_"):
        name = name.rpartition("/")[2]
    good = (f"{prefix}{LAB}.ipynb", answer())
    (without,) = take(zipped(good), received=SECOND, dry_run=True).submissions
    path = zipped(good, (f"{prefix}{name}", stamp.encode()))
    (ada,) = take(path, received=SECOND).submissions
    assert received(own, ada.student) == SECOND
    assert ada == without
    assert [file.path for file in ada.taken] == [f"{LAB}.ipynb"]


@pytest.mark.parametrize("mtime", [4e9, -1, 0, "nan", "inf", "1e300"])
def test_a_time_that_cannot_be_is_now(
    own: Course, answer: Answer, tmp_path: Path, take: Take, mtime: float | str
) -> None:
    """The first time it is seen: collecting again, later, is no second attempt."""
    info = tarfile.TarInfo(f"ada/{LAB}.ipynb")
    info.size, info.pax_headers = len(answer()), {"mtime": str(mtime)}
    with tarfile.open(path := tmp_path / "x.tar", "w") as archive:
        archive.addfile(info, io.BytesIO(answer()))
    take(path)
    assert is_now(received(own, "ada"))


def test_two_attempts_of_the_future_are_not_taken_again_and_again(
    own: Course, answer: Answer, take: Take, tmp_path: Path
) -> None:
    for day in (1, 2):
        exchange(tmp_path, "ada", answer(str(day)), f"2099-03-0{day} 12:00:00 UTC")
    manifest = take(tmp_path / "course", trust_names=True)
    assert [each.state.value for each in manifest.submissions] == ["collected", "replaced"]
    for folder in attempts(own, LAB, "ada"):  # as if that had been long ago
        os.utime(folder, (FIRST.timestamp(),) * 2)
    os.utime(own.submitted(LAB, "ada").parent, (FIRST.timestamp(),) * 2)
    before = whole(own.root)
    again = take(tmp_path / "course", trust_names=True)
    assert {each.state.value for each in again.submissions} == {"unchanged"}
    assert {each.received for each in again.submissions} == {FIRST.isoformat()}
    assert whole(own.root) == before


def test_an_unchanged_submission_keeps_its_first_receipt(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    path = zipped((f"ada/{LAB}.ipynb", answer()))
    take(path, received=FIRST)
    (ada,) = take(path, received=THIRD).submissions
    assert (ada.state, ada.received) == (State.UNCHANGED, FIRST.isoformat())
    assert received(own, "ada") == FIRST
