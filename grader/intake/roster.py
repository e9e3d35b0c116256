"""The course's list of students: which id belongs to what a learning platform calls somebody."""

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from grader.course import safe_name
from grader.intake.layouts import Origin
from grader.intake.limits import RefusedError
from grader.intake.names import shown, student_id

COLUMNS = ("id", "canvas_id", "email", "name", "github")
ANY_ORDER = "name in any order"
MAX_ROSTER_BYTES = 10 * 2**20


class Roster:
    """Finds ids; one without rows finds none."""

    def __init__(self, rows: Iterable[dict[str, str]] = ()) -> None:
        """Take rows with `COLUMNS`; ValueError if an id is missing, unsafe or there twice."""
        rows = list(rows)
        self.ids = [safe_name(row["id"], "roster: id") for row in rows]
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise ValueError(f"roster: the id {twice[0]!r} is there more than once")
        self._by: dict[str, dict[str, set[str]]] = {c: {} for c in (*COLUMNS, ANY_ORDER)}
        for row in rows:
            for column in COLUMNS:
                self._index(column, {_form(column, row.get(column) or "")}, row["id"])
            self._index(ANY_ORDER, _any_order(row.get("name") or ""), row["id"])

    def _index(self, column: str, keys: set[str], student: str) -> None:
        for key in keys - {""}:
            self._by[column].setdefault(key, set()).add(student)

    @property
    def canvas_ids(self) -> frozenset[str]:
        return frozenset(self._by["canvas_id"])

    def __bool__(self) -> bool:
        return bool(self.ids)

    def find(self, column: str, value: str) -> str | None:
        """The only id with this value, as its form does not matter; None if there is none.

        Raises:
            RefusedError: Several students have it.
        """
        found = self._by[column].get(_form(column, value), set())
        if column == "name" and not found:
            found = self._by[ANY_ORDER].get(_form(column, value), set())
        if len(found) > 1:
            names = ", ".join(sorted(found))
            raise RefusedError(f"{shown(value)!r} is the {column} of {names}", whole=True)
        return next(iter(found), None)

    def student(self, origin: Origin) -> str:
        """The student's id, or one made of the name if nobody in the roster has it.

        Canvas's number decides alone where the roster has numbers: names are the students' own.

        Raises:
            RefusedError: It could be several students', or it is made up and somebody else's.
        """
        if origin.number and self._by["canvas_id"]:
            found = self.find("canvas_id", origin.number)
            if origin.doubtful:
                raise RefusedError("the Canvas ids of two students are in its name", whole=True)
        else:
            columns = dict.fromkeys((origin.column, "id", "email", "name"))
            if origin.column == "name":
                del columns["id"]
            found = next(filter(None, (self.find(c, origin.name) for c in columns)), None)
        return found or self._made_up(origin)

    def _made_up(self, origin: Origin) -> str:
        name = f"{origin.name}_{origin.number}" if origin.number else origin.name
        made = student_id(name)
        if made in self.ids:
            raise RefusedError(
                f"{shown(name)!r} is not in the roster, and {made!r} is somebody else's id",
                whole=True,
            )
        return made


def read_roster(path: Path) -> Roster:
    """Read a CSV file with a column `id` and any of `canvas_id`, `email`, `name`, `github`."""
    if path.stat().st_size > MAX_ROSTER_BYTES:
        raise ValueError(f"{path} is larger than {MAX_ROSTER_BYTES} bytes: it is no roster")
    try:
        text = StringIO(path.read_text(encoding="utf-8-sig"))
        rows = [{(k or "").strip(): v for k, v in row.items()} for row in csv.DictReader(text)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from None
    if not rows or "id" not in rows[0]:
        raise ValueError(f"{path} needs a column `id` and a row for each student")
    cells = ({k: v.strip() for k, v in row.items() if isinstance(v, str)} for row in rows)
    return Roster({"id": "", **row} for row in cells)


def _form(column: str, value: str) -> str:
    """What a value is compared by: numbers and ids as they are, names and addresses more freely."""
    if column in ("id", "canvas_id"):
        return value
    return " ".join(unicodedata.normalize("NFC", value).casefold().split())


def _any_order(name: str) -> set[str]:
    """A name with the last name first or last, and without what Canvas leaves out of names."""
    words = _form("name", name).replace(",", " ").split()
    orders = {" ".join(words[cut:] + words[:cut]) for cut in range(len(words))}
    return orders | {"".join(filter(_is_word, order)) for order in orders}


def _is_word(character: str) -> bool:
    return character == "_" or character.isalnum() or unicodedata.category(character)[0] == "M"
