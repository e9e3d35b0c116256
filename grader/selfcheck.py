"""What a learner asks in a terminal: do the checks of my notebook pass?"""

from collections.abc import Iterator

from grader.attempt import Attempt
from grader.box.boxes import Boxes
from grader.box.tier import NoSandboxError, Tier
from grader.checks.core import PUBLIC_SEED, Check, load_lab
from grader.course import Course
from grader.notebooks import read_notebook
from grader.results import Status
from grader.transplant import transplant


def available_tier(lab: str) -> Tier:
    """Bubblewrap where it works, else rlimits: a learner trusts their own code."""
    try:
        with Boxes(load_lab(lab), Tier.BUBBLEWRAP):
            return Tier.BUBBLEWRAP
    except NoSandboxError:
        return Tier.RLIMITS


def check(course: Course, lab: str, tier: Tier) -> Iterator[tuple[Check, Status, str]]:
    """Run the public checks of the notebook in `labs/` and yield each one's outcome."""
    definition = load_lab(lab)
    notebook = read_notebook(course.release(lab))
    with Boxes(definition, tier) as boxes:
        attempt = Attempt(boxes, transplant(notebook, notebook))
        try:
            for item in definition.checks:
                yield item, *attempt.verdict(item, PUBLIC_SEED)
        finally:
            attempt.close()
