"""A lab's stored results, each read by itself: one that cannot be read costs no other one."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from grader.course import Course, is_safe_name
from grader.results import Result, read_result

MAX_BYTES = 4 * 2**20  # an honest result has some 20 kB, one with the longest messages 200 kB
MOST_POINTS = 1e15  # what a spreadsheet shows without an exponent
SHOWN_CHARACTERS = 160
BROKEN = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What there is of a lab.

    Attributes:
        results: Those that can be read, in the students' order.
        unreadable: By the name of each other file: why it cannot be read, and the way out.
    """

    results: tuple[Result, ...]
    unreadable: Mapping[str, str]


def read_stored(course: Course, lab: str) -> Stored:
    """Read all results of a lab; ValueError if nothing was graded."""
    paths = sorted((course.reports(lab) / "results").glob("*.json"), key=lambda path: path.stem)
    if not paths:
        raise ValueError(f"{lab} has no results yet: run `grader autograde {lab}` first")
    results, unreadable = [], {}
    for path in paths:
        try:
            results.append(_read(path, lab))
        except BROKEN as error:
            way_out = f"run `grader autograde {lab} --student {path.stem}`"
            if not is_safe_name(path.stem):
                way_out = "remove it"
            unreadable[one_line(path.stem)] = f"{one_line(str(error))}: {way_out}"
    return Stored(results=tuple(results), unreadable=unreadable)


def _read(path: Path, lab: str) -> Result:
    if not path.is_file() or not is_safe_name(path.stem):
        raise ValueError(f"{path.name} is no student's result")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path.name} has {size} bytes, more than {MAX_BYTES}")
    result = read_result(path)
    if wrong := next(_wrong_fields(result), ""):
        raise ValueError(f"{path.name} is not a result of this grader: its {wrong} is no {wrong}")
    if (result.student, result.lab) != (path.stem, lab):
        raise ValueError(f"{path.name} holds a result of another student or lab")
    return result


def _wrong_fields(record: Any) -> Iterator[str]:
    """Names of the fields that hold something else than their types say: JSON may hold anything."""
    return (f.name for f in fields(record) if not _is(f.type, getattr(record, f.name)))


def _is(kind: Any, value: object) -> bool:
    """Whether a value is of a field's type; numbers must be finite, text must be text."""
    if get_origin(kind) is tuple:
        parts, items = get_args(kind), value if isinstance(value, tuple) else ()
        kinds = parts[:1] * len(items) if parts[1:] == (...,) else parts
        return len(kinds) == len(items) and all(map(_is, kinds, items))
    if kind is float and isinstance(value, float | int):
        return not isinstance(value, bool) and abs(value) < MOST_POINTS
    if kind is str and isinstance(value, str):
        return _can_be_written(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return False
    return not is_dataclass(value) or not any(_wrong_fields(value))


def _can_be_written(text: str) -> bool:
    """Half of a surrogate pair can be in JSON, but in no page or file."""
    return text.encode(errors="replace").decode() == text


def read_refusals(course: Course, lab: str) -> list[tuple[str, str]]:
    """Who or what `grader collect` refused and has not taken since, and why."""
    last: dict[str, tuple[bool, str]] = {}
    for path in sorted((course.reports(lab) / "collected").glob("*.json")):
        try:
            last |= _taken(path)
        except BROKEN:
            last[path.name] = (False, "this list of what was collected cannot be read: remove it")
    return [(name, why) for name, (taken, why) in sorted(last.items()) if not taken]


def _taken(path: Path) -> dict[str, tuple[bool, str]]:
    """By submission, whether one collecting took it, and why not."""
    return {
        str(one["student"] or one["source"]): (
            one["state"] != "refused",
            "; ".join(filter(None, (one["why"], *(part["why"] for part in one["refused"])))),
        )
        for one in json.loads(path.read_text(encoding="utf-8"))["submissions"]
    }


def one_line(said: str) -> str:
    """One short line that moves no cursor."""
    return "".join(c if c.isprintable() else "?" for c in said[:SHOWN_CHARACTERS])
