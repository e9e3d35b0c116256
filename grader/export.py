"""Scores for other systems: CSV that no spreadsheet runs, and JSON with everything."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

from grader.course import Course
from grader.results import Result, read_results

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write(course: Course, lab: str) -> list[Path]:
    """Write `scores.csv` and `scores.json` of a lab; ValueError if nothing was graded."""
    results = read_results(course.reports(lab) / "results")
    if not results:
        raise ValueError(f"{lab} has no results yet: run `grader autograde {lab}` first")
    folder = course.reports(lab)
    csv_path, json_path = folder / "scores.csv", folder / "scores.json"
    csv_path.write_text(as_csv(results), encoding="utf-8", newline="")
    rows = [asdict(result) | {"versions": dict(result.versions)} for result in results]
    json_path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [csv_path, json_path]


def as_csv(results: list[Result]) -> str:
    """One row a student: status, score, a column for each exercise, the reason."""
    checks = list(dict.fromkeys(cell.check for result in results for cell in result.cells))
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["student", "lab", "status", "score", "max_score", *checks, "reason"])
    for result in results:
        points = dict.fromkeys(checks, 0.0)
        for cell in result.cells:
            points[cell.check] += cell.score
        scores = [f"{result.score:g}", f"{result.max_score:g}"]
        row = [result.student, result.lab, result.status.value, *scores]
        row += [f"{points[check]:g}" for check in checks] + [result.reason]
        writer.writerow([neutral(text) for text in row])
    return buffer.getvalue()


def neutral(text: str) -> str:
    """Prefix what a spreadsheet would run as a formula with an apostrophe."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
