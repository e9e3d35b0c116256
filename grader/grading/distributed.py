"""Grading on several machines: jobs travel over Redis by Celery, one writer stays where it began.

A job holds a submission's cells and the seeds of its questions, no name and no key. While a worker
grades it, it says so every few seconds; when nothing is heard of a job, because broker or worker
were lost, it is sent again under the same name. Only the machine that started the grading writes
to the gradebook, so no submission is in it twice.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from celery import Celery, Task
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from grader.box.boxes import Boxes
from grader.box.tier import Tier
from grader.checks.core import load_lab
from grader.course import Course
from grader.grading.cache import environment
from grader.grading.questions import Job, answer
from grader.grading.submission import boxes_for, versions
from grader.results import CellResult

AWAY = (OSError, OperationalError, RedisError)
TASK = "grader.answer"
POLL_S = 0.05
BEAT_S = 2.0  # a worker says so often that a job is still being graded
LOST_S = 8.0  # after this silence a job is sent again, then after twice the time, and so on
GIVE_UP_S = 600.0


def application(broker: str) -> Celery:
    """The Celery application that both sides share.

    Args:
        broker: For example redis://host:6379/0; whoever can write there can have code run.
    """
    made = Celery("grader", broker=broker, backend=broker)
    made.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        result_expires=24 * 3600,
        broker_connection_retry_on_startup=True,
    )
    return made


def _alive(name: str) -> str:
    """The key that stands while a job is being graded."""
    return f"grader-alive-{name}"


def code_of(course: Course, lab: str) -> str:
    """Hash of checks, reference, release and versions: equal where the same grades come out."""
    return environment(lab, course.release(lab), versions())


class Remote:
    """Has submissions' answers graded by workers; called from many threads."""

    def __init__(self, course: Course, lab: str, tier: Tier, broker: str) -> None:
        self._app = application(broker)
        self._order = {"tier": str(tier), "code": code_of(course, lab)}

    def __call__(self, job: Job) -> tuple[CellResult, ...]:
        """Send a job and wait for its result; sent again when broker or worker lost it.

        Raises:
            OSError: Nothing was heard of it for GIVE_UP_S, or a worker has other checks.
        """
        name, pause = str(uuid.uuid4()), LOST_S
        heard = sent = time.monotonic()
        self._send(name, job)
        while True:
            time.sleep(POLL_S)
            cells, alive = self._look(name)
            if cells is not None:
                return cells
            now = time.monotonic()
            if alive:
                heard, pause = now, LOST_S
            if now - heard > GIVE_UP_S:
                raise OSError(
                    f"no worker graded a submission of {job.lab} for {GIVE_UP_S:g} s: is "
                    "`grader worker` running with the same --broker?"
                )
            if now - max(heard, sent) > pause:
                self._send(name, job)
                sent, pause = now, 2 * pause

    def _send(self, name: str, job: Job) -> None:
        with suppress(*AWAY):
            self._app.send_task(TASK, [self._order, job.to_json()], task_id=name, retry=False)

    def _look(self, name: str) -> tuple[tuple[CellResult, ...] | None, bool]:
        """The result if there is one, and whether some worker is at it."""
        backend = self._app.backend
        try:
            meta = backend.get_task_meta(name, cache=False)
            alive = bool(backend.client.exists(_alive(name)))
        except AWAY:
            return None, False
        if meta["status"] == "FAILURE":
            raise OSError(str(meta["result"]))
        if meta["status"] == "SUCCESS":
            return tuple(CellResult.from_json(cell) for cell in meta["result"]), alive
        return None, alive


class Worker:
    """Grades jobs with boxes of its own, which stay for the labs that were asked for."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._boxes: dict[tuple[str, str], Boxes] = {}
        self._lock = threading.Lock()

    def answer(
        self, task: Task, order: dict[str, str], fields: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Grade one job; plain data in and out. A copy of one that is done costs nothing."""
        done = task.backend.get_task_meta(task.request.id, cache=False)
        if done["status"] == "SUCCESS":
            return list(done["result"])
        job = Job.from_json(fields)
        if order["code"] != code_of(self._course, job.lab):
            raise ValueError(
                f"a worker has other checks, another release or other package versions of "
                f"{job.lab} than the machine that sent it: bring both to the same commit and "
                "constraints.txt"
            )
        with _heartbeat(task):
            boxes = self._held(job.lab, Tier(order["tier"]))
            return [asdict(cell) for cell in answer(boxes, job)]

    def _held(self, lab: str, tier: Tier) -> Boxes:
        with self._lock:
            key = (lab, str(tier))
            if key not in self._boxes:
                self._boxes[key] = boxes_for(self._course, load_lab(lab), tier).__enter__()
            return self._boxes[key]

    def close(self) -> None:
        """End all boxes."""
        for boxes in self._boxes.values():
            boxes.__exit__(None, None, None)
        self._boxes.clear()


@contextmanager
def _heartbeat(task: Task) -> Iterator[None]:
    """Let the sender know that a job is being graded, until it is."""
    client, over = task.backend.client, threading.Event()

    def beat() -> None:
        while True:
            with suppress(*AWAY):
                client.set(_alive(task.request.id), 1, px=int(2000 * BEAT_S))
            if over.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def work(course: Course, broker: str, jobs: int) -> None:
    """Serve a broker with so many threads until interrupted."""
    app, worker = application(broker), Worker(course)

    def grade(task: Task, order: dict[str, str], fields: dict[str, Any]) -> list[dict[str, Any]]:
        return worker.answer(task, order, fields)

    app.task(name=TASK, bind=True)(grade)
    options = ["--pool", "threads", "--concurrency", str(jobs), "--without-gossip"]
    try:
        app.worker_main(["worker", *options, "--without-mingle", "--loglevel", "WARNING"])
    finally:
        worker.close()
