"""Grading on several machines: jobs travel over Redis by Celery, one writer stays where it began.

A job holds a submission's cells and the seeds of its questions, no name and no key. A worker takes
one at a time for each of its threads and acknowledges it when it is done, so what a lost worker had
taken is given to another. Only the machine that started the grading writes to the gradebook.
"""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from grader.box.boxes import Boxes
from grader.box.tier import Limits, Tier
from grader.cache import environment
from grader.checks.core import load_lab
from grader.course import Course
from grader.grading import imported_by, versions
from grader.notebooks import read_notebook
from grader.questions import Job, answer
from grader.results import CellResult

TASK = "grader.answer"
POLL_S, RECONNECT_S = 0.05, 60.0
STARTING_S = 60.0
SENDINGS = 3
REDELIVERY_S = 600


def application(broker: str, *, redelivery_s: float = REDELIVERY_S) -> Celery:
    """The Celery application that both sides share.

    Args:
        broker: For example redis://host:6379/0; whoever can write there can have code run.
        redelivery_s: After this, a job whose worker was lost is given to another.
    """
    made = Celery("grader", broker=broker, backend=broker)
    made.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        result_expires=24 * 3600,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": redelivery_s},
    )
    return made


def code_of(course: Course, lab: str) -> str:
    """Hash of checks, reference, release and versions: equal where the same grades come out."""
    return environment(lab, course.release(lab), versions())


class Remote:
    """Has submissions' answers graded by workers; called from many threads."""

    def __init__(self, course: Course, lab: str, tier: Tier, broker: str) -> None:
        self._app = application(broker)
        self._order = {"tier": str(tier), "code": code_of(course, lab)}
        limits = Limits.of(load_lab(lab))
        self._patience_s = STARTING_S + 2 * limits.wall_s

    def __call__(self, job: Job) -> tuple[CellResult, ...]:
        """Send a job and wait for its result; sent again when broker or worker lost it.

        Raises:
            OSError: No worker answered, or one that has other checks or versions.
        """
        name = str(uuid.uuid4())
        for _ in range(SENDINGS):
            self._patiently(lambda: self._send(name, job))
            cells = self._wait(AsyncResult(name, app=self._app))
            if cells is not None:
                return cells
        raise OSError(
            f"no worker graded a submission of {job.lab} within {SENDINGS} times "
            f"{self._patience_s:g} s: is `grader worker` running with the same --broker?"
        )

    def _send(self, name: str, job: Job) -> None:
        self._app.send_task(TASK, [self._order, job.to_json()], task_id=name)

    def _wait(self, result: AsyncResult) -> tuple[CellResult, ...] | None:
        """The result; None when it may be lost: waited for long enough, or the broker was away."""
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            try:
                meta = result.backend.get_task_meta(result.id, cache=False)
            except (OSError, OperationalError, RedisError):
                return None
            if meta["status"] == "SUCCESS":
                return tuple(CellResult.from_json(cell) for cell in meta["result"])
            if meta["status"] == "FAILURE":
                raise OSError(str(meta["result"]))
            time.sleep(POLL_S)
        return None

    def _patiently(self, send: Callable[[], None]) -> None:
        """Try until the broker is back."""
        deadline = time.monotonic() + RECONNECT_S
        while True:
            try:
                return send()
            except (OSError, OperationalError, RedisError) as error:
                if time.monotonic() > deadline:
                    raise OSError(f"the broker cannot be reached: {error}") from None
                time.sleep(1.0)


class Worker:
    """Grades jobs with boxes of its own, which stay for the labs that were asked for."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._boxes: dict[tuple[str, str], Boxes] = {}
        self._lock = threading.Lock()

    def answer(self, order: dict[str, str], fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Grade one job; plain data in and out."""
        job = Job.from_json(fields)
        if order["code"] != code_of(self._course, job.lab):
            raise ValueError(
                f"a worker has other checks, another release or other package versions of "
                f"{job.lab} than the machine that sent it: bring both to the same commit and "
                "constraints.txt"
            )
        return [asdict(cell) for cell in answer(self._held(job.lab, Tier(order["tier"])), job)]

    def _held(self, lab: str, tier: Tier) -> Boxes:
        with self._lock:
            key = (lab, str(tier))
            if key not in self._boxes:
                imports = imported_by(read_notebook(self._course.release(lab)))
                self._boxes[key] = Boxes(load_lab(lab), tier, imports=imports).__enter__()
            return self._boxes[key]

    def close(self) -> None:
        """End all boxes."""
        for boxes in self._boxes.values():
            boxes.__exit__(None, None, None)
        self._boxes.clear()


def work(course: Course, broker: str, jobs: int, *, redelivery_s: float = REDELIVERY_S) -> None:
    """Serve a broker with so many threads until interrupted."""
    app, worker = application(broker, redelivery_s=redelivery_s), Worker(course)
    app.task(worker.answer, name=TASK)
    options = ["--pool", "threads", "--concurrency", str(jobs), "--without-gossip"]
    try:
        app.worker_main(["worker", *options, "--without-mingle", "--loglevel", "WARNING"])
    finally:
        worker.close()
