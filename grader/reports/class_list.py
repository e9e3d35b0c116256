"""The roster as exports use it: what a learning platform calls each student.

The same CSV file as for `grader collect`, in UTF-8: a column `id`, and any of `name`, `email`,
`canvas_id`, `sis_id`, `username`, `idnumber` and `section`; other columns are left alone.
"""

import csv
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path

from grader.course import safe_name

MAX_BYTES = 10 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A student as a platform knows them; what is not known is empty.

    Attributes:
        id: In this course.
        canvas_id: Canvas's number for the user.
        sis_id: Of the university's own system.
        username: What they log in with.
        idnumber: Moodle's field of this name.
    """

    id: str
    name: str = ""
    email: str = ""
    canvas_id: str = ""
    sis_id: str = ""
    username: str = ""
    idnumber: str = ""
    section: str = ""

    @property
    def login(self) -> str:
        return self.username or self.id


def read_class_list(path: Path) -> dict[str, Person]:
    """The roster's students by id; ValueError names what is wrong with the file."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes: it is no roster")
    try:
        rows = csv.DictReader(StringIO(path.read_text(encoding="utf-8-sig")))
        found = [_person(row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if not found:
        raise ValueError(f"{path} needs a row for each student")
    people: dict[str, Person] = {}
    for person in found:
        if person.id in people:
            raise ValueError(f"{path}: the id {person.id!r} is there more than once")
        people[person.id] = person
    return people


def _person(row: dict[str, str]) -> Person:
    cells = {k.strip(): v.strip() for k, v in row.items() if k and isinstance(v, str)}
    if "id" not in cells:
        raise ValueError(f"the roster needs a column `id`; it has {', '.join(cells) or 'none'}")
    safe_name(cells["id"], "roster: id")
    return Person(**{f.name: cells[f.name] for f in fields(Person) if f.name in cells})
