"""All texts of one request, in the order in which their tokens come."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from labkit.inference.chooser import Choice
from labkit.inference.engine import Output
from labkit.serving.ticket import Job, Ticket
from labkit.serving.trace import Trace
from labkit.serving.worker import Worker


@dataclass(slots=True)
class Text:
    """One text as far as it has come.

    Attributes:
        pieces: What has become final.
        choices: Its tokens.
        finish_reason: At its end.
    """

    pieces: list[str] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def logprob(self) -> float:
        """Of all tokens, in nats; they must have been recorded."""
        return sum(choice.logprob or 0.0 for choice in self.choices)


class Texts:
    """A request's texts; leaving the block drops from the engine what has not ended.

    Args:
        worker: Of the engine.
        jobs: One a text.
        trace: Told of every token.
    """

    def __init__(self, worker: Worker, jobs: Sequence[Job], trace: Trace) -> None:
        self._worker, self._jobs, self._trace = worker, jobs, trace
        self._queue: asyncio.Queue[tuple[Ticket, Output | Exception]] = asyncio.Queue()
        self._tickets: dict[Ticket, int] = {}
        self.texts = [Text() for _ in jobs]

    async def __aenter__(self) -> "Texts":
        try:
            for index, job in enumerate(self._jobs):
                self._tickets[self._worker.submit(job, self._queue)] = index
            for ticket in self._tickets:
                await ticket.accepted
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what has not ended."""
        for ticket in self._tickets:
            ticket.close()

    async def outputs(self) -> AsyncIterator[tuple[int, Output]]:
        """Each output with its text's index, until all texts have ended.

        Raises:
            Exception: What ended one of the texts before its end.
        """
        open_texts = len(self._tickets)
        while open_texts:
            ticket, output = await self._queue.get()
            if isinstance(output, Exception):
                raise output
            index = self._tickets[ticket]
            self._record(index, ticket, output)
            open_texts -= output.finish_reason is not None
            yield index, output

    async def all(self) -> list[Text]:
        """The texts, when all have ended."""
        async for _ in self.outputs():
            pass
        return self.texts

    def _record(self, index: int, ticket: Ticket, output: Output) -> None:
        text = self.texts[index]
        if not text.choices and ticket.begun_s is not None:
            self._trace.begun(ticket.begun_s)
        self._trace.token(index)
        text.pieces.append(output.text)
        text.choices.append(output.choice)
        text.finish_reason = output.finish_reason
