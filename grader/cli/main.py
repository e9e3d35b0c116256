"""`grader COMMAND …`: find the course, run the command, say what was wrong in one sentence.

Commands import what they need when they run, so that `--help` is instant.
"""

import os
import sys
from collections.abc import Sequence

from grader.cli import (
    autograde,
    check,
    collect,
    export,
    feedback,
    mutants,
    progress,
    regrade,
    release,
    run,
    sample_class,
    similarity,
    student_repo,
    worker,
)
from grader.cli.command_line import build_parser, execute

COMMANDS = (
    release,
    mutants,
    student_repo,
    check,
    progress,
    sample_class,
    collect,
    autograde,
    worker,
    regrade,
    feedback,
    similarity,
    export,
    run,
)
EXAMPLES = """\
examples:
  grader release lab03_lora          make labs/lab03_lora from the solved notebook
  grader mutants lab03_lora          grade known-wrong answers, which every check must find
  grader student-repo ../llm-lab     write the repository that learners get
  grader check lab03_lora            check your own notebook
  grader progress                    which exercises pass, and the minutes left
  grader sample-class lab03_lora     six made-up submissions to try grading on
  grader collect lab03_lora all.zip  take in what Canvas, Moodle, GitHub handed out
  grader autograde lab03_lora        grade everybody's submission in a sandbox
  grader regrade lab03_lora --all-changed  grade again where checks changed, keep the old
  grader worker --broker redis://host:6379/0  grade for other machines
  grader feedback lab03_lora         a page for every student, a report of the class
  grader similarity lab03_lora       which submissions share code
  grader export lab03_lora           scores as CSV and JSON
  grader run --scale smoke --jobs 2  execute all lectures and solved labs
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one sentence on stderr and exit status 2."""
    arguments = build_parser(COMMANDS, EXAMPLES).parse_args(argv)
    if arguments.run is not run.run:  # boxes run side by side; notebooks may use every core
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    return execute(arguments)


if __name__ == "__main__":
    sys.exit(main())
