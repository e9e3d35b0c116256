"""`grader student-repo`."""

import argparse
from pathlib import Path

from grader.course import Course

SUMMARY = "write the repository that learners get, without answers"
EXAMPLE = "grader student-repo ../llm-lab-for-learners"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="?", help="new, empty, or an earlier one")
    parser.add_argument(
        "--link",
        nargs=2,
        metavar=("HUB", "REPOSITORY"),
        help="print the link that opens a published repository on a JupyterHub",
    )
    parser.add_argument("--branch", default="main", help="of the published repository")


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.release import student_repo

    if arguments.folder is None and arguments.link is None:
        raise ValueError("name a folder to write to, or --link HUB REPOSITORY")
    if arguments.folder is not None:
        changes = student_repo.write(course, arguments.folder)
        print(
            f"{arguments.folder}: {len(changes.written)} files written, {changes.unchanged} "
            f"unchanged, {len(changes.removed)} removed"
        )
    if arguments.link is not None:
        hub, repository = arguments.link
        print(student_repo.hub_link(hub, repository, arguments.branch))
    return 0
