"""The engine's thread: outputs arrive, leaving frees, a failed step fails nobody else."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from labkit.inference.chooser import Choice
from labkit.inference.constraint import Constraint
from labkit.inference.engine import Output
from labkit.inference.sampling import SamplingConfig
from labkit.serving.errors import ApiError
from labkit.serving.metrics import Metrics
from labkit.serving.texts import Texts
from labkit.serving.ticket import Job
from labkit.serving.trace import Trace
from labkit.serving.worker import Worker

CONFIG = SamplingConfig(max_new_tokens=5)


class Counting:
    """An engine that answers 1, 2, 3, … up to a request's `max_new_tokens`, two at a time."""

    def __init__(self) -> None:
        self.sequences: dict[int, tuple[SamplingConfig, int]] = {}
        self.added = 0
        self.before_step: Callable[[], None] = lambda: None
        self.unsound = False
        self.threads: set[int] = set()

    @property
    def unfinished(self) -> int:
        return len(self.sequences)

    @property
    def running(self) -> list[int]:
        return list(self.sequences)[:2]

    def add_request(
        self,
        prompt: str | Sequence[int],
        config: SamplingConfig,
        *,
        adapter: str | None = None,
        priority: int = 0,
        client: str = "",
        constraint: Constraint | None = None,
    ) -> int:
        self.threads.add(threading.get_ident())
        if not prompt:
            raise ValueError("the prompt is empty")
        self.added += 1
        self.sequences[self.added] = (config, 0)
        return self.added

    def step(self) -> list[Output]:
        self.threads.add(threading.get_ident())
        self.before_step()
        outputs = []
        for key in self.running:
            config, count = self.sequences[key]
            count += 1
            self.sequences[key] = (config, count)
            reason = "length" if count == config.max_new_tokens else None
            if reason:
                del self.sequences[key]
            outputs.append(Output(key=key, text="x", choice=Choice(count), finish_reason=reason))
        return outputs

    def abort(self, key: int) -> None:
        self.sequences.pop(key, None)

    def check_integrity(self) -> None:
        assert not self.unsound, "pages leaked"


def run(test: Callable[[Worker], object]) -> Counting:
    """Run a test's coroutine with a worker that is closed afterwards."""

    async def main() -> Counting:
        engine, loop = Counting(), asyncio.get_running_loop()

        def keep_pace() -> None:  # a step takes no time: let the loop see each one
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

        engine.before_step = keep_pace
        worker = Worker(engine)
        worker.start()
        try:
            await test(worker)
        finally:
            await worker.close()
        assert not worker._tickets
        assert not worker._keys
        assert not worker._queued
        return engine

    return asyncio.run(main())


def texts(worker: Worker, *jobs: Job) -> Texts:
    return Texts(worker, jobs or [Job(prompt=[1], config=CONFIG)], Trace(Metrics(), "/test"))


def test_outputs_come_in_order_and_the_engine_has_one_thread():
    async def test(worker):
        async def one():
            async with texts(worker, *[Job(prompt=[1], config=CONFIG)] * 3) as under_way:
                return await under_way.all()

        for found in await asyncio.gather(*(one() for _ in range(7))):
            assert [[c.token for c in text.choices] for text in found] == [[1, 2, 3, 4, 5]] * 3
            assert [text.finish_reason for text in found] == ["length"] * 3

    engine = run(test)
    assert engine.added == 21
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


def test_an_unfit_request_is_told_to_its_task_alone():
    async def test(worker):
        with pytest.raises(ValueError, match="empty"):
            async with texts(worker, Job(prompt=[1], config=CONFIG), Job(prompt=[], config=CONFIG)):
                pass
        async with texts(worker) as under_way:
            assert len((await under_way.all())[0].choices) == 5

    assert not run(test).sequences


def test_a_grammar_that_cannot_be_made_is_told_too():
    def refuse() -> Constraint:
        raise RecursionError

    async def test(worker):
        with pytest.raises(RecursionError):
            async with texts(worker, Job(prompt=[1], config=CONFIG, constraint=refuse)):
                pass

    run(test)


def test_leaving_early_aborts_in_the_engine():
    async def test(worker):
        endless = Job(prompt=[1], config=SamplingConfig(max_new_tokens=10**9))
        async with texts(worker, endless) as under_way:
            async for _ in under_way.outputs():
                break
        await worker.call(lambda: None)  # what was posted before has been done
        await worker.call(lambda: None)
        assert worker.engine.unfinished == 0

    run(test)


def test_a_cancelled_task_aborts_in_the_engine():
    async def test(worker):
        async def forever():
            endless = Job(prompt=[1], config=SamplingConfig(max_new_tokens=10**9))
            async with texts(worker, endless) as under_way:
                await under_way.all()

        task = asyncio.create_task(forever())
        while not worker.engine.unfinished:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await worker.call(lambda: None)
        await worker.call(lambda: None)
        assert worker.engine.unfinished == 0

    run(test)


def test_a_step_that_raises_fails_its_own_requests_and_no_others():
    async def test(worker):
        raised = []

        def fail_once() -> None:
            if worker.engine.unfinished == 4 and not raised:
                raised.append(1)
                raise RuntimeError("a kernel failed")

        worker.engine.before_step = fail_once
        gate = threading.Event()
        holding = asyncio.create_task(worker.call(gate.wait))  # no step before all four are there
        tasks = [asyncio.create_task(finish(texts(worker))) for _ in range(4)]
        await asyncio.sleep(0.05)
        gate.set()
        await holding
        results = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [error for error in results if isinstance(error, ApiError)]
        assert [error.code for error in failed] == ["generation_failed"] * 2
        assert "RuntimeError" in failed[0].message
        assert [len(r[0].choices) for r in results if not isinstance(r, ApiError)] == [5, 5]
        assert worker.failed_steps == 1
        assert worker.alive

    run(test)


async def finish(under_way: Texts):
    async with under_way:
        return await under_way.all()


def test_an_engine_that_is_not_sound_serves_no_more():
    async def test(worker):
        def fail() -> None:
            raise RuntimeError("a kernel failed")

        worker.engine.before_step, worker.engine.unsound = fail, True
        with pytest.raises(ApiError) as caught:
            await finish(texts(worker))
        assert caught.value.status in (500, 503)
        while worker.alive:
            await asyncio.sleep(0)
        with pytest.raises(ApiError, match="not sound: pages leaked"):
            await finish(texts(worker))

    run(test)


def test_calls_run_between_steps_and_hand_on_what_happens():
    async def test(worker):
        assert await worker.call(lambda: 7) == 7
        assert await worker.call(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 // 0)

    run(test)


def test_closing_fails_what_is_under_way_and_what_comes_later():
    async def test(worker):
        endless = Job(prompt=[1], config=SamplingConfig(max_new_tokens=10**9))
        task = asyncio.create_task(finish(texts(worker, endless)))
        while not worker.engine.unfinished:
            await asyncio.sleep(0)
        await worker.close()
        with pytest.raises(ApiError, match="shutting down"):
            await task
        with pytest.raises(ApiError, match="shutting down"):
            await worker.call(lambda: None)

    assert not run(test).sequences


def test_a_call_that_waits_when_the_worker_closes_is_told():
    async def test(worker):
        gate = threading.Event()
        first = asyncio.create_task(worker.call(gate.wait))
        second = asyncio.create_task(worker.call(lambda: None))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(worker.close())
        await asyncio.sleep(0.01)
        gate.set()
        await closing
        assert await first
        with pytest.raises(ApiError, match="shutting down"):
            await second

    run(test)
