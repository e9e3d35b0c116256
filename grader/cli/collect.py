"""`grader collect`."""

import argparse
import math
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from grader.course import Course
from grader.intake.layouts import LAYOUTS

if TYPE_CHECKING:
    from grader.intake.limits import Limits
    from grader.intake.options import Options

SUMMARY = "take in what students handed in"
EXAMPLE = "grader collect lab03_lora submissions.zip --from canvas --roster roster.csv"
DESCRIPTION = """\
Take submissions from a folder, zip, tar, tar.gz or tar.xz into submitted/, as Canvas, Moodle,
GitHub Classroom or nbgrader's exchange hand them out, or as student/LAB/LAB.ipynb.
What is unsafe or too large is refused, listed, and costs nobody else anything. Earlier
attempts are kept in attempts/; collecting the same again changes nothing."""
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("lab", help="its name, as in lab03_lora")
    parser.add_argument("source", type=Path, help="a folder or an archive")
    parser.add_argument(
        "--from", dest="layout", choices=LAYOUTS, default="auto", help="default: seen by names"
    )
    parser.add_argument(
        "--roster", type=Path, help="CSV with id and any of canvas_id, email, name, github"
    )
    parser.add_argument("--assignment", default="", help="its name in GitHub Classroom")
    parser.add_argument(
        "--received",
        type=datetime.fromisoformat,
        metavar="TIME",
        help="when all was received (not what Canvas marked late), as 2026-03-01T23:59:00+01:00; "
        "downloads from platforms carry the time of the download",
    )
    parser.add_argument(
        "--trust-names",
        action="store_true",
        help="of an exchange that was copied, take the times in the folders' names",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--max-file-mb", type=_mebibytes, help="larger files are refused")
    parser.add_argument(
        "--max-submission-mb", type=_mebibytes, help="of a submission's files together"
    )
    parser.add_argument("--max-total-mb", type=_mebibytes, help="of all submissions together")
    parser.add_argument("--max-files", type=int, help="files and folders of a submission")
    parser.add_argument(
        "--allow", action="append", default=[], metavar=".SUFFIX", help="take these files too"
    )


def run(course: Course, arguments: argparse.Namespace) -> int:
    from grader.intake.collection import collect
    from grader.intake.manifest import write_manifest
    from grader.intake.roster import Roster, read_roster
    from grader.intake.summary import summary

    roster = read_roster(arguments.roster) if arguments.roster else Roster()
    options = _options(arguments)
    manifest = collect(course, arguments.lab, arguments.source, roster, options)
    print(*summary(manifest), sep="\n")
    if options.dry_run:
        print("Nothing was changed: this was a dry run.")
    else:
        print(f"Manifest: {write_manifest(course, manifest).relative_to(course.root)}")
    if manifest.damage:
        print(f"Not everything could be read: {manifest.damage}.", file=sys.stderr)
    return 1 if manifest.damage else 0


def _options(arguments: argparse.Namespace) -> "Options":
    from grader.intake.options import Options

    if arguments.received is not None and arguments.received.tzinfo is None:
        raise ValueError(f"--received {arguments.received.isoformat()} needs its offset from UTC")
    return Options(
        layout=arguments.layout,
        assignment=arguments.assignment,
        received=arguments.received,
        trust_names=arguments.trust_names,
        dry_run=arguments.dry_run,
        limits=_limits(arguments),
    )


def _limits(arguments: argparse.Namespace) -> "Limits":
    from grader.intake.limits import Limits

    given = {
        "file_bytes": arguments.max_file_mb,
        "submission_bytes": arguments.max_submission_mb,
        "total_bytes": arguments.max_total_mb,
        "submission_files": arguments.max_files,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(Limits(**changed), suffixes=Limits().suffixes | set(arguments.allow))


def _mebibytes(text: str) -> int:
    size = float(text) * MIB
    if not 1 <= size < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of MiB above 0")
    return int(size)
