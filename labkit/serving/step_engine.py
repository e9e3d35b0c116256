"""What a worker asks of an engine: our `Engine`, and anything else that advances by steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from labkit.inference.constraint import Constraint
from labkit.inference.engine import Output
from labkit.inference.sampling import SamplingConfig


@runtime_checkable
class StepEngine(Protocol):
    """Requests come and go between steps; one thread calls it."""

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        ...

    @property
    def running(self) -> list[int]:
        """Numbers of the requests that the next step may run."""
        ...

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
        """Queue a prompt; its number."""
        ...

    def step(self) -> list[Output]:
        """Run one step."""
        ...

    def abort(self, key: int) -> None:
        """End a request at once; unknown ones are ignored."""
        ...

    def check_integrity(self) -> None:
        """Raise AssertionError where the engine's state contradicts itself."""
        ...


@dataclass(slots=True)
class Load:
    """How busy an engine is, as far as it tells.

    Attributes:
        running: requests in the batch.
        waiting: requests that are not.
        pages_used: of the KV cache.
        pages: of the KV cache, in all.
        preemptions: since the start.
        cached_tokens: prompt tokens found in the prefix cache, since the start.
        adapters: requests under way by mounted adapter's name with its version.
        broken: nothing can be generated any more.
    """

    running: int = 0
    waiting: int = 0
    pages_used: int = 0
    pages: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    adapters: dict[str, int] = field(default_factory=dict)
    broken: bool = False
