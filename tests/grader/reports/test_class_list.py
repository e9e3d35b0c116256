"""Rosters: what platforms call students, and broken files in one sentence."""

from pathlib import Path

import pytest

from grader.reports.class_list import Person, read_class_list


def test_a_roster_is_read_as_spreadsheets_save_it(tmp_path: Path) -> None:
    path = tmp_path / "roster.csv"
    path.write_text("\ufeffid, name ,github\n ada ,Ada =1,ada-hub\nben,,\n", encoding="utf-8")
    assert read_class_list(path) == {
        "ada": Person(id="ada", name="Ada =1"),
        "ben": Person(id="ben"),
    }
    assert Person(id="ada").login == "ada"
    assert Person(id="ada", username="al1").login == "al1"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"name\nada\n", "needs a column `id`; it has name"),
        (b"id\nada\nada\n", "the id 'ada' is there more than once"),
        (b"id\n../x\n", "roster: id '../x' must be"),
        (b"id\n\xff\n", "is not a CSV file in UTF-8"),
        (b"id\n", "needs a row for each student"),
    ],
)
def test_a_broken_roster_is_one_sentence(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "roster.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        read_class_list(path)
