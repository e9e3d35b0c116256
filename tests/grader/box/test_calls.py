"""Calls from beside a student's code: one reply for each, whoever makes them, whatever they say."""

import copy
import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from grader.box import calls
from grader.box.calls import Caller, Kept
from grader.box.frames import MAX_FRAME_BYTES, WireError
from grader.box.wire import Channel, ClosedError, within
from grader.checks.outside import Outside


def double(value: Any) -> Any:
    if not isinstance(value, torch.Tensor | int):
        raise ValueError("expected a number")
    return 2 * value


KEPT = [Outside(double, 10), Outside(lambda: "x" * 5_000_000, 10)]


def call(place: Any = 0, *arguments: Any, **fields: Any) -> dict[str, Any]:
    message = {"event": "call", "id": 7, "function": place, "arguments": list(arguments)}
    return message | fields


def test_a_call_is_replied_to() -> None:
    kept = Kept(KEPT)
    assert kept.reply(call(0, 21)) == {"event": "reply", "id": 7, "error": "", "result": 42}
    assert kept.reply(call(0, "a"))["error"] == "expected a number"
    assert kept.reply(call(0, torch.zeros(11)))["error"].startswith("the arguments have 11 numbers")


@pytest.mark.parametrize(
    "message",
    [
        call(2, 1), call(-1, 1), call(True, 1), call("0", 1), call(None, 1),
        call(0, 1, arguments={"a": 1}), call(0, 1, id=None), {"event": "call"},
    ],
)  # fmt: skip
def test_a_call_of_what_was_not_handed_over_is_none(message: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        Kept(KEPT).reply(message)


def test_calls_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_CALLS", 2)
    kept = Kept(KEPT)
    errors = [kept.reply(call(0, 1))["error"] for _ in range(4)]
    assert errors == ["", "", *["more than 2 calls in one question"] * 2]


class Grader(threading.Thread):
    """Replies to calls until the other side is gone."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(daemon=True)
        self.channel, self.kept = channel, Kept(KEPT)

    def run(self) -> None:
        try:
            while True:
                self.channel.send(self.kept.reply(self.channel.receive(within(10.0))))
        except ClosedError:
            pass


@pytest.fixture
def caller() -> Iterator[Caller]:
    """The box's end, a grader at the other."""
    box_reads, we_write = os.pipe()
    we_read, box_writes = os.pipe()
    inside, grader = Channel(box_reads, box_writes), Grader(Channel(we_read, we_write))
    grader.start()
    made = Caller(inside)
    with made.question():
        yield made
    inside.close()
    grader.join()
    grader.channel.close()


def test_a_result_and_a_refusal_arrive(caller: Caller) -> None:
    assert torch.equal(caller.call(0, torch.arange(5)), 2 * torch.arange(5))
    with pytest.raises(ValueError, match=r"^expected a number$"):
        caller.call(0, [1])
    assert len(caller.call(1)) == 5_000_000  # more text than may come out of a box
    with pytest.raises(ValueError, match="bytes without arrays"):
        caller.call(0, "x" * 5_000_000)
    assert copy.deepcopy(partial(caller.call, 0))(3) == 6


def test_threads_that_call_at_once_get_their_own_results(caller: Caller) -> None:
    found: dict[int, list[int]] = {}

    def ask(start: int) -> None:
        found[start] = [caller.call(0, start + i) for i in range(40)]

    threads = [threading.Thread(target=ask, args=(1000 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1000 * n: [2 * (1000 * n + i) for i in range(40)] for n in range(8)}


def test_nobody_is_called_between_questions(caller: Caller) -> None:
    with caller.question():
        assert caller.call(0, 1) == 2
    with pytest.raises(ValueError, match="the question is over"):
        caller.call(0, 1)


def test_an_answer_waits_for_the_reply_to_a_call_that_was_made() -> None:
    """A thread that outlives its question does not read what is meant for the next."""
    box_reads, we_write = os.pipe()
    we_read, box_writes = os.pipe()
    inside, outside = Channel(box_reads, box_writes), Channel(we_read, we_write)
    caller, results = Caller(inside), []
    thread = threading.Thread(target=lambda: results.append(caller.call(0, 4)), daemon=True)
    with_call = threading.Event()

    def serve() -> None:
        with caller.question():
            thread.start()
            with_call.wait(10.0)
        inside.send({"event": "answer"})

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    message = outside.receive(within(10.0))
    with_call.set()
    with pytest.raises(TimeoutError):
        outside.receive(within(0.05))
    outside.send(Kept(KEPT).reply(message))
    assert outside.receive(within(10.0)) == {"event": "answer"}
    server.join()
    thread.join()
    assert results == [8]
    outside.send({"event": "question"})
    assert inside.receive(within(10.0), most_text=MAX_FRAME_BYTES) == {"event": "question"}
    inside.close()
    outside.close()
