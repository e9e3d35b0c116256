"""Submissions graded per minute by this grader, by nbgrader, and by otter-grader uncontained.

The class is 100 made-up honest students of lab 03 whose answers all differ (right, half, wrong,
blank, by turns), so that no result comes from the cache. The notebooks end before the lab's final
part: it trains SmolLM2, which nbgrader and otter would repeat for every student, and this grader
leaves out. Every round grades the whole class here, and a sample of it by each peer; quality gate:
the sample's scores are equal question by question.

otter-grader needs an environment of its own: python scripts/otter_env.py
Run on an idle machine: python -m benchmarks.grading
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import otter_peer
from benchmarks.peers import RESULTS
from grader import sample_class
from grader.course import Course, add_tools_to_path, find_course
from grader.grading.autograde import autograde
from grader.notebooks import Notebook, grade_id, is_solution, read_notebook, write_notebook
from grader.release.generate import release
from grader.results import Result
from labkit.runtime.records import Record, append_record

LAB = "lab03_lora"
CLASS, SAMPLE, ROUNDS, LARGE_CLASS = 100, 5, 3, 1000
WRONG = (
    "def lora_delta(lora_A, lora_B, alpha, use_rslora=False):\n    return alpha * lora_B @ lora_A"
)
KINDS = ("ada-perfect", "ben-half", "hal-wrong", "cem-untouched")


def without_final_part(notebook: Notebook) -> Notebook:
    """The title, set-up and exercises of a lab's notebook."""
    last = max(i for i, cell in enumerate(notebook["cells"]) if grade_id(cell))
    return {**notebook, "cells": notebook["cells"][: last + 1]}


def make_course(folder: Path) -> Course:
    """A released course of one lab in an empty folder."""
    real, made = find_course(Path(__file__).parent), Course(root=folder)
    shutil.copy(real.root / "nbgrader_config.py", folder)
    shutil.copytree(real.source(LAB).parent, made.source(LAB).parent)
    write_notebook(made.source(LAB), without_final_part(read_notebook(real.source(LAB))))
    release(made, LAB)
    return made


def submit(course: Course, count: int) -> list[str]:
    """Hand in so many notebooks, no two with the same answers; returns the students."""
    samples = {s.student: s.notebook for s in sample_class.samples(course, LAB)}
    students = []
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        notebook = json.loads(json.dumps(samples.get(kind, samples["ada-perfect"])))
        for cell in notebook["cells"]:
            if is_solution(cell):
                wrong = kind == "hal-wrong" and grade_id(cell) == "lora_delta"
                text = WRONG if wrong else "".join(cell["source"])
                cell["source"] = f"{text}\n# written by student {index}"
        students.append(f"s{index:04}")
        write_notebook(course.submitted(LAB, students[-1]), notebook)
    return students


def grade_here(course: Course) -> tuple[float, dict[str, Result]]:
    """Seconds for the whole class, start-up included, and the results."""
    started = time.monotonic()
    results = {result.student: result for result in autograde(course, LAB, fresh=True)}
    return time.monotonic() - started, results


def grade_by_nbgrader(course: Course, students: list[str], folder: Path) -> float:
    """Seconds of one `nbgrader autograde` over the students, in a copy of the course."""
    copy = folder / "nbgrader"
    if not copy.exists():
        for name in ("solutions", "labs"):
            shutil.copytree(course.root / name, copy / name)
        shutil.copy(course.root / "nbgrader_config.py", copy)
        release(Course(root=copy), LAB)
    shutil.rmtree(copy / "submitted", ignore_errors=True)
    for student in students:
        target = Course(root=copy).submitted(LAB, student)
        write_notebook(target, read_notebook(course.submitted(LAB, student)))
    command = [sys.executable, "-m", "nbgrader", "autograde", LAB, "--force"]
    started = time.monotonic()
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    return time.monotonic() - started


def scores_of(course: Course, students: list[str]) -> dict[str, float]:
    """The students' scores in a course's gradebook."""
    from grader.gradebook.opening import opened

    with opened(course) as gradebook:
        return {name: gradebook.find_submission(LAB, name).score for name in students}


def peak_bytes_of_large_class(count: int) -> tuple[float, int]:
    """Seconds for a class of `count`, and the grading process's own largest resident size."""
    code = f"from benchmarks.grading import grade_large; grade_large({count})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def grade_large(count: int) -> None:
    """Make and grade a class, keeping no result; print seconds and peak bytes."""
    with tempfile.TemporaryDirectory() as folder:
        course = make_course(Path(folder))
        submit(course, count)
        started = time.monotonic()
        graded = sum(1 for _ in autograde(course, LAB, fresh=True))
        seconds = time.monotonic() - started
    assert graded == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([round(seconds, 1), peak]))


def write(peer: str, here: list[float], theirs: list[float], gate: str) -> None:
    """Record how many times the peer's submissions per minute ours are, round by round."""
    ratios = [(CLASS / ours) / (SAMPLE / other) for ours, other in zip(here, theirs, strict=True)]
    rates = {
        "labkit": round(60 * CLASS / statistics.median(here), 1),
        "peer": round(60 * SAMPLE / statistics.median(theirs), 1),
    }
    record = Record(
        metric="grading",
        value=round(statistics.median(ratios), 2),
        unit="times the peer",
        spread=round((max(ratios) - min(ratios)) / 2, 2),
        command="python -m benchmarks.grading",
        extra={
            "setting": f"{LAB}, {CLASS} submissions",
            "peer": peer,
            "rates": rates,
            "rate_unit": "submissions/min",
            "rounds": ROUNDS,
            "sample": SAMPLE,
            "gate": gate,
        },
    )
    append_record(RESULTS / "grading.jsonl", record)
    print(f"{peer}: {record.value} ± {record.spread}, {rates}")


def main() -> None:
    from importlib.metadata import version

    os.environ["OMP_NUM_THREADS"] = "1"
    add_tools_to_path()
    here: list[float] = []
    nbgrader: list[float] = []
    otter: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "course").mkdir()
        course = make_course(folder / "course")
        students = submit(course, CLASS)
        sample = students[:SAMPLE]
        otter_zip = otter_peer.make(course, LAB, folder)
        for _ in range(ROUNDS):
            seconds, results = grade_here(course)
            here.append(seconds)
            nbgrader.append(grade_by_nbgrader(course, sample, folder))
            seconds, otter_scores = otter_peer.grade(course, LAB, sample, otter_zip, folder)
            otter.append(seconds)
        ours = {student: results[student].score for student in sample}
        theirs = scores_of(Course(root=folder / "nbgrader"), sample)
    if ours != theirs or ours != otter_scores:
        raise SystemExit(f"scores differ: {ours}, nbgrader {theirs}, otter {otter_scores}")
    gate = f"scores of the {SAMPLE} students are equal"
    write(f"nbgrader {version('nbgrader')}", here, nbgrader, gate)
    write(f"otter-grader {otter_peer.VERSION}, no container", here, otter, gate)
    seconds, peak = peak_bytes_of_large_class(LARGE_CLASS)
    record = Record(
        metric="grading_memory",
        value=round(peak / 2**20, 1),
        unit="MiB",
        command="python -m benchmarks.grading",
        extra={"setting": f"{LAB}, {LARGE_CLASS} submissions", "seconds": seconds},
    )
    append_record(RESULTS / "grading_memory.jsonl", record)
    print(f"{LARGE_CLASS} submissions: {seconds} s, grader's own peak {record.value} MiB")


if __name__ == "__main__":
    main()
