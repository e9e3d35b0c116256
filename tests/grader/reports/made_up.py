"""Made-up results and notebooks."""

from typing import Any

from grader.notebooks import Notebook
from grader.results import CellResult, Result, Status, summarise

LAB = "lab03_lora"


def cell(
    check: str = "delta", *, hidden: bool = False, message: str = "", **more: Any
) -> CellResult:
    fields: dict[str, Any] = {
        "cell": f"{'hidden' if hidden else 'check'}_{check}", "check": check, "hidden": hidden,
        "points": 2.0, "score": 0.0 if message else 2.0,
        "status": Status.WRONG if message else Status.OK, "message": message, "seeds": (1,),
        "seconds": 0.1,
    }  # fmt: skip
    return CellResult(**fields | more)


def submission(*cells: CellResult, **more: Any) -> Result:
    status, reason = summarise(cells)
    fields: dict[str, Any] = {
        "student": "ada", "lab": LAB, "status": status, "reason": reason,
        "score": sum(c.score for c in cells), "max_score": sum(c.points for c in cells),
        "tier": "bubblewrap", "sha256": "", "received": "2026-03-01T12:34:56+00:00",
        "seconds": 1.5, "cells": cells,
    }  # fmt: skip
    return Result(**fields | more)


def notebook(*cells: dict[str, Any]) -> Notebook:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def made(name: str, source: str, kind: str = "code", **facts: bool) -> dict[str, Any]:
    nbgrader = {"grade_id": name, "grade": False, "solution": False, "task": False} | facts
    return {"cell_type": kind, "id": name, "metadata": {"nbgrader": nbgrader}, "source": source}
