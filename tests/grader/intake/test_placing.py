"""Attempts: kept in order, told apart by content, the latest put where it counts."""

import os
import shutil
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
    collected,
    folder_of,
    received,
    states,
    tree,
)

from grader.course import Course
from grader.gradebook.attempts import attempts
from grader.intake import collection
from grader.intake.placing import State
from grader.notebooks import read_notebook, source


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


def test_an_archive_handed_in_is_named_as_the_reason(zipped: Make, take: Take) -> None:
    (ada,) = take(zipped(("doeada_12_34_lab.zip", b"PK"))).submissions
    assert "no notebook" in ada.why
    assert "; of what was handed in, archives are not opened" in ada.why


@pytest.mark.parametrize("changed", ["name", "content", "file more", "file less"])
def test_any_change_is_another_attempt(
    own: Course, answer: Answer, zipped: Make, take: Take, changed: str
) -> None:
    files = {f"ada/{LAB}.ipynb": answer(), "ada/a.csv": b"1", "ada/b.csv": b"2"}
    take(zipped(*files.items()), received=FIRST)
    if changed == "name":
        files["ada/c.csv"] = files.pop("ada/b.csv")
    elif changed == "content":
        files["ada/a.csv"], files["ada/b.csv"] = b"2", b"1"
    elif changed == "file more":
        files["ada/c.csv"] = b""
    else:
        del files["ada/b.csv"]
    assert states(take(zipped(*files.items()), received=SECOND)) == {"ada": "replaced"}
    assert len(attempts(own, LAB, "ada")) == 2


def test_two_of_one_second_end_with_the_one_collected_last(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    for text in ("one", "two"):
        take(zipped((f"ada/{LAB}.ipynb", answer(text))), received=FIRST)
    shutil.rmtree(own.submitted(LAB, "ada").parent)
    take(zipped((f"ada/{LAB}.ipynb", answer("two"))), received=FIRST)
    assert collected(own, "ada") == "two"


def in_the_way(own: Course, kind: str) -> Path:
    """Something of ada's in `submitted/` that is no folder of files."""
    place = own.submitted(LAB, "ada").parent
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_bytes(b"")
    elif kind == "dangling":
        place.symlink_to("nowhere")
    elif kind == "link to a classmate":
        place.symlink_to(own.submitted(LAB, "ben").parent)
    else:
        folder_of(place, {f"{LAB}.ipynb": b"by hand"})
        os.mkfifo(place / "pipe.py")
        (place / "link.py").symlink_to("/etc/passwd")
        os.utime(place, (FIRST.timestamp(),) * 2)
    return place


@pytest.mark.parametrize("kind", ["file", "dangling", "link to a classmate", "pipe and link"])
def test_what_lies_in_the_way_costs_nobody_anything(
    own: Course, answer: Answer, zipped: Make, take: Take, kind: str
) -> None:
    folder_of(own.root, {f"submitted/ben/{LAB}/{LAB}.ipynb": answer("ben")})
    place = in_the_way(own, kind)
    path = zipped(*((f"{name}/{LAB}.ipynb", answer(name)) for name in ("ada", "zoe")))
    assert states(take(path)) == {
        "ada": "replaced" if kind == "pipe and link" else "collected",
        "zoe": "collected",
    }
    assert (collected(own, "ada"), collected(own, "ben")) == ("ada", "ben")
    assert [path.name for path in place.parent.iterdir()] == [LAB]
    for attempt in attempts(own, LAB, "ada"):
        assert all(path.is_file() and not path.is_symlink() for path in attempt.iterdir())
    assert states(take(path)) == {"ada": "unchanged", "zoe": "unchanged"}


def test_a_place_that_cannot_be_written_costs_only_its_student(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    folder_of(own.root, {"submitted/ada": b"a file"})
    manifest = take(zipped(*((f"{name}/{LAB}.ipynb", answer()) for name in ("ada", "zoe"))))
    assert states(manifest) == {"ada": "refused", "zoe": "collected"}
    assert manifest.submissions[0].why.startswith("it cannot be put in its place: ")


def test_what_fails_leaves_nothing_lying_about(
    own: Course, answer: Answer, zipped: Make, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collection.Reading, "run", full)
    with pytest.raises(OSError, match="No space left"):
        take(zipped((f"ada/{LAB}.ipynb", answer())))
    assert list((own.root / "submitted").iterdir()) == []
