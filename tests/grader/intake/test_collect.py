"""From a source to `submitted/`: whose it is, when it came, what counts; killed and run again."""

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grader.cli.main import main
from grader.course import Course
from grader.gradebook.counting import attempts
from grader.intake import collection, placing
from grader.intake.manifest import Manifest
from grader.intake.names import student_id
from grader.intake.placing import State
from grader.intake.roster import Roster, read_roster
from grader.notebooks import read_notebook, source

LAB = "lab01_tiny"
FIRST, SECOND, THIRD = (datetime(2026, 3, day, 12, tzinfo=UTC) for day in (1, 2, 3))
Take = Callable[..., Manifest]
Make = Callable[..., Path]
Answer = Callable[..., bytes]


def collected(own: Course, student: str) -> str:
    """The answer that lies in `submitted/`."""
    return source(read_notebook(own.submitted(LAB, student))["cells"][0])


def received(own: Course, student: str) -> datetime:
    folder = own.submitted(LAB, student).parent
    time = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    assert (folder / "timestamp.txt").read_text() == f"{time:%Y-%m-%d %H:%M:%S} UTC\n"
    return time


def states(manifest: Manifest) -> dict[str, str]:
    return {each.student: each.state.value for each in manifest.submissions}


def tree(folder: Path) -> dict[str, tuple[float, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mtime,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
        if "reports" not in path.parts and path.name != "submitted"
    }


def folder_of(root: Path, files: dict[str, bytes], when: datetime = FIRST) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (when.timestamp(), when.timestamp()))
    return root


def exchange(
    root: Path, user: str, content: bytes, stamp: str = "2026-03-01 12:00:00.5 UTC"
) -> Path:
    folder = root / "course" / "inbound" / f"{user}+{LAB}+{stamp}+abc"
    folder_of(folder, {f"{LAB}.ipynb": content, "timestamp.txt": b"1999", "x.py": b""})
    return root / "course"


@pytest.mark.parametrize(
    ("layout", "name", "student"),
    [
        ("canvas", "doeada_12_34_{lab}.ipynb", "doeada_12"),
        ("moodle", "Ada Doe_12_assignsubmission_file_/{lab}.ipynb", "ada-doe"),
        ("classroom", "lab01-tiny-ada/labs/{lab}/{lab}.ipynb", "ada"),
        ("classroom", "week-1-submissions/week-1-ada/{lab}.ipynb", "ada"),
        ("exchange", "ada+{lab}+2026-03-01 12:00:00 UTC/{lab}.ipynb", "ada"),
        ("folder", "ada/{lab}/{lab}.ipynb", "ada"),
        ("folder", "ada/{lab}.ipynb", "ada"),
        ("folder", "all/ada/{lab}.ipynb", "ada"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "tar", "folder"])
def test_every_layout_in_every_form(
    own: Course,
    answer: Answer,
    zipped: Make,
    tarred: Make,
    take: Take,
    tmp_path: Path,
    layout: str,
    name: str,
    student: str,
    form: str,
) -> None:
    path = name.format(lab=LAB)
    makers = {
        "zip": lambda: zipped((path, answer())),
        "tar": lambda: tarred((path, answer())),
        "folder": lambda: folder_of(tmp_path / "source", {path: answer()}),
    }
    manifest = take(makers[form]())
    assert (manifest.layout, states(manifest)) == (layout, {student: "collected"})
    assert collected(own, student) == "mine"
    assert manifest.strays == ()


def test_a_repository_of_all_labs_gives_only_this_one(
    own: Course, answer: Answer, take: Take, tmp_path: Path
) -> None:
    clone = "lab01-tiny-ada"
    files = {
        f"{clone}/.git/config": b"",
        f"{clone}/README.md": b"",
        f"{clone}/labkit/model.py": b"",
        f"{clone}/chapters/one.ipynb": answer("lecture"),
        f"{clone}/labs/lab02_other/lab02_other.ipynb": answer("other"),
        f"{clone}/labs/{LAB}/{LAB}.ipynb": answer("mine"),
        f"{clone}/labs/{LAB}/data/x.csv": b"1",
    }
    manifest = take(folder_of(tmp_path / "source", files))
    (ada,) = manifest.submissions
    assert sorted(file.path for file in ada.taken) == ["data/x.csv", f"{LAB}.ipynb"]
    assert collected(own, "ada") == "mine"


def test_a_renamed_notebook_is_matched_by_its_cells(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    other = b'{"nbformat": 4, "cells": []}'
    path = zipped(
        ("doeada_12_34_final-1.IPYNB", answer()),
        ("doeada_12_35_a.ipynb", other),
        ("roeben_13_36_empty.ipynb", other),
        (f"foxeli_14_37_{LAB}.ipynb", b"not JSON: grading says so"),
    )
    by_student = {each.student: each for each in take(path).submissions}
    ada = by_student["doeada_12"]
    assert ada.notebook == "final-1.ipynb"
    assert ada.notes[0].startswith("The notebook was called 'final-1.ipynb'")
    assert ada.notes[1] == "Notebooks that are not graded: a.ipynb."
    assert by_student["roeben_13"].why == f"there is no notebook of {LAB} in the submission"
    assert by_student["foxeli_14"].state is State.COLLECTED


def test_a_folder_called_as_the_notebook_is_refused_alone(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    odd = ((f"eve/{name}", answer()) for name in (f"{LAB}.ipynb/a.ipynb", "b.ipynb", "c.ipynb"))
    manifest = take(zipped((f"ada/{LAB}.ipynb", answer()), *odd))
    assert states(manifest) == {"ada": "collected", "eve": "refused"}
    assert manifest.submissions[1].why == f"{LAB}.ipynb is a folder"


def test_a_refused_notebook_is_named_as_the_reason(
    zipped: Make, answer: Answer, take: Take
) -> None:
    huge = answer("x" * 21 * 2**20)
    (ada,) = take(zipped(("doeada_12_34_lab.ipynb", huge))).submissions
    assert "no notebook" in ada.why
    assert "larger than 20971520 bytes" in ada.why


def test_resubmission(own: Course, answer: Answer, zipped: Make, take: Take) -> None:
    archives = {
        text: zipped((f"ada/{LAB}.ipynb", answer(text)), name=f"{text}.zip")
        for text in ("one", "two", "three", "zero")
    }
    steps = [
        ("one", FIRST, "collected", "one", 1),
        ("one", FIRST, "unchanged", "one", 1),
        ("one", SECOND, "unchanged", "one", 1),
        ("three", THIRD, "replaced", "three", 2),
        ("one", FIRST, "unchanged", "three", 2),
        ("two", SECOND, "older", "three", 3),
        ("two", SECOND, "unchanged", "three", 3),
        ("zero", THIRD, "replaced", "zero", 4),
        ("zero", datetime(2026, 3, 4, tzinfo=UTC), "unchanged", "zero", 4),
    ]
    for text, when, state, current, count in steps:
        before = tree(own.root)
        assert states(take(archives[text], received=when)) == {"ada": state}
        assert collected(own, "ada") == current
        assert len(attempts(own, LAB, "ada")) == count
        assert state != "unchanged" or tree(own.root) == before
    texts = [
        source(read_notebook(p / f"{LAB}.ipynb")["cells"][0]) for p in attempts(own, LAB, "ada")
    ]
    times = [int(path.stat().st_mtime) for path in attempts(own, LAB, "ada")]
    assert texts == ["one", "three", "two", "zero"]
    assert times == [int(time.timestamp()) for time in (FIRST, THIRD, SECOND, THIRD)]
    assert received(own, "ada") == THIRD


def test_going_back_to_an_earlier_answer_counts(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    for text, when in (("one", FIRST), ("two", SECOND), ("one", THIRD)):
        take(zipped((f"ada/{LAB}.ipynb", answer(text))), received=when)
    assert collected(own, "ada") == "one"
    assert received(own, "ada") == THIRD


def test_a_refused_resubmission_leaves_the_earlier(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    take(zipped((f"ada/{LAB}.ipynb", answer())))
    assert states(take(zipped(("ada/../x.py", b"")), layout="folder")) == {"ada": "refused"}
    assert collected(own, "ada") == "mine"


def test_what_is_gone_from_submitted_is_put_back(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    path = zipped((f"ada/{LAB}.ipynb", answer()))
    take(path, received=FIRST)
    shutil.rmtree(own.submitted(LAB, "ada").parent)
    assert states(take(path, received=FIRST)) == {"ada": "unchanged"}
    assert collected(own, "ada") == "mine"
    assert received(own, "ada") == FIRST


def test_what_was_put_in_by_hand_is_kept(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    folder_of(own.root / "submitted", {f"ada/{LAB}/{LAB}.ipynb": answer("by hand")})
    os.utime(own.submitted(LAB, "ada").parent, (FIRST.timestamp(),) * 2)
    take(zipped((f"ada/{LAB}.ipynb", answer())), received=SECOND)
    kept, new = attempts(own, LAB, "ada")
    assert b"by hand" in (kept / f"{LAB}.ipynb").read_bytes()
    assert b"mine" in (new / f"{LAB}.ipynb").read_bytes()
    assert kept.stat().st_mtime == FIRST.timestamp()


@pytest.mark.parametrize("step", range(1, 12))
@pytest.mark.parametrize("had_one", [False, True])
def test_killed_at_any_step_and_run_again(
    own: Course,
    answer: Answer,
    zipped: Make,
    take: Take,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    had_one: bool,
) -> None:
    """Every change to the file system is a step; after each, a rerun ends as if undisturbed."""
    if had_one:
        take(zipped((f"ada/{LAB}.ipynb", answer("old"))), received=FIRST)
    path = zipped((f"ada/{LAB}.ipynb", answer("new")), (f"ben/{LAB}.ipynb", answer("ben")))
    left = [step]

    def counted(call: Callable) -> Callable:
        def run(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return call(*arguments, **options)

        return run

    with monkeypatch.context() as patched:
        for owner, name in [
            (Path, "rename"),
            (shutil, "copytree"),
            (shutil, "rmtree"),
            (os, "utime"),
        ]:
            patched.setattr(owner, name, counted(getattr(owner, name)))
        with suppress(KeyboardInterrupt):
            take(path, received=SECOND)
    take(path, received=SECOND)
    assert (collected(own, "ada"), collected(own, "ben")) == ("new", "ben")
    assert received(own, "ada") == SECOND
    kept = [(p / f"{LAB}.ipynb").read_bytes() for p in attempts(own, LAB, "ada")]
    assert kept == ([answer("old")] if had_one else []) + [answer("new")]
    assert sorted(p.name for p in (own.root / "submitted").iterdir()) == ["ada", "ben"]
    assert sorted(p.name for p in own.submitted(LAB, "ada").parents[1].iterdir()) == [LAB]


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
        assert abs(received(own, student).timestamp() - time.time()) < 100
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
    assert abs(received(own, "ada").timestamp() - began) < 100
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


def test_nobody_hands_in_for_another(
    own: Course, answer: Answer, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("ada", "eve"):
        exchange(tmp_path, user, answer(user))
    monkeypatch.setattr(collection, "_account", lambda _: "eve")
    by_source = {each.source.split("+")[0]: each for each in take(tmp_path / "course").submissions}
    assert by_source["ada"].why == "it belongs to the account 'eve'"
    assert by_source["eve"].state is State.COLLECTED


ROWS = (
    {
        "id": "ada1",
        "canvas_id": "12",
        "email": "ada@x.org",
        "name": "Ada Doe",
        "github": "lovelace",
    },
    {"id": "ben2", "canvas_id": "13", "email": "ben@x.org", "name": "Roe, Ben", "github": "benroe"},
    {"id": "twin-a", "name": "Kim Lee"},
    {"id": "twin-b", "name": "Kim Lee"},
)


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("anything_12_34_{lab}.ipynb", "ada1"),
        ("doeada_99_34_{lab}.ipynb", "doeada_99"),
        ("Ada Doe_7_assignsubmission_file_/{lab}.ipynb", "ada1"),
        ("ben roe_7_assignsubmission_file_/{lab}.ipynb", "ben2"),
        ("ben@x.org_7_assignsubmission_file_/{lab}.ipynb", "ben2"),
        ("Kim Lee_7_assignsubmission_file_/{lab}.ipynb", None),
        ("ada1_7_assignsubmission_file_/{lab}.ipynb", None),
        ("lab01-tiny-LoveLace/{lab}.ipynb", "ada1"),
        ("lab01-tiny-nobody/{lab}.ipynb", "nobody"),
        ("ada1/{lab}.ipynb", "ada1"),
        ("ADA@x.org/{lab}.ipynb", "ada1"),
        ("Ben Roe/{lab}.ipynb", "ben2"),
        ("x_12_13_34_{lab}.ipynb", None),
        ("x_12_34_5_{lab}.ipynb", "ada1"),
    ],
)
def test_the_roster_says_who_it_is(
    answer: Answer, zipped: Make, take: Take, path: str, student: str | None
) -> None:
    manifest = take(zipped((path.format(lab=LAB), answer())), *ROWS)
    (found,) = manifest.submissions
    assert found.student == (student or "")
    assert (found.state is State.REFUSED) == (student is None)
    known = {row["id"] for row in ROWS}
    assert manifest.named_freely == ((student,) if student and student not in known else ())


def test_two_people_of_one_name_need_a_roster(zipped: Make, answer: Answer, take: Take) -> None:
    names = [f"Kim Lee_{i}_assignsubmission_file_/{LAB}.ipynb" for i in (1, 2)]
    manifest = take(zipped(*((name, answer()) for name in names)))
    assert {each.why for each in manifest.submissions} == {
        "2 people here would be 'kim-lee': use --roster"
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "needs a column `id`"),
        ("name,email\nA,b\n", "needs a column `id`"),
        ("id\na\na\n", "the id 'a' is there more than once"),
        ("id\n../x\n", "roster: id '../x' must be 1 to 100"),
        ("id,name\n,Ada\n", "roster: id '' must be"),
        ("id\n\xff\n", "not a CSV file in UTF-8"),
        ("id,name\nada\n", None),
        ("\xef\xbb\xbfid, name ,odd\nada,Ada,1,2\n", None),
    ],
)
def test_rosters(tmp_path: Path, text: str, sentence: str | None) -> None:
    path = tmp_path / "roster.csv"
    path.write_bytes(text.encode("latin-1"))
    if sentence is None:
        assert read_roster(path).ids == ["ada"]
        return
    with pytest.raises(ValueError, match=sentence):
        read_roster(path)


def command(own: Course, *arguments: str) -> int:
    return main(["--root", str(own.root), "collect", LAB, *arguments])


def test_the_command_line(
    own: Course, answer: Answer, zipped: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = ("roeben_13_35_\x1b[31m.zip", b"")
    path = str(zipped(("doeada_12_34_a.ipynb", answer()), evil, ("x/y.bin", b"")))
    before = tree(own.root)
    assert command(own, path, "--dry-run") == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert tree(own.root) == before
    assert command(own, path) == 0
    out = capsys.readouterr().out
    assert "layout canvas: 1 collected, 1 refused." in out
    assert "\x1b" not in out
    assert "its name has control characters" in out
    assert "2 ids were made of names (no roster), such as 'doeada_12'" in out
    (written,) = own.reports(LAB).glob("collected/*.json")
    content = json.loads(written.read_text())
    assert content["schema"] == 1
    ada = next(each for each in content["submissions"] if each["student"] == "doeada_12")
    assert ada["taken"][0]["source"] == "doeada_12_34_a.ipynb"
    assert len(ada["taken"][0]["sha256"]) == len(ada["sha256"]) == 64
    assert content["strays"][0]["path"] == "x"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "there is no folder and no archive"),
        ([".", "--received", "2026-03-01"], "needs its offset from UTC"),
        ([".", "--max-files", "0"], "must be at least 1"),
        ([".", "--allow", "EXE"], "must be in lower case and begin with a dot"),
        ([".", "--roster", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_mistakes_are_one_sentence(
    own: Course, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert command(own, *arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_damaged_source_is_exit_status_1(
    own: Course, answer: Answer, tarred: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tarred((f"ada/{LAB}.ipynb", answer()), ("ben/x.npy", os.urandom(50_000)))
    path.write_bytes(path.read_bytes()[:-20_000])
    assert command(own, str(path)) == 1
    assert "Not everything could be read" in capsys.readouterr().err
    own.release(LAB).unlink()
    assert command(own, str(path)) == 2
    assert "is not released" in capsys.readouterr().err


NAMES = st.text(
    alphabet=st.sampled_from("aA.\\/:_+\0\n\udcff é小\u202e~*0") | st.characters(), max_size=20
)
PARTS = NAMES | st.sampled_from(
    ["..", ".", "", "ada", LAB, f"{LAB}.ipynb", "con", "A_1_assignsubmission_file_", "a_1_2_x.py"]
)
PATHS = st.lists(PARTS, max_size=6).map("/".join)
MODES = st.sampled_from([0, 0o100644, 0o120777, 0o040755, 0o010644, 0o060644])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(entries=st.lists(st.tuples(PATHS, MODES, st.booleans()), max_size=8))
def test_no_name_writes_outside_the_course(
    own: Course, answer: Answer, take: Take, tmp_path: Path, entries: list[tuple[str, int, bool]]
) -> None:
    """Whatever the members of an archive are called, on the real file system."""
    path = tmp_path / "any.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that are there twice
        for name, mode, book in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name.encode("utf-8", "replace").decode() or "x"
            info.external_attr = mode << 16
            archive.writestr(info, answer(info.filename) if book else b"")
    before = set(tmp_path.rglob("*"))
    take(path)
    new = set(tmp_path.rglob("*")) - before
    places = [own.root / "submitted", own.root / "attempts"]
    assert all(any(place in (p, *p.parents) for place in places) for p in new)
    for made in new:
        assert not made.is_symlink()
        student = made.relative_to(places[0]).parts[:1] if places[0] in made.parents else ()
        assert not student or student_id(student[0]) == student[0]
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.skipif(sys.platform != "linux", reason="counts this process's open files")
def test_nothing_is_left_open_or_lying_about(
    own: Course, answer: Answer, zipped: Make, take: Take, tmp_path: Path
) -> None:
    files = len(os.listdir("/proc/self/fd"))
    take(zipped((f"ada/{LAB}.ipynb", answer()), ("ben/../x", b"")))
    take(folder_of(tmp_path / "s", {f"gus/{LAB}.ipynb": answer(), "gus/x.py": b""}, THIRD))
    assert len(os.listdir("/proc/self/fd")) == files
    assert not list(own.root.glob("submitted/.*"))
    assert not list(own.root.glob("attempts/*/*/.*"))


def test_a_thousand_submissions_take_seconds(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    entries = [(f"name{i}_{i}_{i}_{LAB}.ipynb", answer(str(i))) for i in range(1000)]
    assert take(zipped(*entries)).states() == {State.COLLECTED: 1000}
    assert placing.Place(own, LAB, "name7_7")._kept[0].sha256


def test_an_empty_roster_finds_nobody() -> None:
    assert not Roster()
    assert Roster().find("name", "Ada") is None


def test_the_fuzzer_runs(tmp_path: Path) -> None:
    """For seconds here; `python tests/grader/intake/fuzz.py --minutes 10` is the real run."""
    fuzz = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(fuzz), "--minutes", "0.02"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " 0 crashes." in done.stdout
