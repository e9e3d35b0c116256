"""Calls out of a box: of functions that stay with the grader, one at a time, while a question runs.

`Caller` is in the box, beside the student's code, and `Kept` outside. What comes from a box is
believed in nothing; what a function returns is all that goes back.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from grader.box.frames import MAX_FRAME_BYTES, MAX_TEXT_BYTES, WireError
from grader.box.wire import Channel
from grader.checks.outside import Outside

MOST_CALLS = 10_000
SHOWN_CHARACTERS = 300


class Kept:
    """The functions of one question, called for the box that was asked it."""

    def __init__(self, functions: Sequence[Outside]) -> None:
        self._functions, self._calls = functions, 0

    def reply(self, message: dict[str, Any]) -> dict[str, Any]:
        """Make the call that a box asks for.

        Raises:
            WireError: The message is no call of a function that was handed over.
        """
        place, arguments = message.get("function"), message.get("arguments")
        if type(place) is not int or not 0 <= place < len(self._functions):
            raise WireError("a call of a function that was not handed over")
        if type(arguments) is not list or type(message.get("id")) is not int:
            raise WireError("a call that is none")
        self._calls += 1
        reply = {"event": "reply", "id": message["id"], "error": "", "result": None}
        try:
            return reply | {"result": self._called(place, arguments)}
        except ValueError as error:
            return reply | {"error": str(error)[:SHOWN_CHARACTERS] or "it raised ValueError"}

    def _called(self, place: int, arguments: list[Any]) -> Any:
        if self._calls > MOST_CALLS:
            raise ValueError(f"more than {MOST_CALLS} calls in one question")
        return self._functions[place](*arguments)


class Caller:
    """Asks the grader to call functions; for one thread of the student's after another."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._lock = channel, threading.Lock()
        self._calls, self._asked = 0, False

    @contextmanager
    def question(self) -> Iterator[None]:
        """Take calls inside, and none once it is left: the channel is the answer's then."""
        self._asked = True
        try:
            yield
        finally:
            with self._lock:
                self._asked = False

    def call(self, place: int, *arguments: Any) -> Any:
        """The result of the function at this place of the question's.

        Raises:
            ValueError: What the function has to say of its arguments, or nobody waits for a call.
        """
        with self._lock:
            if not self._asked:
                raise ValueError("the question is over: its functions can no longer be called")
            self._calls += 1
            message = {"event": "call", "id": self._calls, "function": place}
            self._channel.send(message | {"arguments": list(arguments)}, most_text=MAX_TEXT_BYTES)
            reply = self._channel.receive(most_text=MAX_FRAME_BYTES)
            if reply.get("id") != self._calls:
                raise WireError("a reply to another call")
        if reply["error"]:
            raise ValueError(reply["error"])
        return reply["result"]

    def __deepcopy__(self, memo: object) -> "Caller":
        """A copy of an object that has such a function calls the same one."""
        return self
