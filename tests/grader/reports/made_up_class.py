"""A made-up class, and what a class report says of it."""

import re
from dataclasses import replace
from random import Random

from grader.results import CellResult, Result, Status, summarise

LAB = "lab03_lora"
POINTS = {"delta": 4, "linear": 7, "train": 5}
WRONG = "{name}: {n} of 99 values differ, by up to {by} (allowed: rounding). Hint: divide."


def cell(check: str, *, hidden: bool = False, fails: str = "", **more: object) -> CellResult:
    points = POINTS[check] / 2
    status = more.pop("status", Status.WRONG if fails else Status.OK)
    fields = {
        "cell": f"{'hidden' if hidden else 'check'}_{check}", "check": check, "hidden": hidden,
        "points": points, "score": 0.0 if fails else points, "status": status, "message": fails,
        "seeds": (1,), "seconds": 0.5,
    }  # fmt: skip
    return CellResult(**fields | more)


def submission(student: str, *cells: CellResult, **more: object) -> Result:
    status, reason = summarise(cells)
    fields = {
        "student": student, "lab": LAB, "status": status, "reason": reason,
        "score": sum(c.score for c in cells), "max_score": 16.0, "tier": "bubblewrap",
        "sha256": "", "received": "2026-03-01T12:00:00+00:00", "seconds": 1.5, "cells": cells,
    }  # fmt: skip
    return Result(**fields | more)


def invalid(student: str, reason: str = "it is empty") -> Result:
    return submission(student, status=Status.INVALID, reason=reason)


def attempt(check: str, public: str = "", hidden: str | None = None) -> tuple[CellResult, ...]:
    """An exercise's two cells, with the messages they fail with."""
    both = public if hidden is None else hidden
    return cell(check, fails=public), cell(check, hidden=True, fails=both)


def blocked(student: str) -> Result:
    cells = attempt("delta", "no GPU")
    return submission(student, *(replace(c, status=Status.BLOCKED, seconds=0.0) for c in cells))


def a_class(size: int) -> list[Result]:
    """Submissions of different ability, a few of them invalid, slow or tampered with."""
    random = Random(size)
    results = []
    for number in range(size):
        if number % 50 == 7:
            results.append(invalid(f"student-{number:04}"))
            continue
        ability, cells = random.gauss(0, 1), []
        for hardness, name in enumerate(POINTS):
            message = WRONG.format(name=name, n=random.randint(1, 99), by=random.random())
            fails = message if random.gauss(ability, 1) < hardness - 1 else ""
            status = Status.TIMEOUT if fails and random.random() < 0.1 else None
            for one in attempt(name, fails):
                cells.append(replace(one, status=status) if status else one)
        seconds = random.lognormvariate(0, 0.5)
        results.append(submission(f"student-{number:04}", *cells, seconds=seconds))
    return results


def section(html: str, heading: str) -> str:
    return html.partition(f"<h2>{heading}</h2>")[2].partition("<h2>")[0]


def rows(html: str) -> list[list[str]]:
    """The cells of a section's tables as text."""
    lines = re.findall("<tr>(.*?)</tr>", html)
    cells = [re.findall("<td.*?>(.*?)</td>", line) for line in lines]
    return [[re.sub("<.*?>", "", one) for one in line] for line in cells if line]


def body(html: str) -> str:
    return html.partition("<body>")[2]
