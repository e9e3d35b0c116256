"""What one pass over a source takes, counts and refuses."""

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from intake_kit import LAB, Answer, Make, Take, between, judged, special

from grader.course import Course
from grader.intake import reading, sources
from grader.intake.layouts import layouts
from grader.intake.limits import Limits
from grader.intake.placing import State

NUL_NAME = "eve/a.py?.py"  # zipfile cannot write the NUL itself


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("eve/../../../x.py", "leaves the submission"),
        ("eve/lab//x.py", "leaves the submission"),
        ("eve/a\\..\\x.py", "name has \\"),
        (NUL_NAME, "control characters"),
        ("eve/x\n.py", "control characters"),
        ("eve/1/2/3/4/5/6/7/8/9/x.py", "deeper than 8"),
    ],
)
def test_a_path_trick_costs_its_submission(
    own: Course, answer: Answer, zipped: Make, take: Take, name: str, why: str
) -> None:
    good = (f"eve/{LAB}.ipynb", answer("eve"))
    path = zipped(*between(answer, good, (name, b"x")))
    path.write_bytes(path.read_bytes().replace(NUL_NAME.encode(), b"eve/a.py\0.py"))
    state, reason = judged(take(path), own)
    assert state is State.REFUSED
    assert why in reason


@pytest.mark.parametrize("name", ["/eve/x.py", "../eve/x.py", "C:/eve/x.py", "x.py"])
def test_a_path_that_is_nobodys_is_a_stray(
    own: Course, answer: Answer, zipped: Make, take: Take, name: str
) -> None:
    eve = (f"eve/{LAB}.ipynb", answer("eve"))
    manifest = take(zipped(*between(answer, eve, (name, b"x"))), layout="folder")
    assert [stray.path for stray in manifest.strays] == [name]
    assert judged(manifest, own)[0] is State.COLLECTED


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A.py", "a.py"),
        ("\xe9.py", "e\u0301.py"),
        ("x.py", "x.py"),
        ("a.py/b.py", "A.py"),
        ("A.py", "a.py/b.py"),
        (f"{LAB}.ipynb", f"{LAB}.IPYNB"),
    ],
)
def test_names_that_collide_somewhere(
    own: Course,
    answer: Answer,
    tarred: Make,
    take: Take,
    first: str,
    second: str,
) -> None:
    entries = [(f"eve/{name}", answer("eve")) for name in (first, second)]
    state, reason = judged(take(tarred(*between(answer, *entries))), own)
    assert state is State.REFUSED
    assert "would be one file on some system" in reason


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (special("eve/link.py", stat.S_IFLNK | 0o777), "it is a link"),
        (special("eve/pipe.py", stat.S_IFIFO | 0o666), "it is a device, pipe or socket"),
        (special("eve/disk.py", stat.S_IFBLK | 0o666), "it is a device, pipe or socket"),
        (zipfile.ZipInfo("eve/inner.zip"), "archives are not opened"),
        (zipfile.ZipInfo("eve/inner.TAR.GZ"), "archives are not opened"),
        (zipfile.ZipInfo("eve/run.exe"), "files of type .exe are not taken"),
        (zipfile.ZipInfo("eve/Makefile"), "files without a suffix are not taken"),
        (zipfile.ZipInfo("eve/con.py"), "its name is not possible on Windows: rename it"),
        (zipfile.ZipInfo("eve/C:x.py"), "its name has :, which is not possible on Windows"),
        (zipfile.ZipInfo("eve/x.py."), "its name is not possible on Windows"),
        (zipfile.ZipInfo("eve/x.py "), "its name is not possible on Windows"),
        (zipfile.ZipInfo(f"eve/{'x' * 256}.py"), "its name is longer than 255 bytes"),
    ],
)
def test_a_file_that_is_not_taken_costs_only_itself(
    own: Course,
    answer: Answer,
    zipped: Make,
    take: Take,
    entry: zipfile.ZipInfo,
    why: str,
) -> None:
    good = (f"eve/{LAB}.ipynb", answer("eve"))
    manifest = take(zipped(*between(answer, (entry, b"/etc/passwd"), good)))
    state, reason = judged(manifest, own)
    assert state is State.COLLECTED
    assert why in reason
    assert len(list(own.submitted(LAB, "eve").parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("limits", "files", "whole", "why"),
    [
        ({"file_bytes": 5_000}, [5_000], False, ""),
        ({"file_bytes": 5_000}, [5_001], False, "larger than 5000 bytes"),
        ({"submission_bytes": 9_000}, [4_000, 4_500], True, "more than 9000 bytes"),
        ({"submission_files": 3}, [1, 1], False, ""),
        ({"submission_files": 3}, [1, 1, 1], True, "more than 3 files"),
    ],
)
def test_limits(
    own: Course,
    answer: Answer,
    tarred: Make,
    take: Take,
    limits: dict[str, int],
    files: list[int],
    whole: bool,
    why: str,
) -> None:
    extra = [(f"eve/{i}.csv", os.urandom(size)) for i, size in enumerate(files)]
    source = tarred(*between(answer, (f"eve/{LAB}.ipynb", answer("eve")), *extra))
    state, reason = judged(take(source, limits=Limits(**limits)), own)
    assert state is (State.REFUSED if whole else State.COLLECTED)
    assert why in reason
    assert bool(why) == bool(reason)


def test_ten_thousand_files(own: Course, answer: Answer, zipped: Make, take: Take) -> None:
    many = ((f"eve/{i}.py", b"") for i in range(10_000))
    state, reason = judged(take(zipped(*between(answer, *many))), own)
    assert (state, reason) == (
        State.REFUSED,
        "it has more than 200 files and folders (see --max-files)",
    )


def test_all_submissions_together_are_limited(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    size = len(answer("ann"))
    entries = [(f"s{i}/{LAB}.ipynb", answer("ann")) for i in range(5)]
    manifest = take(zipped(*entries), limits=Limits(total_bytes=3 * size + 1))
    assert "all submissions have more than" in manifest.damage
    assert [each.state.value for each in manifest.submissions] == ["collected"] * 3 + ["refused"]


def test_a_submission_may_be_as_large_as_the_limit(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    book = answer("eve")
    path = zipped(*between(answer, (f"eve/{LAB}.ipynb", book), ("eve/x.csv", b"1,2\n")))
    for missing, state in ((0, State.COLLECTED), (1, State.REFUSED)):
        limits = Limits(submission_bytes=len(book) + 4 - missing)
        manifest = take(path, limits=limits, dry_run=True)
        (eve,) = (each for each in manifest.submissions if each.student == "eve")
        assert eve.state is state


def test_a_refused_submission_leaves_its_room_to_the_others(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    size = len(answer("ann"))
    eve = [(f"eve/{i}.csv", bytes(size)) for i in range(4)]
    source = zipped(*between(answer, *eve, ("eve/../x.py", b"")))
    state, _ = judged(take(source, limits=Limits(total_bytes=5 * size)), own)
    assert state is State.REFUSED


@pytest.mark.parametrize(("listed", "read"), [(0, 2), (5_001, 0)])
def test_no_more_is_read_than_may_be_taken(tmp_path: Path, listed: int, read: int) -> None:
    """What was read counts, not what the file was listed with; one that says so is not opened."""
    reads = []

    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(size)
            return bytes(3_000)

    class Growing:
        def names(self) -> list[str]:
            return []

        def members(self, _: object) -> Iterator[sources.Member]:
            path = "eve/x.py"
            yield sources.Member(
                path=path, kind=sources.FILE, size=listed, open=lambda: nullcontext(Endless())
            )

    reader = reading.Reading(LAB, layouts(LAB)["folder"], Limits(file_bytes=5_000), tmp_path)
    reader.run(Growing())
    ((path, why),) = reader.submissions["eve"].refused
    assert (path, len(reads)) == ("eve/x.py", read)
    assert "it is larger than 5000 bytes" in why
    assert list(tmp_path.iterdir()) == []


def test_a_collision_names_the_other_file(answer: Answer, zipped: Make, take: Take) -> None:
    files = ((f"eve/{LAB}.ipynb", answer()), ("eve/A.py", b""), ("eve/a.py", b""))
    (eve,) = take(zipped(*files)).submissions
    assert eve.refused[0].path == "eve/a.py"
    assert eve.why == "it and 'A.py' would be one file on some system: rename one"
