"""Which student of the roster it is."""

from pathlib import Path

import pytest
from intake_kit import LAB, Answer, Make, Take

from grader.intake.limits import RefusedError
from grader.intake.placing import State
from grader.intake.roster import Roster, read_roster

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


def test_an_empty_roster_finds_nobody() -> None:
    assert not Roster()
    assert Roster().find("name", "Ada") is None


def test_a_roster_tells_people_apart_that_turn_their_names() -> None:
    roster = Roster([{"id": "a", "name": "Ann Lee"}, {"id": "b", "name": "Lee Ann"}])
    assert roster.find("name", "ann  LEE") == "a"
    assert roster.find("name", "lee ann") == "b"
    with pytest.raises(RefusedError, match="is the name of a, b"):
        roster.find("name", "annlee")


def test_a_name_made_to_look_like_anothers_number_costs_the_other_nothing(
    answer: Answer, zipped: Make, take: Take
) -> None:
    """Ben calls himself `doeada_12`, which is what Canvas calls Ada."""
    path = zipped(
        (f"doeada_12_34_{LAB}.ipynb", answer("ada")), (f"doeada_12_13_35_{LAB}.ipynb", answer("x"))
    )
    by_student = {each.student: each for each in take(path, *ROWS).submissions}
    assert by_student["ada1"].state is State.COLLECTED
    assert "the Canvas ids of two students" in by_student[""].why
    assert len(by_student["ada1"].taken) == 1


def test_a_file_that_begins_with_a_number_is_its_students(
    answer: Answer, zipped: Make, take: Take
) -> None:
    path = zipped((f"doeada_12_34_1_{LAB}.ipynb", answer()), ("doeada_12_35_2_x.csv", b"1"))
    (ada,) = take(path, *ROWS).submissions
    assert (ada.student, len(ada.taken)) == ("ada1", 2)


def test_who_of_the_roster_is_missing(answer: Answer, zipped: Make, take: Take) -> None:
    assert take(zipped((f"ben2/{LAB}.ipynb", answer())), *ROWS).missing == (
        *("ada1", "twin-a", "twin-b"),
    )
    refused = zipped((f"ada1/{LAB}.ipynb", answer()), ("ada1/../x", b""))
    assert take(refused, *ROWS).missing == ("twin-a", "twin-b")
