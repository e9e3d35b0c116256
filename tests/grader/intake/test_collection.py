"""From a source to `submitted/`: whose it is, and nothing is written elsewhere."""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from fuzz_inputs import archives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intake_kit import (
    LAB,
    THIRD,
    Answer,
    Make,
    Take,
    collected,
    exchange,
    folder_of,
    states,
    whole,
)

from grader.course import Course
from grader.intake import collection, gathered
from grader.intake.names import student_id
from grader.intake.placing import State


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


def test_nobody_hands_in_for_another(
    own: Course, answer: Answer, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("ada", "eve"):
        exchange(tmp_path, user, answer(user))
    monkeypatch.setattr(gathered, "_account", lambda _: "eve")
    by_source = {each.source.split("+")[0]: each for each in take(tmp_path / "course").submissions}
    assert by_source["ada"].why == "it belongs to the account 'eve'"
    assert by_source["eve"].state is State.COLLECTED
    shutil.rmtree(next((tmp_path / "course" / "inbound").glob("eve+*")))
    rows = ({"id": name} for name in ("ada", "eve"))
    assert take(tmp_path / "course", *rows).submissions[0].why == by_source["ada"].why


def test_two_collectings_at_a_time(own: Course, take: Take, tmp_path: Path) -> None:
    with (
        collection._staging(own, dry_run=False),
        pytest.raises(ValueError, match="another `grader collect` is running"),
    ):
        take(tmp_path)
    take(own.root / "labs")


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


def test_real_names_of_canvas(own: Course, answer: Answer, zipped: Make, take: Take) -> None:
    """Late, resubmitted under one name, with a text beside it, of a student without letters."""
    names = [
        "doeada_1234_56789_lab01_tiny-1.ipynb",
        "doeada_1234_56790_plot.png",
        "roebenjamin_LATE_1235_56791_lab01_tiny-2.ipynb",
        "\u738b\u5c0f\u660e_1236_56792_Untitled (1).ipynb",
        "foxeli_1237_text.html",
    ]
    manifest = take(zipped(*((name, answer(name)) for name in names)))
    assert (manifest.layout, manifest.strays) == ("canvas", ())
    by_source = {each.source: each for each in manifest.submissions}
    assert by_source["doeada_1234"].notebook == "lab01_tiny-1.ipynb"
    assert [file.path for file in by_source["doeada_1234"].taken] == [
        *("lab01_tiny-1.ipynb", "plot.png"),
    ]
    assert by_source["roebenjamin_1235"].notes[-1] == "Canvas marked it late."
    assert by_source["\u738b\u5c0f\u660e_1236"].state is State.COLLECTED
    assert "files of type .html are not taken" in by_source["foxeli_1237"].why


@pytest.mark.parametrize("folder", ["_assignsubmission_file_/", "_assignsubmission_file/"])
def test_real_names_of_moodle(answer: Answer, zipped: Make, take: Take, folder: str) -> None:
    """Files and a text of one student, in folders of their own; sub-folders in the first."""
    entries = [
        (f"Ada Doe_123456{folder}{LAB}.ipynb", answer()),
        (f"Ada Doe_123456{folder}data/x.csv", b"1"),
        ("Ada Doe_123456_assignsubmission_onlinetext_/onlinetext.html", b"<p>"),
        (f"Anne-Marie O'Neil_123457{folder}final.ipynb", answer()),
        ("Participant 3_123458_assignsubmission_onlinetext/onlinetext.html", b"<p>"),
    ]
    manifest = take(zipped(*entries))
    assert manifest.layout == "moodle"
    by_source = {each.source: each for each in manifest.submissions}
    ada = by_source["Ada Doe_123456"]
    assert [file.path for file in ada.taken] == [f"{LAB}.ipynb", "data/x.csv"]
    assert [refused.why for refused in ada.refused] == [
        "files of type .html are not taken (see --allow)"
    ]
    assert by_source["Anne-Marie O'Neil_123457"].state is State.COLLECTED
    assert by_source["Participant 3_123458"].state is State.REFUSED


IDEMPOTENT = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FILE_NAMES = st.sampled_from(
    ["ada", "Ada", LAB, f"{LAB}.ipynb", "x.py", "X.py", "a_1_2_x.ipynb", ".git", "timestamp.txt"]
) | st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=9).filter(
    lambda name: name not in ("", ".", "..")
)
TREES = st.dictionaries(
    st.lists(FILE_NAMES, min_size=1, max_size=4).map("/".join),
    st.tuples(
        st.sampled_from(["book", "text", "link", "pipe"]),
        st.sampled_from([1e9, 1.7e9, 0, -5, 4e9]),
        st.text(max_size=3),
    ),
    max_size=8,
)


def planted(root: Path, tree: dict[str, tuple], answer: Answer) -> None:
    """Make as much of a tree as a disk can hold."""
    for name, (kind, time, text) in tree.items():
        path = root / name
        if os.path.lexists(path) or not all(p.is_dir() for p in path.parents if p.exists()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            path.symlink_to(root)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(answer(text) if kind == "book" else text.encode())
            os.utime(path, (time, time))


@IDEMPOTENT
@given(tree=TREES, layout=st.sampled_from(["auto", "folder", "canvas", "classroom"]))
def test_any_tree_collected_twice_is_collected_once(
    own: Course, answer: Answer, take: Take, tmp_path: Path, tree: dict[str, tuple], layout: str
) -> None:
    source = tmp_path / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    planted(source, tree, answer)
    first = take(source, layout=layout)
    once, before = whole(own.root), whole(source)
    again = take(source, layout=layout)
    assert set(again.states()) <= {State.UNCHANGED, State.REFUSED}
    assert [each.received for each in again.submissions] == [
        each.received for each in first.submissions
    ]
    assert whole(own.root) == once
    assert whole(source) == before
    for name in ("submitted", "attempts"):
        shutil.rmtree(own.root / name, ignore_errors=True)


@IDEMPOTENT
@given(content=archives(LAB, b'{"nbformat": 4, "cells": []}'))
def test_no_archive_writes_outside_the_course(
    own: Course, take: Take, tmp_path: Path, content: bytes
) -> None:
    """Whatever the members of an archive are, on the real file system."""
    path = tmp_path / "any"
    path.write_bytes(content)
    before = set(tmp_path.rglob("*"))
    with suppress(ValueError):  # it is no archive
        take(path)
    places = [own.root / "submitted", own.root / "attempts"]
    for made in set(tmp_path.rglob("*")) - before:
        assert any(place in (made, *made.parents) for place in places)
        assert not made.is_symlink()
        assert made.is_file() or made.is_dir()
        student = made.relative_to(places[0]).parts[:1] if places[0] in made.parents else ()
        assert not student or student_id(student[0]) == student[0]
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
