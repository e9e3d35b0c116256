"""The hostile class, graded once on each tier there is, beside the honest students alone."""

import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(
    str(Path(__file__).with_name("kit"))
)  # what these tests share; tests are no package

import hostile_class
import hostile_submissions
from hostile_runs import Run, a_root, grade

from grader.box.boxes import Boxes
from grader.box.tier import NoSandboxError, Tier
from grader.checks.core import load_lab
from grader.course import Course


@pytest.fixture(scope="session", params=list(Tier), ids=str)
def tier(request: pytest.FixtureRequest) -> Tier:
    """A tier this machine has; where bubblewrap is installed it must work."""
    wanted: Tier = request.param
    try:
        with Boxes(load_lab(hostile_class.LAB), wanted):
            return wanted
    except NoSandboxError as error:
        if wanted is Tier.BUBBLEWRAP and shutil.which("bwrap"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def clean(tier: Tier, course: Course) -> Iterator[Run]:
    """The honest students graded alone."""
    with a_root() as root:
        honest = hostile_class.honest_students()
        yield grade(hostile_class.build(course, root, [], honest, port=0), tier)


@pytest.fixture(scope="session")
def server() -> Iterator[socket.socket]:
    """Somebody on this machine who waits to be called and must not be."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="session")
def graded(tier: Tier, course: Course, server: socket.socket) -> Iterator[Run]:
    """The same honest students among all hostile ones."""
    submissions = [s for s in hostile_submissions.read_all() if tier not in s.spares]
    with a_root() as root:
        honest = hostile_class.honest_students()
        port = server.getsockname()[1]
        yield grade(hostile_class.build(course, root, submissions, honest, port), tier)
